//! The types of single values in a configuration.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use kms_core::KeyName;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};

/// A duration in Go's notation.
pub struct GoDuration(pub Duration);

/// A duration in Go's notation, or a number of days such as `30d`.
pub struct LongDuration(pub Duration);

/// `on` or `off`, or a boolean.
pub struct Switch(pub bool);

/// The name of a key.
#[derive(serde::Deserialize)]
#[serde(try_from = "String")]
pub struct RawName(pub KeyName);

/// An element of a list.
///
/// A list may also be one text with commas between its elements: that is how a variable sets it.
pub trait Element: Sized {
    /// The description of the whole list in errors.
    const EXPECTED: &'static str;

    /// Creates an element from a part of such a text.
    fn from_text(text: &str) -> Result<Self, String>;

    /// Creates the only element of a list from a number; `None` if no element is one.
    fn from_number(_: i64) -> Option<Self> {
        None
    }
}

impl Element for String {
    const EXPECTED: &'static str = "an array of strings";

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

/// A port.
pub struct RawPort(pub u16);

impl RawPort {
    const EXPECTED_ALONE: &'static str = "a port from 1 to 65535";

    fn of(number: Option<u16>) -> Result<Self, String> {
        number.filter(|port| *port > 0).map(Self).ok_or_else(|| format!("expected {}", Self::EXPECTED_ALONE))
    }
}

impl Element for RawPort {
    const EXPECTED: &'static str = "a port from 1 to 65535, or an array of ports";

    fn from_text(text: &str) -> Result<Self, String> {
        Self::of(text.trim().parse().ok())
    }

    fn from_number(number: i64) -> Option<Self> {
        Self::of(u16::try_from(number).ok()).ok()
    }
}

impl<'de> Deserialize<'de> for RawPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer, Self::EXPECTED_ALONE, |value| match value {
            Unexpected::Signed(number) => Some(Self::of(u16::try_from(number).ok())),
            Unexpected::Str(text) => Some(Self::from_text(text)),
            _ => None,
        })
    }
}

/// Reads a list, or a text with commas between its elements.
pub fn list<'de, T: Element + Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T>(PhantomData<T>);

    impl<'de, T: Element + Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
            elements.map(T::from_text).collect::<Result<_, _>>().map_err(E::custom)
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Vec<T>, E> {
            match T::from_number(number) {
                Some(element) => Ok(vec![element]),
                None => Err(E::invalid_type(Unexpected::Signed(number), &self)),
            }
        }

        fn visit_seq<A: SeqAccess<'de>>(self, elements: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(elements))
        }
    }

    deserializer.deserialize_any(List(PhantomData))
}

/// One table, or a list of them.
pub struct OneOrMany<T> {
    /// The tables.
    pub all: Vec<T>,
    /// Whether they are written as a list.
    pub is_list: bool,
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Tables<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Tables<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<OneOrMany<T>, A::Error> {
                let one = T::deserialize(MapAccessDeserializer::new(table))?;
                Ok(OneOrMany { all: vec![one], is_list: false })
            }

            fn visit_seq<A: SeqAccess<'de>>(self, tables: A) -> Result<OneOrMany<T>, A::Error> {
                let all = Vec::deserialize(SeqAccessDeserializer::new(tables))?;
                Ok(OneOrMany { all, is_list: true })
            }
        }

        deserializer.deserialize_any(Tables(PhantomData))
    }
}

impl TryFrom<String> for RawName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        KeyName::new(text.as_str()).map(Self).map_err(|_| {
            format!(
                "invalid key name '{}', \
                 expected 1 to {} characters of 0-9 A-Z a-z - _ that begin and end with no '-'",
                text.escape_debug(),
                kms_core::KeyName::MAX_LEN
            )
        })
    }
}

/// Reads a boolean, an integer or a text.
///
/// `read` returns `None` for a value of a wrong type. Then the error names `expected`.
pub fn scalar<'de, T, D: Deserializer<'de>>(
    deserializer: D,
    expected: &'static str,
    read: fn(Unexpected<'_>) -> Option<Result<T, String>>,
) -> Result<T, D::Error> {
    struct Scalar<T> {
        expected: &'static str,
        read: fn(Unexpected<'_>) -> Option<Result<T, String>>,
    }

    impl<T> Scalar<T> {
        fn read<E: de::Error>(&self, value: Unexpected<'_>) -> Result<T, E> {
            match (self.read)(value) {
                Some(read) => read.map_err(E::custom),
                None => Err(E::invalid_type(value, &self.expected)),
            }
        }
    }

    impl<T> Visitor<'_> for Scalar<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.expected)
        }

        fn visit_bool<E: de::Error>(self, value: bool) -> Result<T, E> {
            self.read(Unexpected::Bool(value))
        }

        fn visit_i64<E: de::Error>(self, value: i64) -> Result<T, E> {
            self.read(Unexpected::Signed(value))
        }

        fn visit_str<E: de::Error>(self, value: &str) -> Result<T, E> {
            self.read(Unexpected::Str(value))
        }
    }

    deserializer.deserialize_any(Scalar { expected, read })
}

