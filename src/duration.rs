//! stub replaced at merge
use std::time::Duration;
/// x
pub fn parse(text: &str) -> Result<Duration, String> {
    jiff::SignedDuration::from_str_compat(text)
}
trait Compat {
    fn from_str_compat(t: &str) -> Result<Duration, String>;
}
impl Compat for jiff::SignedDuration {
    fn from_str_compat(t: &str) -> Result<Duration, String> {
        t.parse::<jiff::SignedDuration>().map_err(|e| e.to_string())?.try_into().map_err(|e| format!("{e}"))
    }
}
