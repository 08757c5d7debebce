//! Whole numbers and percentages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
#[cfg(feature = "openapi")]
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};

/// Whole number, or percentage such as `25%`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Amount {
    /// Whole number.
    Count(u32),
    /// `N%`, or one of the keywords that the field allows.
    Text(String),
}

impl Default for Amount {
    fn default() -> Self {
        Self::Count(0)
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Amount {
    /// Returns the `OpenAPI` schema of an amount: a whole number or a string.
    #[cfg(feature = "openapi")]
    #[must_use]
    pub fn schema(description: &str) -> Schema {
        let of = |kind: Type| ObjectBuilder::new().schema_type(kind);
        let both =
            OneOfBuilder::new().item(of(Type::Integer).minimum(Some(1))).item(of(Type::String));
        both.description(Some(description)).build().into()
    }
}

impl JsonSchema for Amount {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "IntOrString".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "x-kubernetes-int-or-string": true })
    }
}
