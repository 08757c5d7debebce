//! Components that a process runs. By default all of them; the chart runs them as two Deployments,
//! so that the one that other clients may call has no permission to create pods.

/// Unknown component name, or none.
#[derive(Debug, thiserror::Error)]
#[error("expected one or more of admission, api and controller, separated by commas")]
pub struct ComponentsError;

/// Components of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Components {
    /// Webhook and intake: answers admission reviews and creates tasks from them.
    pub admission: bool,
    /// REST API and web pages.
    pub api: bool,
    /// Leader election and, on the leader, the controllers of tasks and schedules; registration of
    /// the webhook; creation and renewal of the CA.
    pub controller: bool,
}

impl Components {
    /// Parses component names separated by commas.
    pub fn parse(text: &str) -> Result<Self, ComponentsError> {
        let mut components = Self { admission: false, api: false, controller: false };
        for name in prewarmer_core::comma_separated(text) {
            match name {
                "admission" => components.admission = true,
                "api" => components.api = true,
                "controller" => components.controller = true,
                _ => return Err(ComponentsError),
            }
        }
        if components == (Self { admission: false, api: false, controller: false }) {
            return Err(ComponentsError);
        }
        Ok(components)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn component_names_are_parsed() {
        let front = Components::parse("admission, api").unwrap();
        assert_eq!((front.admission, front.api, front.controller), (true, true, false));
        for wrong in ["", ",", "webhook", "admission;api"] {
            assert!(
                Components::parse(wrong)
                    .unwrap_err()
                    .to_string()
                    .contains("admission, api and controller"),
                "{wrong}"
            );
        }
    }
}
