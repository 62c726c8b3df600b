//! What `kms root status` prints.

use std::net::SocketAddr;

use http::Method;
use jiff::Timestamp;
use kms_core::ErrorKind;
use kms_core::roots::{RootId, RootState, RootStatus, RootsStatus};
use serde_json::{Value, json};

use crate::cli::commands::check::{earlier_records, lost_anchor};
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::{Output, note};
use crate::store::roots::{HeaderKey, Prepared};
use crate::store::roots_opened::{self, Times};

/// The family of metrics that says when roots last opened.
const FAMILY: &str = "kms_root_last_opened_timestamp_seconds";

/// When roots last opened that do not open now, and who says so.
#[derive(Default)]
pub struct LastOpened {
    times: Times,
    says: String,
    /// What an operator can do to know it.
    hint: Option<&'static str>,
}

impl LastOpened {
    /// Looks for it where the server of this store leaves it: beside a local store, else in the metrics of the running server.
    pub async fn of(
        status: &RootsStatus,
        prepared: &Prepared,
        connection: &Connection,
        address: SocketAddr,
        call: Call<'_>,
    ) -> Self {
        if status.open() == status.roots.len() || status.anchor.is_none() {
            return Self::default();
        }
        if let Some(local) = &prepared.local {
            let says = format!("{} says", roots_opened::file_in(&local.path).display());
            return Self { times: roots_opened::read(&local.path), says, hint: None };
        }
        if !connection.names_identity(call) {
            let hint = "When a root last opened is what a running server knows: with an API key in KES_API_KEY it is asked";
            return Self { hint: Some(hint), ..Self::default() };
        }
        match asked(connection, address, call).await {
            Ok(times) => Self { times, says: "the server says".to_owned(), hint: None },
            Err(failure) => {
                note(format_args!("Warning: when roots last opened was asked of the server: {failure}"));
                Self::default()
            }
        }
    }

    /// Returns the time of this look, or that of the last one at which the root opened.
    fn at(&self, root: &RootStatus) -> Option<Timestamp> {
        root.opened_at.or_else(|| self.times.get(root.id.as_str()).copied())
    }

    fn told(&self, root: &RootStatus) -> String {
        match (root.opened_at, self.at(root)) {
            (Some(now), _) => format!("opens now, at {now:.0}"),
            (None, Some(at)) => format!("{}; it last opened at {at:.0}, {}", root.detail, self.says),
            (None, None) => format!("{}; when it last opened is not known", root.detail),
        }
    }
}

/// Asks the server that the user names, or else the one at the address of the config.
async fn asked(connection: &Connection, address: SocketAddr, call: Call<'_>) -> Result<Times, Failure> {
    let client = connection.client_or_at(address, call)?;
    let metrics = client.send(Method::GET, "/metrics", None).await?;
    Ok(times(&String::from_utf8_lossy(&metrics)))
}

/// Reads the times out of metrics. A root that did not open since the start of the server has the time zero.
fn times(metrics: &str) -> Times {
    let samples = metrics.lines().filter_map(|line| {
        let (id, seconds) = line.strip_prefix(FAMILY)?.strip_prefix("{root=\"")?.split_once("\"} ")?;
        let seconds = seconds.trim().parse().ok().filter(|seconds| *seconds > 0)?;
        Some((RootId::new(id).ok()?.to_string(), Timestamp::from_second(seconds).ok()?))
    });
    samples.collect()
}

/// Prints the status.
pub fn show(
    status: &RootsStatus,
    prepared: &Prepared,
    last: &LastOpened,
    output: Output,
) -> Result<(), Failure> {
    if output.is_json() {
        return output.json(&as_json(status, last));
    }
    match &status.anchor {
        Some(anchor) => output.line(format_args!("Store key {:?}", anchor.fingerprint))?,
        None => output.line("The store has no store key under its roots")?,
    }
    for root in &status.roots {
        output.line(format_args!("{}  {}", root.id, last.told(root)))?;
    }
    match &status.not_configured {
        Ok(others) => {
            for id in others {
                output.line(format_args!("{id}  is in the store, not in this config"))?;
            }
        }
        Err(error) if error.kind() == ErrorKind::Unsupported => {}
        Err(error) => output.line(format_args!(
            "Whether the store has entries of roots that are not in this config is not known: {}",
            error.chain()
        ))?,
    }
    if let Some(hint) = last.hint {
        output.line(hint)?;
    }
    if prepared.header() == Some(&HeaderKey::Closed) {
        output.line("The header of the store holds the store key under a local root key that is not here")?;
    }
    if let Some(under_way) = &status.under_way {
        output.line(under_way)?;
    }
    let anchorless = lost_anchor(status, prepared);
    if let Some(anchorless) = &anchorless {
        output.line(anchorless)?;
    }
    match (&status.records, earlier_records(status)) {
        (_, Some(earlier)) => output.line(earlier),
        (Ok(_), None) if anchorless.is_some() => Ok(()),
        (Ok(records), None) if status.open() == 0 && records.all() > 0 => {
            output.line(format_args!("{} records, which no root here opens now", records.all()))
        }
        (Ok(records), None) => {
            output.line(format_args!("{} records, each protected by every root that opens", records.all()))
        }
        (Err(_), None) => Ok(()),
    }
}

fn as_json(status: &RootsStatus, last: &LastOpened) -> Value {
    let roots = status.roots.iter();
    let roots: Vec<_> = roots
        .map(|root| {
            json!({
                "id": root.id.as_str(),
                "opens": root.state == RootState::Opens,
                "detail": root.detail,
                "last_opened": last.at(root).map(|at| at.to_string()),
            })
        })
        .collect();
    json!({
        "store_key": status.anchor.map(|anchor| format!("{:?}", anchor.fingerprint)),
        "removing": status.removing.as_ref().map(RootId::as_str),
        "under_way": status.under_way,
        "roots": roots,
        "not_in_config": status.not_configured.as_ref().ok().map(|ids| ids.iter().map(RootId::as_str).collect::<Vec<_>>()),
        "records": status.records.as_ref().ok().map(|records| json!({
            "sealed": records.sealed,
            "one_root_only": records.earlier,
            "unreadable": records.unreadable,
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_out_of_metrics() {
        let metrics = format!(
            "# HELP {FAMILY} a\n# TYPE {FAMILY} gauge\n{FAMILY}{{root=\"one\"}} 1700000000\n{FAMILY}{{root=\"two\"}} 0\n\
             {FAMILY}{{root=\"b/d\"}} 5\n{FAMILY}_other{{root=\"x\"}} 5\n"
        );
        let expected = Timestamp::from_second(1_700_000_000).unwrap();
        assert_eq!(times(&metrics), Times::from([("one".to_owned(), expected)]));
    }
}
