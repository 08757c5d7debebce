//! Types of settings. A type parses the text of a setting and states as a JSON schema which values
//! a YAML file may have, so that bounds and choices are declared once.

use std::{ops::RangeInclusive, time::Duration};

use serde_json::{Value, json};

use crate::duration::{self, DurationError};

/// Lower bound of a duration that must not be zero.
const POSITIVE: Duration = Duration::from_nanos(1);
/// Durations that [`duration::parse`] accepts, as a regular expression.
const DURATION_PATTERN: &str = r"^(([0-9]+\.?[0-9]*|\.[0-9]+)(ms|s|m|h))+$";
/// Networks in CIDR notation, as a regular expression.
const NETWORK_PATTERN: &str = "[0-9A-Fa-f.:]+/[0-9]{1,3}";

/// Value of a setting as text, with the type that it must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting<T> {
    /// Flag and variable, as problems name them: `--flag (VARIABLE)`.
    pub name: String,
    /// Text of the flag, of the variable or of the settings file.
    pub text: String,
    /// Type of the value.
    pub value_type: T,
}

/// Type of a setting.
pub trait ValueType {
    /// Parsed value.
    type Value;

    /// Parses the text of a setting. The error states what is expected.
    fn parse(&self, text: &str) -> Result<Self::Value, ValueError>;

    /// Returns the value that is used in place of an invalid one until all problems are reported.
    fn placeholder(&self) -> Self::Value;
}

/// Text that is not a value of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Text that is not a number, or a number outside the range.
    #[error("expected a number from {} to {}", .0.start(), .0.end())]
    Number(RangeInclusive<u32>),
    /// Text that is not a duration.
    #[error(transparent)]
    Duration(#[from] DurationError),
    /// Duration above the maximum.
    #[error("expected at most {}s", .0.as_secs())]
    TooLong(Duration),
    /// Duration below the minimum.
    #[error("expected at least {}s", .0.as_secs())]
    TooShort(Duration),
    /// Duration of zero.
    #[error("expected more than 0s")]
    Zero,
    /// Text that is none of the choices.
    #[error("expected {0}")]
    Choice(String),
}

/// Integer within a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Number(pub RangeInclusive<u32>);

impl Number {
    /// Returns the JSON schema. Numbers in quotes are accepted too; their range is not checked.
    #[must_use]
    pub fn schema(&self) -> Value {
        json!({
            "type": ["integer", "string"],
            "minimum": self.0.start(),
            "maximum": self.0.end(),
            "pattern": "^[0-9]+$",
        })
    }
}

impl ValueType for Number {
    type Value = u32;

    fn parse(&self, text: &str) -> Result<u32, ValueError> {
        let number = text.parse().ok().filter(|number| self.0.contains(number));
        number.ok_or_else(|| ValueError::Number(self.0.clone()))
    }

    fn placeholder(&self) -> u32 {
        *self.0.start()
    }
}

/// Duration within a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Shortest duration.
    pub least: Duration,
    /// Longest duration.
    pub most: Duration,
}

impl Span {
    /// Creates the type of durations from zero.
    #[must_use]
    pub fn up_to(most: Duration) -> Self {
        Self { least: Duration::ZERO, most }
    }

    /// Creates the type of durations above zero.
    #[must_use]
    pub fn positive(most: Duration) -> Self {
        Self { least: POSITIVE, most }
    }

    /// Returns the JSON schema. It does not check the range.
    #[must_use]
    pub fn schema(&self) -> Value {
        json!({"type": "string", "pattern": DURATION_PATTERN})
    }
}

impl ValueType for Span {
    type Value = Duration;

    fn parse(&self, text: &str) -> Result<Duration, ValueError> {
        let span = duration::parse(text)?;
        if span > self.most {
            return Err(ValueError::TooLong(self.most));
        }
        match self.least {
            POSITIVE if span.is_zero() => Err(ValueError::Zero),
            least if span < least => Err(ValueError::TooShort(least)),
            _ => Ok(span),
        }
    }

    fn placeholder(&self) -> Duration {
        Duration::ZERO
    }
}

/// One of several names, each with its value. It has no schema of its own: clap knows the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice<T: 'static>(pub &'static [(&'static str, T)]);

/// `true` or `false`.
pub const BOOLEAN: Choice<bool> = Choice(&[("true", true), ("false", false)]);

impl<T: Copy + Default> ValueType for Choice<T> {
    type Value = T;

