//! Authenticated user of a page.

use prewarmer::api::pages::{Caller, PagesApi, Permission};

/// Authenticated user of a page.
#[derive(Debug, Clone)]
pub(super) struct Viewer {
    pub(super) caller: Caller,
    pub(super) has_cookie: bool,
}

impl Viewer {
    /// Returns the name for the page header, without the prefix `user:` or `token:`.
    pub(super) fn display_name(&self) -> String {
        let name = self.caller.name.as_str();
        name.strip_prefix("user:")
            .or_else(|| name.strip_prefix("token:"))
            .unwrap_or(name)
            .to_owned()
    }

    /// Reports whether the user has the permission in the namespace; false if the review fails.
    pub(super) async fn is_allowed(
        &self,
        api: &PagesApi,
        deed: Permission,
        namespace: &str,
    ) -> bool {
        api.allows(&self.caller, deed, namespace).await
    }
}
