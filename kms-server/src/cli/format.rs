//! Times and sizes as KES writes them for people.

use jiff::Timestamp;

/// Formats a number of nanoseconds as Go does, with two or three significant digits: `1.5ms`, `12µs`, `1m1.2s`.
pub fn duration(nanoseconds: u64) -> String {
    const MICRO: u64 = 1_000;
    const MILLI: u64 = 1_000 * MICRO;
    const SECOND: u64 = 1_000 * MILLI;
    let step = match nanoseconds {
        0..MICRO => 1,
        MICRO..10_000 => 100,
        10_000..MILLI => MICRO,
        MILLI..10_000_000 => 100 * MICRO,
        10_000_000..SECOND => MILLI,
        _ => 100 * MILLI,
    };
    let rounded = nanoseconds.saturating_add(step / 2) / step * step;
    let in_unit = |unit: u64, name| {
        let (whole, tenth) = (rounded / unit, rounded % unit * 10 / unit);
        if tenth == 0 { format!("{whole}{name}") } else { format!("{whole}.{tenth}{name}") }
    };
    match rounded {
        0 => "0s".to_owned(),
        1..MICRO => format!("{rounded}ns"),
        MICRO..MILLI => in_unit(MICRO, "µs"),
        MILLI..SECOND => in_unit(MILLI, "ms"),
        _ => {
            let minutes = rounded / SECOND / 60;
            let rest = rounded - minutes * 60 * SECOND;
            let (whole, tenth) = (rest / SECOND, rest % SECOND * 10 / SECOND);
            let seconds = if tenth == 0 { format!("{whole}s") } else { format!("{whole}.{tenth}s") };
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// Formats a time of the API (RFC 3339) as date and time of day in UTC. Any other text stays as it is.
pub fn date(time: &str) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => time.strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => time.to_owned(),
    }
}

/// Formats a number of bytes with one decimal.
pub fn bytes(count: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let count_f = count as f64;
    match count {
        0..1_000 => format!("{count_f:.1}B"),
        1_000..1_000_000 => format!("{:.1}KB", count_f / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1}MB", count_f / 1e6),
        _ => format!("{:.1}GB", count_f / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_kes_writes_them() {
        // As printed by KES 0.24.
        for (nanoseconds, expected) in [
            (0, "0s"),
            (1, "1ns"),
            (999, "999ns"),
            (1000, "1µs"),
            (1500, "1.5µs"),
            (12_345, "12µs"),
            (123_456, "123µs"),
            (999_999, "1ms"),
            (1_050_000, "1.1ms"),
            (1_049_999, "1ms"),
            (1_234_567, "1.2ms"),
            (12_345_678, "12ms"),
            (999_999_999, "1s"),
            (1_234_567_890, "1.2s"),
            (12_345_678_901, "12.3s"),
            (61_234_567_890, "1m1.2s"),
            (3_661_234_567_890, "1h1m1.2s"),
        ] {
            assert_eq!(duration(nanoseconds), expected, "{nanoseconds}");
        }
        assert!(duration(u64::MAX).starts_with("5124095h"));
    }

    #[test]
    fn dates_are_told_in_utc() {
        assert_eq!(date("2026-11-29T13:02:09.600876687Z"), "2026-11-29 13:02:09");
        assert_eq!(date("2026-11-29T23:02:09+10:00"), "2026-11-29 13:02:09");
        assert_eq!(date("nonsense"), "nonsense");
    }
}
