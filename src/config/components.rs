//! Which parts of the service a process runs. By default all of them; the chart runs them as two Deployments, so that what
//! others may call has no rights to make pods.

/// The parts of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Components {
    /// Answers reviews, and makes tasks of them.
    pub admission: bool,
    /// Serves REST and the pages.
    pub api: bool,
    /// Stands for election and, when it leads, works on tasks; registers the webhook; makes and renews the CA.
    pub controller: bool,
}

impl Components {
    /// Reads names between commas. The error says what was expected.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = || "expected one or more of admission, api and controller, separated by commas".to_owned();
        let mut components = Self { admission: false, api: false, controller: false };
        for name in crate::items(text) {
            match name {
                "admission" => components.admission = true,
                "api" => components.api = true,
                "controller" => components.controller = true,
                _ => return Err(expected()),
            }
        }
        if components == (Self { admission: false, api: false, controller: false }) {
            return Err(expected());
        }
        Ok(components)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_between_commas() {
        let front = Components::parse("admission, api").unwrap();
        assert_eq!((front.admission, front.api, front.controller), (true, true, false));
        for wrong in ["", ",", "webhook", "admission;api"] {
            assert!(Components::parse(wrong).unwrap_err().contains("admission, api and controller"), "{wrong}");
        }
    }
}