/// Reads a whole number, or the text of one, since YAML and variables give texts only.
pub fn number<'de, T: TryFrom<u64>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    scalar(deserializer, "a whole number", |value| {
        let number = match value {
            Unexpected::Signed(number) => u64::try_from(number).ok()?,
            Unexpected::Str(text) => {
                let Ok(number) = text.trim().parse() else {
                    let text = text.escape_debug();
                    return Some(Err(format!("invalid value '{text}', expected a whole number")));
                };
                number
            }
            _ => return None,
        };
        Some(T::try_from(number).map_err(|_| format!("{number} is too large a number")))
    })
    .map(Some)
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer, "a duration with a unit in quotes, such as '5m' or '1m30s'", |value| match value
        {
            Unexpected::Str(text) => Some(parse_duration(text).map(Self)),
            _ => None,
        })
    }
}

impl<'de> Deserialize<'de> for LongDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(
            deserializer,
            "a duration with a unit in quotes, such as '30d' or '12h'",
            |value| match value {
                Unexpected::Str(text) => Some(parse_long_duration(text).map(Self)),
                _ => None,
            },
        )
    }
}

impl Switch {
    const EXPECTED: &'static str = "'on' or 'off'";

    fn read(value: Unexpected<'_>) -> Option<Result<Self, String>> {
        let text = match value {
            Unexpected::Bool(on) => return Some(Ok(Self(on))),
            Unexpected::Str(text) => text,
            _ => return None,
        };
        Some(match text.to_ascii_lowercase().as_str() {
            "on" | "true" | "yes" | "y" => Ok(Self(true)),
            "off" | "false" | "no" | "n" => Ok(Self(false)),
            _ => Err(format!("invalid value '{}', expected {}", text.escape_debug(), Self::EXPECTED)),
        })
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        scalar(deserializer, Self::EXPECTED, Self::read)
    }
}

/// Reads a switch. An empty text, such as that of a variable, counts as none.
pub fn switch_or_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Switch>, D::Error> {
    scalar(deserializer, Switch::EXPECTED, |value| match value {
        Unexpected::Str("") => Some(Ok(None)),
        value => Some(Switch::read(value)?.map(Some)),
    })
}

/// Reads a duration in Go's notation: decimal numbers with a unit each, such as `5m`, `1m30s` or `1.5h`.
///
/// The units are `ns`, `us` (`µs`), `ms`, `s`, `m` and `h`. The error says what was expected.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || {
        format!(
            "invalid duration '{}', expected numbers with a unit, such as '5m', '1m30s' or '1.5h'",
            text.escape_debug()
        )
    };
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let number_len = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, after) = rest.split_at(number_len);
        let unit_len = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_len);
        nanos = multiply(number, unit_nanos(unit).ok_or_else(invalid)?)
            .and_then(|part| nanos.checked_add(part))
            .ok_or_else(invalid)?;
        rest = after;
    }
    if matches!(text, "" | "+") || nanos > i64::MAX as u128 {
        return Err(invalid());
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| invalid())
}

/// Reads a number of days, such as `30d`, or a duration in Go's notation.
pub fn parse_long_duration(text: &str) -> Result<Duration, String> {
    const DAY: u64 = 24 * 3600;
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()?.checked_mul(DAY));
    days.map_or_else(|| parse_duration(text), |seconds| Ok(Duration::from_secs(seconds)))
}

/// Multiplies a decimal number, such as `1`, `1.5` or `.5`, by a unit in nanoseconds.
fn multiply(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || whole.len() > 20 {
        return None;
    }
    let parse = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let fraction = fraction.get(..fraction.len().min(18))?;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    Some(parse(whole)? * unit + parse(fraction)? * unit / scale)
}

fn unit_nanos(unit: &str) -> Option<u128> {
    Some(match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go_are_understood() {
        for (text, millis) in [
            ("5m", 300_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("0s", 0),
            (".5s", 500),
            ("+5m", 300_000),
            ("2.s", 2_000),
            ("250ms", 250),
            ("3000us", 3),
            ("3000µs", 3),
            ("1h0m0.25s", 3_600_250),
            ("87660h", 315_576_000_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "5",
            "0",
            "m",
            "-5m",
            "+",
            "++5m",
            "5 m",
            "5m ",
            "1.2.3s",
            ".s",
            "5d",
            "5M",
            "1h5",
            "99999999999h",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