    fn parse(&self, text: &str) -> Result<T, ValueError> {
        let found = self.0.iter().find(|(name, _)| *name == text);
        found.map(|(_, value)| *value).ok_or_else(|| ValueError::Choice(enumerate(self.0)))
    }

    fn placeholder(&self) -> T {
        T::default()
    }
}

/// Returns the names as `A, B or C`.
fn enumerate<T>(choices: &[(&str, T)]) -> String {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}

/// Text that the module of the setting parses itself. The pattern is a regular expression that
/// every valid text matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Text {
    pattern: Pattern,
    integers: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pattern {
    Any,
    Whole(&'static str),
    Items(&'static str),
}

impl Text {
    /// Any text.
    pub const ANY: Self = Self { pattern: Pattern::Any, integers: false };
    /// Networks in CIDR notation, separated by commas.
    pub const NETWORKS: Self = Self::list(NETWORK_PATTERN);

    /// Creates the type of texts that match a pattern from start to end.
    #[must_use]
    pub const fn matching(pattern: &'static str) -> Self {
        Self { pattern: Pattern::Whole(pattern), integers: false }
    }

    /// Creates the type of lists separated by commas, each item of which matches a pattern from
    /// start to end. Items may be empty.
    #[must_use]
    pub const fn list(item: &'static str) -> Self {
        Self { pattern: Pattern::Items(item), integers: false }
    }

    /// Accepts integers of YAML too, which are texts without quotes.
    #[must_use]
    pub const fn or_integer(self) -> Self {
        Self { integers: true, ..self }
    }

    /// Returns the JSON schema.
    #[must_use]
    pub fn schema(&self) -> Value {
        let mut schema = json!({"type": "string"});
        if self.integers {
            schema["type"] = json!(["integer", "string"]);
            schema["minimum"] = json!(0);
        }
        match self.pattern {
            Pattern::Any => {}
            Pattern::Whole(pattern) => schema["pattern"] = json!(format!("^({pattern})$")),
            Pattern::Items(item) => {
                let item = format!(r"\s*({item})?\s*");
                schema["pattern"] = json!(format!("^{item}(,{item})*$"));
            }
        }
        schema
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[rstest]
    #[case("1", Some(1))]
    #[case("9", Some(9))]
    #[case("0", None)]
    #[case("10", None)]
    #[case("", None)]
    #[case("1.0", None)]
    fn numbers_are_within_their_range(#[case] text: &str, #[case] number: Option<u32>) {
        assert_eq!(Number(1..=9).parse(text).ok(), number);
    }

    #[test]
    fn bounds_of_durations_are_checked() {
        let said = |span: Span, text: &str| span.parse(text).unwrap_err().to_string();
        assert_eq!(said(Span::up_to(HOUR), "2h"), "expected at most 3600s");
        assert_eq!(said(Span::positive(HOUR), "0s"), "expected more than 0s");
        let minute = Span { least: Duration::from_secs(60), most: HOUR };
        assert_eq!(said(minute, "5s"), "expected at least 60s");
        assert!(said(minute, "soon").starts_with("expected a duration"));
        assert_eq!(Span::up_to(HOUR).parse("0s"), Ok(Duration::ZERO));
        assert_eq!(minute.parse("1h"), Ok(HOUR));
    }

    #[test]
    fn choices_are_listed_in_the_problem() {
        let three = Choice(&[("A", 1), ("B", 2), ("C", 3)]);
        assert_eq!(three.parse("B"), Ok(2));
        assert_eq!(three.parse("b").unwrap_err().to_string(), "expected A, B or C");
        assert_eq!(BOOLEAN.parse("yes").unwrap_err().to_string(), "expected true or false");
    }

    #[test]
    fn schemas_state_the_bounds() {
        let number = json!({
            "type": ["integer", "string"], "minimum": 1, "maximum": 9, "pattern": "^[0-9]+$",
        });
        assert_eq!(Number(1..=9).schema(), number);
        assert_eq!(Text::ANY.schema(), json!({"type": "string"}));
        assert_eq!(Text::matching("a|b").schema(), json!({"type": "string", "pattern": "^(a|b)$"}));
        assert_eq!(
            Text::list("[a-z]").or_integer().schema(),
            json!({
                "type": ["integer", "string"], "minimum": 0,
                "pattern": r"^\s*([a-z])?\s*(,\s*([a-z])?\s*)*$",
            })
        );
    }
}
