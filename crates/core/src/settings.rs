//! Checks of settings: flags and environment variables, which arrive as text. All problems are
//! collected and reported at once. Each names the setting, the value and what is expected.

mod value;

use std::{fmt, net::SocketAddr, str::FromStr, time::Duration};

use ipnet::IpNet;

pub use self::value::{BOOLEAN, Choice, Number, Setting, Span, Text, ValueError, ValueType};
use crate::{comma_separated, dns};

/// Default namespace of an installation.
pub const DEFAULT_NAMESPACE: &str = "prewarmer";
/// Longest name of an object that longer names begin with, in bytes.
pub const MAX_NAME_STEM: usize = 50;

/// Invalid settings: one problem for each, at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsError(pub Vec<String>);

impl fmt::Display for SettingsError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} invalid setting(s):", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(formatter, "\n  {problem}"))
    }
}

impl std::error::Error for SettingsError {}

/// Parser of settings that collects every problem. Its methods return a placeholder for an invalid
/// value, which [`Self::finish`] discards. A setting is named as `--flag (VARIABLE)`.
#[derive(Debug, Default)]
pub struct SettingsChecker {
    problems: Vec<String>,
}

impl SettingsChecker {
    /// Adds a problem with a single value.
    pub fn problem(&mut self, setting: &str, value: &str, expected: &(impl fmt::Display + ?Sized)) {
        self.report(format!("{setting}: {value:?}: {expected}"));
    }

    /// Adds a problem with the value of a setting.
    pub fn invalid<T>(&mut self, setting: &Setting<T>, expected: &(impl fmt::Display + ?Sized)) {
        self.problem(&setting.name, &setting.text, expected);
    }

    /// Adds a problem that concerns several settings, or none in particular.
    pub fn report(&mut self, problem: impl Into<String>) {
        self.problems.push(problem.into());
    }

    /// Returns the settings if there is no problem, otherwise all problems.
    pub fn finish<T>(self, settings: T) -> Result<T, SettingsError> {
        if self.problems.is_empty() { Ok(settings) } else { Err(SettingsError(self.problems)) }
    }

    /// Checks a name of an object, which longer names begin with: a DNS label of at most
    /// [`MAX_NAME_STEM`] bytes.
    pub fn dns_label(&mut self, setting: &str, value: &str) {
        if value.len() > MAX_NAME_STEM || !dns::is_label(value) {
            let expected =
                format!("expected at most {MAX_NAME_STEM} lower-case letters, digits and dashes");
            self.problem(setting, value, &expected);
        }
    }

    /// Parses an address and a port.
    pub fn address(&mut self, setting: &str, value: &str) -> SocketAddr {
        value.parse().unwrap_or_else(|_| {
            self.problem(setting, value, "expected an address and a port, such as 0.0.0.0:8443");
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    /// Parses the value of a setting by its type.
    pub fn value<T: ValueType>(&mut self, setting: &Setting<T>) -> T::Value {
        setting.value_type.parse(&setting.text).unwrap_or_else(|expected| {
            self.invalid(setting, &expected);
            setting.value_type.placeholder()
        })
    }

    /// Parses a text whose type is not one of [`ValueType`]. Returns none for an invalid text.
    pub fn parsed<T: FromStr<Err: fmt::Display>>(&mut self, setting: &Setting<Text>) -> Option<T> {
        setting.text.parse().map_err(|expected| self.invalid(setting, &expected)).ok()
    }

    /// Parses networks separated by commas.
    pub fn networks(&mut self, setting: &Setting<Text>) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for text in comma_separated(&setting.text) {
            match text.parse() {
                Ok(network) => networks.push(network),
                Err(_) => {
                    self.problem(&setting.name, text, "expected a network such as 10.0.0.0/8");
                }
            }
        }
        networks
    }

    /// Parses a duration of at most `most`, of an argument that is no setting of the server.
    pub fn duration(&mut self, argument: &str, value: &str, most: Duration) -> Duration {
        let (name, text) = (argument.to_owned(), value.to_owned());
        self.value(&Setting { name, text, value_type: Span::up_to(most) })
    }
}

/// Splits a comma-separated list.
#[must_use]
pub fn split_list(text: &str) -> Vec<String> {
    comma_separated(text).map(str::to_owned).collect()
}

/// Returns the name of an installation's objects, which is also the prefix of longer names:
/// `prewarmer` or `prewarmer-SUFFIX`.
#[must_use]
pub fn object_name(instance: Option<&str>) -> String {
    instance.map_or_else(|| "prewarmer".into(), |suffix| format!("prewarmer-{suffix}"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[test]
    fn every_problem_is_reported() {
        let mut check = SettingsChecker::default();
        check.value(&Setting {
            name: "--count (COUNT)".into(),
            text: "0".into(),
            value_type: Number(1..=9),
        });
        check.duration("--wait (WAIT)", "2h", Duration::from_secs(60));
        check.report("--a: requires --b");
        let error = check.finish(()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3 invalid setting(s):\n  --count (COUNT): \"0\": expected a number from 1 to 9\n  \
             --wait (WAIT): \"2h\": expected at most 60s\n  --a: requires --b"
        );
        assert_eq!(SettingsChecker::default().finish(1), Ok(1));
    }

    #[rstest]
    #[case("prewarmer-blue", true)]
    #[case(&"a".repeat(MAX_NAME_STEM), true)]
    #[case(&"a".repeat(MAX_NAME_STEM + 1), false)]
    #[case("-a", false)]
    #[case("a.b", false)]
    #[case("", false)]
    fn names_are_checked(#[case] name: &str, #[case] expected: bool) {
        let mut check = SettingsChecker::default();
        check.dns_label("--name (NAME)", name);
        assert_eq!(check.finish(()).is_ok(), expected);
    }
}
