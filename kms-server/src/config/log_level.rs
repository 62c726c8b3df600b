//! The values of `log.error` and `log.audit`.

use serde::de::{Deserialize, Deserializer, Unexpected};

use super::value::scalar;

/// The least level of the events that go to a log, as a number of KES 0.24 (Go's `slog`): debug -4, info 0, warn 4, error 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogLevel(i64);

impl LogLevel {
    /// All events that are logged by default.
    pub const INFO: Self = Self(0);
    /// Warnings and errors.
    pub const WARN: Self = Self(4);
    /// Errors.
    pub const ERROR: Self = Self(8);
    /// Nothing.
    const OFF: Self = Self(9);

    /// Reads `on`, `off`, a number, or the name of a level, alone or with a number, such as `INFO+2`.
    ///
    /// An empty text is `on`.
    fn from_text(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_uppercase();
        match text.as_str() {
            "" | "ON" | "TRUE" | "YES" => return Some(Self::INFO),
            "OFF" | "FALSE" | "NO" => return Some(Self::OFF),
            _ => {}
        }
        if let Ok(level) = text.parse().map(Self)
            && !text.starts_with('+')
        {
            return Some(level);
        }
        let (name, more) = text.split_once('+').unwrap_or((&text, "0"));
        let level = match name.trim() {
            "DEBUG" => -4,
            "" | "INFO" => 0,
            "WARN" => 4,
            "ERROR" => 8,
            _ => return None,
        };
        more.parse::<i64>().ok()?.checked_add(level).map(Self)
    }
}

impl<'de> Deserialize<'de> for LogLevel {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer, EXPECTED, |value| match value {
            Unexpected::Bool(true) => Some(Ok(Self::INFO)),
            Unexpected::Bool(false) => Some(Ok(Self::OFF)),
            Unexpected::Signed(level) => Some(Ok(Self(level))),
            Unexpected::Str(text) => Some(
                Self::from_text(text)
                    .ok_or_else(|| format!("invalid value '{}', expected {EXPECTED}", text.escape_debug())),
            ),
            _ => None,
        })
    }
}

const EXPECTED: &str =
    "'on', 'off' or a level: DEBUG, INFO, WARN, ERROR, one with a number such as INFO+2, or a number";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_kes_are_understood() {
        for (text, level) in [
            ("on", 0),
            ("On", 0),
            ("", 0),
            (" on", 0),
            ("off", 9),
            ("INFO", 0),
            ("info ", 0),
            ("debug", -4),
            ("Warn", 4),
            ("ERROR", 8),
            ("INFO+2", 2),
            ("info +2", 2),
            ("debug+2", -2),
            ("INFO++2", 2),
            ("INFO+-2", -2),
            ("INFO+02", 2),
            ("+2", 2),
            ("+2 ", 2),
            ("4", 4),
            ("4 ", 4),
            ("-4", -4),
            ("00", 0),
            ("100", 100),
            ("ERROR+1", 9),
        ] {
            assert_eq!(LogLevel::from_text(text), Some(LogLevel(level)), "{text:?}");
        }
    }

    #[test]
    fn what_kes_refuses_is_refused() {
        for text in [
            "trace",
            "notice",
            "WARNING",
            "INFO-4",
            "INFO+",
            "INFO +",
            "INFO+x",
            "INFO+ 2",
            "INFO+1.5",
            "1.5",
            "0x4",
            "INFO2",
            "ERROR-1",
            "e",
            "+",
            "-",
            "ON+2",
            "OFF+1",
            "4+2",
            "INFO+2+3",
            "INFO+99999999999999999999",
            "9223372036854775808",
            "on,off",
        ] {
            assert_eq!(LogLevel::from_text(text), None, "{text:?}");
        }
    }
}
