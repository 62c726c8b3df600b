//! Values of settings as they may be shown.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// The value of a key.
pub struct Value {
    /// The path of the key.
    pub path: Vec<String>,
    /// What is in force.
    pub shown: Shown,
    /// Whether it is a file in systemd's directory of credentials.
    pub is_credential: bool,
    /// The variables that count where the config leaves the key out.
    pub elsewhere: &'static [&'static str],
    /// The key of a setting that says several in one, and that gave this one.
    pub within: Option<&'static str>,
}

/// A value as it may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// There is none.
    Nothing,
    /// A secret.
    Secret,
    /// A text.
    Text(String),
    /// A list of texts.
    List(Vec<String>),
}

/// Collects values.
#[derive(Default)]
pub struct Values(Vec<Value>);

#[allow(clippy::needless_pass_by_value, reason = "most callers hand over a text that they made")]
impl Values {
    /// Adds the value of a key in dotted form.
    pub fn text(&mut self, key: &str, text: impl ToString) -> &mut Value {
        self.add(key, Shown::Text(text.to_string()))
    }

    /// Adds a value that may be missing.
    pub fn optional(&mut self, key: &str, text: Option<impl ToString>) -> &mut Value {
        self.add(key, text.map_or(Shown::Nothing, |text| Shown::Text(text.to_string())))
    }

    /// Adds a file that may be missing.
    pub fn file(&mut self, key: &str, file: Option<&Path>) -> &mut Value {
        self.optional(key, file.map(Path::display))
    }

    /// Adds a switch.
    pub fn switch(&mut self, key: &str, is_on: bool) -> &mut Value {
        self.text(key, if is_on { "on" } else { "off" })
    }

    /// Adds a secret, if there is one.
    pub fn secret(&mut self, key: &str, is_there: bool) -> &mut Value {
        self.add(key, if is_there { Shown::Secret } else { Shown::Nothing })
    }

    /// Adds a list.
    pub fn list(&mut self, key: &str, texts: impl IntoIterator<Item = impl ToString>) -> &mut Value {
        self.add(key, Shown::List(texts.into_iter().map(|text| text.to_string()).collect()))
    }

    /// Notes that another setting, which says several in one, gave the value of a key.
    pub fn note_within(&mut self, key: &str, within: &'static str) {
        let is_it = |value: &&mut Value| value.path.iter().map(String::as_str).eq(key.split('.'));
        if let Some(value) = self.0.iter_mut().find(is_it) {
            value.within = Some(within);
        }
    }

    /// Returns what was collected.
    pub fn into_all(self) -> Vec<Value> {
        self.0
    }

    fn add(&mut self, key: &str, shown: Shown) -> &mut Value {
        self.at(key.split('.').map(str::to_owned).collect(), shown)
    }

    /// Adds a value at a path, one part of which may contain a dot.
    pub fn at(&mut self, path: Vec<String>, shown: Shown) -> &mut Value {
        let index = self.0.len();
        self.0.push(Value { path, shown, is_credential: false, elsewhere: &[], within: None });
        &mut self.0[index]
    }
}

/// Returns the name of a key. A part with other characters than those of a bare key is in quotes, as in TOML.
pub fn name(path: &[String]) -> String {
    let is_bare = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let parts = path.iter().enumerate().map(|(depth, part)| match depth {
        0 => part.clone(),
        _ if part.bytes().all(|byte| byte.is_ascii_digit()) => format!("[{part}]"),
        _ if is_bare(part) => format!(".{part}"),
        _ => format!(".\"{part}\""),
    });
    parts.collect()
}

/// Writes a duration in days if it is a number of them.
pub fn days(time: Duration) -> String {
    const DAY: u64 = 24 * 3600;
    let seconds = time.as_secs();
    if seconds != 0 && seconds.is_multiple_of(DAY) && time.subsec_nanos() == 0 {
        return format!("{}d", seconds / DAY);
    }
    duration(time)
}

/// Writes a duration as the config takes it.
pub fn duration(time: Duration) -> String {
    let (seconds, nanos) = (time.as_secs(), time.subsec_nanos());
    let mut text = String::new();
    for (count, unit) in [(seconds / 3600, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")] {
        if count != 0 {
            let _ = write!(text, "{count}{unit}");
        }
    }
    for (count, unit) in [(nanos / 1_000_000, "ms"), (nanos / 1000 % 1000, "us"), (nanos % 1000, "ns")] {
        if count != 0 {
            let _ = write!(text, "{count}{unit}");
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{parse_duration, parse_long_duration};

    #[test]
    fn a_duration_is_written_as_it_is_read() {
        for text in ["0s", "5m", "1h30m", "90s", "1m30s", "250ms", "1s5us", "720h"] {
            let time = parse_duration(text).unwrap();
            assert_eq!(parse_duration(&duration(time)), Ok(time), "{text}");
            assert_eq!(parse_long_duration(&days(time)), Ok(time), "{text}");
        }
        assert_eq!(days(Duration::from_secs(30 * 24 * 3600)), "30d");
    }

    #[test]
    fn names_are_those_of_the_config() {
        let name =
            |parts: &[&str]| super::name(&parts.iter().map(|&part| part.to_owned()).collect::<Vec<_>>());
        assert_eq!(name(&["api", "/v1/ready", "timeout"]), "api.\"/v1/ready\".timeout");
        assert_eq!(name(&["keys", "0", "rotate_after"]), "keys[0].rotate_after");
    }
}
