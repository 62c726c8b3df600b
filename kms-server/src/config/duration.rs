//! Durations as Go writes them.

use std::time::Duration;

/// Reads a duration in Go's notation: decimal numbers with a unit each, such as `5m`, `1m30s` or `1.5h`.
///
/// Units are `ns`, `us` (`µs`), `ms`, `s`, `m` and `h`. The text for an error says what was expected.
pub fn parse(text: &str) -> Result<Duration, String> {
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

/// Multiplies a decimal number such as `1`, `1.5` or `.5` with a unit of so many nanoseconds.
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
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
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
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
