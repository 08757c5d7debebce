//! Tests that a machine cannot run.

/// Returns whether a test that cannot run is a failure: `CI` is `true` or `1`, or
/// `PREWARMER_TEST_STRICT` is `1`. `tests/environment.sh` has the same rule.
fn is_strict() -> bool {
    let is = |name: &str, values: &[&str]| {
        std::env::var(name).is_ok_and(|value| values.contains(&value.as_str()))
    };
    is("CI", &["true", "1"]) || is("PREWARMER_TEST_STRICT", &["1"])
}

/// Reports a test that this machine cannot run; `why` names what to install. Panics in strict mode.
pub fn not_run(test: &str, why: &str) {
    eprintln!("NOT RUN: {test}: {why}");
    assert!(
        !is_strict(),
        "{test}: a test that cannot run is a failure, because CI=true or PREWARMER_TEST_STRICT=1 is set: {why}"
    );
}
