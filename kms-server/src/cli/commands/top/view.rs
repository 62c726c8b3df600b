//! The view of all servers: two tables, and what is wrong.

use jiff::Timestamp;

use super::figures::{Figures, OfPolicy};
use super::histogram::{Histogram, Quantile};
use super::reading::Reading;
use super::table::{Cell, Row, Table};
use super::wrong::{Wrong, span, wrong};
use crate::cli::format;
use crate::text::terminal::escape;

/// The servers, by what they answered last.
pub struct State(Vec<Seen>);

/// A server.
pub struct Seen {
    /// Its name for people.
    pub name: String,
    /// Its last answer. `None` before the first one.
    pub last: Option<Result<Reading, String>>,
    /// The answer before, if both came on end.
    before: Option<Reading>,
}

/// The view.
#[derive(Debug)]
pub struct View {
    /// The servers.
    pub servers: Table,
    /// The policies of all servers.
    pub policies: Table,
    /// What is wrong, each with the name of the server.
    pub wrong: Vec<(String, Wrong)>,
}

const OF_SERVERS: &[&str] =
    &["SERVER", "REQ/S", "4XX/S", "5XX/S", "P50", "P99", "HITS", "KEYS", "STORE/S", "FAIL/S", "UP"];

const OF_POLICIES: &[&str] = &["POLICY", "REQ/S", "P50", "P99"];

/// The column of [`OF_POLICIES`] by which they are sorted at first: the slowest come first.
pub const SLOWEST: usize = 3;

impl State {
    /// Creates the state before any answer.
    pub fn new(names: impl IntoIterator<Item = String>) -> Self {
        Self(names.into_iter().map(|name| Seen { name, last: None, before: None }).collect())
    }

    /// Notes the answer of the server with this number.
    pub fn note(&mut self, number: usize, answer: Result<Reading, String>) {
        if let Some(seen) = self.0.get_mut(number) {
            seen.before = seen.last.take().and_then(Result::ok);
            seen.last = Some(answer);
        }
    }

    /// Returns the servers.
    pub fn servers(&self) -> &[Seen] {
        &self.0
    }

    /// Returns whether a server answered.
    pub fn has_answer(&self) -> bool {
        self.0.iter().any(|seen| matches!(seen.last, Some(Ok(_))))
    }

    /// Returns the figures of all servers together.
    pub fn together(&self) -> Figures {
        let mut together = Figures::default();
        self.0.iter().filter_map(Seen::figures).for_each(|figures| together.add(&figures));
        together
    }

    /// Returns the view of all servers.
    pub fn view(&self, time: Timestamp) -> View {
        let together = self.together();
        let total = Row { name: "all".to_owned(), cells: Ok(cells(&together)) };
        let policies = together.policies.iter().map(|(name, of_policy)| of_policy.row(name));
        View {
            servers: Table {
                titles: OF_SERVERS,
                rows: self.0.iter().map(Seen::row).collect(),
                total: (self.0.len() > 1).then_some(total),
            },
            policies: Table { titles: OF_POLICIES, rows: policies.collect(), total: None },
            wrong: self.0.iter().flat_map(|seen| seen.named_wrong(time)).collect(),
        }
    }
}

impl Seen {
    /// Returns the figures, if the server answered last.
    pub fn figures(&self) -> Option<Figures> {
        let Some(Ok(now)) = &self.last else { return None };
        Some(Figures::of(now, self.before.as_ref()))
    }

    /// Returns what is wrong.
    pub fn wrong(&self, time: Timestamp) -> Vec<Wrong> {
        match &self.last {
            None => Vec::new(),
            Some(Err(why)) => vec![Wrong { is_bad: true, what: why.clone() }],
            Some(Ok(now)) => wrong(now, self.before.as_ref(), time),
        }
    }

    fn named_wrong(&self, time: Timestamp) -> impl Iterator<Item = (String, Wrong)> {
        let shown = |wrong: Wrong| Wrong { what: escape(&wrong.what).into_owned(), ..wrong };
        self.wrong(time).into_iter().map(move |wrong| (escape(&self.name).into_owned(), shown(wrong)))
    }

    fn row(&self) -> Row {
        let cells = match (&self.last, self.figures()) {
            (_, Some(figures)) => Ok(cells(&figures)),
            (None, _) => Err("no answer yet".to_owned()),
            // The reason is in the list of what is wrong, where it may be long.
            _ => Err("no answer".to_owned()),
        };
        Row { name: escape(&self.name).into_owned(), cells }
    }
}

