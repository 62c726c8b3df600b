//! The section `log`.

use std::path::PathBuf;

use super::super::log_level::LogLevel;
use super::super::problem::Problem;
use super::super::schema::RawLog;
use super::context::{Context, given};
use crate::settings::{AuditFailure, ErrorLevel, LogFormat, LogSettings};

/// Checks the section.
pub fn log(raw: RawLog, context: &mut Context<'_>) -> Result<LogSettings, Problem> {
    let default = LogSettings::default();
    let audit_failure = match raw.audit_failure.as_deref() {
        None => default.audit_failure,
        Some("drop") => AuditFailure::Drop,
        Some("refuse") => AuditFailure::Refuse,
        Some(other) => {
            let message = format!("'{}' is unknown, expected 'drop' or 'refuse'", other.escape_debug());
            return Err(context.problem("log.audit_failure", message));
        }
    };
    let format = match raw.format.as_deref() {
        None => default.format,
        Some("text") => LogFormat::Text,
        Some("json") => LogFormat::Json,
        Some(other) => {
            let message = format!("'{}' is unknown, expected 'text' or 'json'", other.escape_debug());
            return Err(context.problem("log.format", message));
        }
    };
    let (error, audit) = (raw.error.unwrap_or(LogLevel::INFO), raw.audit);
    if audit.is_some_and(|level| level > LogLevel::INFO && level <= LogLevel::ERROR) {
        context.warn("log.audit", "there is no audit log: its events are of level INFO, as with KES");
    }
    Ok(LogSettings {
        error: error <= LogLevel::ERROR,
        error_level: if error <= LogLevel::INFO {
            ErrorLevel::All
        } else if error <= LogLevel::WARN {
            ErrorLevel::Warn
        } else {
            ErrorLevel::Error
        },
        format,
        audit: audit.map_or(default.audit, |level| level <= LogLevel::INFO),
        audit_file: given(raw.audit_file).map(PathBuf::from),
        audit_failure,
    })
}
