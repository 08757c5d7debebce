//! Notifications about the end of a task, and the state of their deliveries.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::options::LocalReference;

/// Key of a Secret in the task's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SecretKeyReference {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in the Secret's data.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// Source of a URL, read when the URL is used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "camelCase")]
pub struct UrlSource {
    /// Key of a Secret in the task's namespace whose value is the URL. The server needs `get` on
    /// that Secret.
    pub secret_key_ref: SecretKeyReference,
}

/// Receiver of a notification about the end of a task. Exactly one of `url` and `urlFrom` must be
/// set.
#[derive(KubeSchema, Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(validation = Rule::new("has(self.url) != has(self.urlFrom)").message("exactly one of url and urlFrom must be set"))]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// `http` or `https` URL that receives the POST request, at most 2,048 bytes. Every user who
    /// may read the task can read it: a URL that contains a token belongs in a Secret, referenced
    /// by `urlFrom`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048))]
    pub url: Option<String>,
    /// Source of the URL, read when the notification is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_from: Option<UrlSource>,
    /// Secret in the task's namespace whose key `key` signs the notification (HMAC-SHA256).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalReference>,
    /// Format of the notification: `json`, `cloudevents`, `slack`, `dingtalk` or `alertmanager`.
    /// Default: `json`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// State of the delivery of one notification of `spec.notify`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Delivery {
    /// True when no further attempt is made.
    pub done: bool,
    /// Number of attempts.
    #[serde(default)]
    pub attempts: u32,
    /// True when the receiver answered at least one attempt, with any status.
    #[serde(default, skip_serializing_if = "is_false")]
    pub answered: bool,
    /// Time of the next attempt, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<String>,
    /// Time at which the receiver accepted the notification, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivered: Option<String>,
    /// Error of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