impl OfPolicy {
    fn row(&self, name: &str) -> Row {
        let name = if name.is_empty() { "(further ones)".into() } else { escape(name) };
        let Self { requests, latency } = self;
        let cells = vec![rate(Some(*requests)), quantile(latency, 0.5), quantile(latency, 0.99)];
        Row { name: name.into_owned(), cells: Ok(cells) }
    }
}

fn cells(figures: &Figures) -> Vec<Cell> {
    let is_busy = figures.requests.is_some_and(|requests| requests > 0.0);
    // Without other requests there is only who reads the metrics.
    let latency = if is_busy { &figures.latency } else { &Histogram::default() };
    let hits = figures.hit_ratio();
    vec![
        rate(figures.requests),
        rate(figures.errors),
        bad_rate(figures.failures),
        quantile(latency, 0.5),
        quantile(latency, 0.99),
        cell(hits, |ratio| format!("{:.1}%", ratio * 100.0)),
        cell(figures.keys, |keys| format!("{keys:.0}")),
        rate(figures.reads),
        bad_rate(figures.failed_reads),
        cell(figures.up_time, span),
    ]
}

fn cell(number: Option<f64>, text: impl FnOnce(f64) -> String) -> Cell {
    Cell { text: number.map_or_else(|| "-".to_owned(), text), number, is_bad: false }
}

fn rate(rate: Option<f64>) -> Cell {
    let text = |rate: f64| if rate < 9.95 { format!("{rate:.1}") } else { format!("{rate:.0}") };
    cell(rate, text)
}

fn bad_rate(number: Option<f64>) -> Cell {
    Cell { is_bad: number.is_some_and(|rate| rate > 0.0), ..rate(number) }
}

fn quantile(latency: &Histogram, quantile: f64) -> Cell {
    let found = latency.quantile(quantile);
    let sign = if matches!(found, Some(Quantile::MoreThan(_))) { ">" } else { "" };
    cell(found.map(Quantile::seconds), |seconds| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a cast of floats saturates"
        )]
        let nanoseconds = (seconds * 1e9) as u64;
        format!("{sign}{}", format::duration(nanoseconds))
    })
}

#[cfg(test)]
pub mod tests {
    use std::time::{Duration, Instant};

    use super::super::reading::Ready;
    use super::*;

    /// Returns a reading of a server `second` seconds after the first one, with so many requests of a policy until then.
    pub fn reading(began: Instant, second: u64, requests: u64, further: &str, ready: Ready) -> Reading {
        let family = "kms_request_duration_seconds";
        let of_policy = "kms_policy_request_duration_seconds";
        let slow = requests / 100;
        let text = format!(
            "kes_http_request_success{{code=\"200\"}} {requests}\nkes_http_request_error{{code=\"404\"}} 0\n\
             kes_http_request_failure{{code=\"502\"}} 0\nkms_requests_refused_total 0\n\
             {family}_bucket{{le=\"0.0001\"}} {0}\n{family}_bucket{{le=\"0.01\"}} {requests}\n{family}_bucket{{le=\"+Inf\"}} {requests}\n\
             {of_policy}_bucket{{policy=\"minio\",le=\"0.0001\"}} {0}\n{of_policy}_bucket{{policy=\"minio\",le=\"0.01\"}} {0}\n\
             {of_policy}_bucket{{policy=\"minio\",le=\"+Inf\"}} {0}\n\
             {of_policy}_bucket{{policy=\"re\\u001bport\",le=\"0.0001\"}} 0\n{of_policy}_bucket{{policy=\"re\\u001bport\",le=\"0.01\"}} {slow}\n\
             {of_policy}_bucket{{policy=\"re\\u001bport\",le=\"+Inf\"}} {slow}\n\
             kms_cache_hits {0}\nkms_cache_misses {slow}\nkms_cache_offline_hits 0\nkms_cache_keys 12\n\
             kms_key_store_reads {slow}\nkms_key_store_failed_reads 0\nkes_system_up_time {second}\n{further}",
            requests - slow
        );
        let text = text.replace("\\u001b", "\u{1b}");
        Reading::parse(&text, ready, began + Duration::from_secs(second)).unwrap()
    }

