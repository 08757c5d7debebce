//! Settings of image prewarm services: the sections of their settings file, and variables that have
//! no effect here. Pure: no I/O.

use std::collections::BTreeMap;

use prewarmer_core::settings::SettingsChecker;
use serde_json::Value;

/// Setting of this server for each key of a section. Without a setting, the advice is logged at the
/// start.
const KEYS: &[(&str, &str, Target)] = &[
    ("server", "port", Target::Setting("serverPort")),
    ("server", "read_timeout", Target::Setting("serverReadTimeout")),
    ("server", "write_timeout", Target::Setting("serverWriteTimeout")),
    ("server", "mode", Target::None(NO_MODE)),
    ("storage", "type", Target::None(NO_STORAGE)),
    ("storage", "redis_url", Target::None(NO_STORAGE)),
    ("kubernetes", "namespace", Target::Setting("namespace")),
    ("kubernetes", "job_ttl_seconds", Target::Setting("jobTtlSeconds")),
    ("kubernetes", "max_concurrent_tasks", Target::Setting("maxConcurrentTasks")),
    ("kubernetes", "worker_image", Target::Setting("workerImage")),
    ("kubernetes", "worker_image_pull_policy", Target::Setting("workerImagePullPolicy")),
    ("kubernetes", "poll_interval", Target::None(NO_POLLING)),
    ("worker", "image", Target::Setting("workerImage")),
    ("worker", "image_pull_policy", Target::Setting("workerImagePullPolicy")),
    ("worker", "job_ttl_seconds", Target::Setting("jobTtlSeconds")),
    ("worker", "poll_interval", Target::None(NO_POLLING)),
    ("worker", "max_concurrent_tasks", Target::Setting("maxConcurrentTasks")),
    ("log", "level", Target::Setting("logLevel")),
    ("log", "format", Target::Setting("logFormat")),
    ("logging", "level", Target::Setting("logLevel")),
    ("logging", "format", Target::Setting("logFormat")),
];
/// Environment variables that have no effect, with the advice.
const VARIABLES: &[(&str, &str)] = &[
    ("GIN_MODE", NO_MODE),
    ("STORAGE_TYPE", NO_STORAGE),
    ("REDIS_URL", NO_STORAGE),
    ("STATUS_POLL_INTERVAL", NO_POLLING),
    ("IMAGE_LIST_PATH", NO_AGENT),
    ("PREHEAT_CONCURRENCY", NO_AGENT),
    ("PEER_DISCOVERY_INTERVAL", NO_AGENT),
    ("PULLING_TIMEOUT", NO_AGENT),
    ("K8S_LOCK_CM", NO_AGENT),
    ("K8S_LOCK_TIMEOUT", NO_AGENT),
];
const NO_MODE: &str = "there is one mode; LOG_LEVEL selects the log messages";
const NO_STORAGE: &str =
    "tasks are stored in the Kubernetes API server, and nothing else is needed";
const NO_POLLING: &str = "the state of workers is watched and not polled";
const NO_AGENT: &str = "it is a variable of a node agent and not of the server";

