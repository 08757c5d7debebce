//! Declaration of settings as arguments of clap. A parser accepts every text, so that all invalid
//! settings are reported at once by [`SettingsChecker`](prewarmer_core::settings::SettingsChecker).

use std::{ffi::OsStr, ops::RangeInclusive};

use clap::{
    Arg, Command, Error,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
};
use prewarmer_core::settings::{BOOLEAN, Choice, Number, Setting, Span, Text};

/// Type whose names clap lists in the help.
pub trait NamedValues {
    /// Returns the names of all values, where they can be listed.
    fn names(&self) -> Option<Vec<&'static str>> {
        None
    }
}

impl NamedValues for Number {}
impl NamedValues for Span {}
impl NamedValues for Text {}

impl<T> NamedValues for Choice<T> {
    fn names(&self) -> Option<Vec<&'static str>> {
        Some(self.0.iter().map(|(name, _)| *name).collect())
    }
}

/// Parser of an argument that keeps the text of a setting together with its name and type.
#[derive(Debug, Clone)]
pub struct SettingParser<T>(T);

impl<T> TypedValueParser for SettingParser<T>
where
    T: NamedValues + Clone + Send + Sync + 'static,
{
    type Value = Setting<T>;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Setting<T>, Error> {
        let text = StringValueParser::new().parse_ref(command, argument, value)?;
        let name = argument.map(name).unwrap_or_default();
        Ok(Setting { name, text, value_type: self.0.clone() })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let names = self.0.names()?;
        Some(Box::new(names.into_iter().map(PossibleValue::new)))
    }
}

/// Returns flag and variable of an argument: `--flag (VARIABLE)`.
fn name(argument: &Arg) -> String {
    let flag = argument.get_long().unwrap_or_default();
    match argument.get_env() {
        Some(variable) => format!("--{flag} ({})", variable.to_string_lossy()),
        None => format!("--{flag}"),
    }
}

/// Declares a number within a range.
#[must_use]
pub fn number(range: RangeInclusive<u32>) -> SettingParser<Number> {
    SettingParser(Number(range))
}

/// Declares a duration.
#[must_use]
pub fn duration(span: Span) -> SettingParser<Span> {
    SettingParser(span)
}

/// Declares a setting that is `true` or `false`.
#[must_use]
pub fn boolean() -> SettingParser<Choice<bool>> {
    SettingParser(BOOLEAN)
}

/// Declares a setting with one of several names.
#[must_use]
pub fn choice<T>(choices: &'static [(&'static str, T)]) -> SettingParser<Choice<T>> {
    SettingParser(Choice(choices))
}

/// Declares a text that its module parses.
#[must_use]
pub fn text(text: Text) -> SettingParser<Text> {
    SettingParser(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_named_by_flag_and_variable() {
        let argument = Arg::new("rate").long("rate").env("RATE").value_parser(number(1..=9));
        let found = Command::new("serve").arg(argument).get_matches_from(["serve", "--rate=many"]);
        let rate = found.get_one::<Setting<Number>>("rate").unwrap();
        assert_eq!((rate.name.as_str(), rate.text.as_str()), ("--rate (RATE)", "many"));
        assert_eq!(rate.value_type, Number(1..=9));
    }

    #[test]
    fn clap_lists_the_choices() {
        let argument = Arg::new("tls").long("tls").value_parser(boolean());
        let names: Vec<String> = argument
            .get_possible_values()
            .iter()
            .map(|value| value.get_name().to_owned())
            .collect();
        assert_eq!(names, ["true", "false"]);
    }
}