    fn texts(row: &Row) -> Vec<&str> {
        row.cells.as_ref().unwrap().iter().map(|cell| &*cell.text).collect()
    }

    #[test]
    fn rates_need_two_answers_and_a_server_that_is_away_is_a_row() {
        let began = Instant::now();
        let mut state = State::new(["one".to_owned(), "two".to_owned()]);
        assert_eq!(state.view(Timestamp::now()).servers.rows[0].cells, Err("no answer yet".to_owned()));
        state.note(0, Ok(reading(began, 0, 0, "", Ready::Yes)));
        state.note(1, Err("cannot connect to two".to_owned()));
        let view = state.view(Timestamp::now());
        assert_eq!(texts(&view.servers.rows[0]), ["-", "-", "-", "-", "-", "-", "12", "-", "-", "0s"]);
        assert_eq!(view.servers.rows[1].cells, Err("no answer".to_owned()));
        let what = "cannot connect to two".to_owned();
        assert_eq!(view.wrong, [("two".to_owned(), Wrong { is_bad: true, what })]);

        state.note(0, Ok(reading(began, 2, 2000, "", Ready::Yes)));
        let view = state.view(Timestamp::now());
        assert_eq!(
            texts(&view.servers.rows[0]),
            ["1000", "0.0", "0.0", "51µs", "100µs", "99.0%", "12", "10", "0.0", "2s"]
        );
        assert_eq!(texts(view.servers.total.as_ref().unwrap())[0], "1000");
        let policies: Vec<_> = view.policies.rows.iter().map(|row| (row.name.as_str(), texts(row))).collect();
        assert_eq!(
            policies,
            [("minio", vec!["990", "50µs", "99µs"]), ("re\\u{1b}port", vec!["10", "5.1ms", "9.9ms"])]
        );

        // A server that was started anew counts from zero.
        state.note(0, Ok(reading(began, 4, 100, "", Ready::Yes)));
        assert_eq!(texts(&state.view(Timestamp::now()).servers.rows[0])[0], "50");
    }

    #[test]
    fn what_is_wrong_is_told_the_worst_first() {
        let began = Instant::now();
        let time = Timestamp::now();
        let at = |days: i64| time.as_second() + days * 86_400;
        let mut state = State::new(["one".to_owned()]);
        state.note(0, Ok(reading(began, 0, 0, "kms_audit_events_dropped_total 1\n", Ready::Yes)));
        let further = format!(
            "kms_audit_events_dropped_total 1\nkms_certificate_expiry_timestamp_seconds {}\n\
             kms_roots_closed 1\nkms_escrow_writable 0\nkms_escrow_missing_keys 2\n\
             kms_key_store_login_expiry_timestamp_seconds 0\nkms_backup_last_good_drill_age_seconds 3e6\n",
            at(3)
        );
        let degraded = Ready::Degraded("root 'a' is away; key 'b' does not exist yet".to_owned());
        state.note(0, Ok(reading(began, 1, 0, &further, degraded)));
        let wrong: Vec<_> =
            state.view(time).wrong.into_iter().map(|(_, wrong)| (wrong.is_bad, wrong.what)).collect();
        let told: Vec<_> = wrong.iter().map(|(is_bad, what)| (*is_bad, what.as_str())).collect();
        assert_eq!(
            told,
            [
                (true, "a root does not open the key store"),
                (true, "there is no login at the key store, or it has ended"),
                (true, "the escrow file cannot be written"),
                (true, "the escrow file lacks 2 keys"),
                (false, "root 'a' is away"),
                (false, "key 'b' does not exist yet"),
                (false, "1 events of the audit log were lost since the start"),
                (false, "the server's certificate ends in 3d"),
                (false, "the last good drill of a backup was 34d ago"),
            ]
        );
        let further = format!(
            "kms_audit_events_dropped_total 4\nkms_certificate_expiry_timestamp_seconds {}\nkms_key_store_away 1\n",
            at(-1)
        );
        state.note(0, Ok(reading(began, 2, 0, &further, Ready::Unknown)));
        let told: Vec<_> = state.view(time).wrong.into_iter().map(|(_, wrong)| wrong.what).collect();
        assert_eq!(
            told,
            [
                "3 events of the audit log were lost",
                "the key store does not answer",
                "the server's certificate ended 1d ago"
            ]
        );
    }
}