/// Meaning of a key for this server.
#[derive(Debug, Clone, Copy)]
enum Target {
    /// Setting in the settings file.
    Setting(&'static str),
    /// None, for the reason.
    None(&'static str),
}

/// Settings file without sections.
#[derive(Debug, Default)]
pub(super) struct FlatSettings {
    /// Values by the name of the setting.
    pub(super) values: BTreeMap<String, Value>,
    /// Warnings about keys that have no effect.
    pub(super) warnings: Vec<String>,
}

/// Replaces the sections of a settings file by settings. Adds a problem for each unknown key of a
/// section, and for each setting that the file has twice.
pub(super) fn flatten(file: BTreeMap<String, Value>, check: &mut SettingsChecker) -> FlatSettings {
    let mut flat = FlatSettings::default();
    let is_section = |name: &str| KEYS.iter().any(|(section, ..)| *section == name);
    for (name, value) in file {
        match value {
            Value::Object(fields) if is_section(&name) => {
                for (key, value) in fields {
                    flat.add_key(&name, &key, value, check);
                }
            }
            value => flat.add_value(&name, name.clone(), value, check),
        }
    }
    flat
}

impl FlatSettings {
    fn add_key(&mut self, section: &str, key: &str, value: Value, check: &mut SettingsChecker) {
        let known = KEYS.iter().filter(|(known, ..)| *known == section);
        let found = known.clone().find(|(_, known, _)| *known == snake_case(key));
        match found {
            Some((_, _, Target::Setting(setting))) => {
                self.add_value(&format!("{section}.{key}"), (*setting).to_owned(), value, check);
            }
            Some((_, _, Target::None(advice))) => {
                self.warnings
                    .push(format!("{section}.{key} of the settings file has no effect: {advice}"));
            }
            None => {
                let known: Vec<&str> = known.map(|(_, key, _)| *key).collect();
                let known = known.join(", ");
                check.report(format!("{section}.{key}: no such setting: expected {known}"));
            }
        }
    }

    fn add_value(&mut self, at: &str, setting: String, value: Value, check: &mut SettingsChecker) {
        // An empty value stands for the default, as in the documented examples.
        if at.contains('.') && value.is_null() {
            return;
        }
        if self.values.contains_key(&setting) {
            check.report(format!("{at}: {setting} is set twice: remove one of them"));
            return;
        }
        self.values.insert(setting, value);
    }
}

/// Converts a name in camel case to snake case.
pub(super) fn snake_case(key: &str) -> String {
    key.chars()
        .flat_map(
            |c| if c.is_ascii_uppercase() { vec!['_', c.to_ascii_lowercase()] } else { vec![c] },
        )
        .collect()
}

/// Returns a warning for each of these environment variables that has no effect.
pub(super) fn variable_warnings(is_set: impl Fn(&str) -> bool) -> Vec<String> {
    let unused = VARIABLES.iter().filter(|(name, _)| is_set(name));
    unused.map(|(name, advice)| format!("the variable {name} has no effect: {advice}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn flattened(file: Value) -> Result<FlatSettings, Vec<String>> {
        let file = serde_json::from_value(file).unwrap();
        let mut check = SettingsChecker::default();
        let flat = flatten(file, &mut check);
        check.finish(flat).map_err(|error| error.0)
    }

    #[test]
    fn sections_become_settings() {
        let flat = flattened(json!({
            "server": {"port": 9000, "mode": "release", "read_timeout": 20, "writeTimeout": 40},
            "storage": {"type": "memory", "redis_url": ""},
            "kubernetes": {"namespace": "infra", "job_ttl_seconds": 60, "poll_interval": 5, "worker_image": null},
            "log": {"level": "debug"},
            "apiRate": 7,
        }))
        .unwrap();
        let expected = json!({"serverPort": 9000, "serverReadTimeout": 20, "serverWriteTimeout": 40,
            "namespace": "infra", "jobTtlSeconds": 60, "logLevel": "debug", "apiRate": 7});
        assert_eq!(serde_json::to_value(flat.values).unwrap(), expected);
        let about = |key: &str| flat.warnings.iter().any(|text| text.starts_with(key));
        assert_eq!(flat.warnings.len(), 4, "{:?}", flat.warnings);
        for key in ["server.mode", "storage.type", "storage.redis_url", "kubernetes.poll_interval"]
        {
            assert!(about(key), "{key}");
        }
    }

    #[test]
    fn unknown_and_repeated_keys_are_named() {
        let problems = flattened(json!({"server": {"host": "x"}, "logging": {"level": "info"},
            "logLevel": "debug", "worker": {"image": "a"}, "kubernetes": {"worker_image": "b"}}))
        .unwrap_err();
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems.iter().any(|text| text.starts_with("server.host: no such setting")));
        assert!(problems.iter().any(|text| text.contains("workerImage is set twice")));
        assert!(problems.iter().any(|text| text.contains("logLevel is set twice")));
    }

    #[test]
    fn variables_without_effect_are_named() {
        let warnings = variable_warnings(|name| ["REDIS_URL", "LOG_LEVEL"].contains(&name));
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("REDIS_URL"), "{warnings:?}");
    }
}
