//! The settings that are in force, by the keys of the config.

use kms_core::Identity;

use super::stores;
use super::values::{Shown, Value, Values, days, duration};
use crate::settings::{
    AuditFailure, ErrorLevel, EscrowFailure, LogFormat, LogSettings, Settings, TlsSettings,
};

/// Returns all settings in the order of the example.
pub fn of(settings: &Settings) -> Vec<Value> {
    let mut values = Values::default();
    let out = &mut values;
    let kes = settings.is_for_kes.then_some("kes");
    out.optional("rollback", kes);
    out.text("address", settings.address);
    out.text("threads", settings.threads.map_or("as many as CPUs".to_owned(), |threads| threads.to_string()));
    out.text("admin.identity", settings.admin.map_or("disabled".to_owned(), |admin| admin.to_string()));
    tls(&settings.tls, out);
    for (name, policy) in &settings.policies {
        let lists = [
            ("allow", policy.allow.clone()),
            ("deny", policy.deny.clone()),
            ("paths", policy.paths.clone()),
            ("identities", policy.identities.iter().map(Identity::to_string).collect()),
        ];
        for (key, list) in lists.into_iter().filter(|(key, list)| !list.is_empty() || *key != "paths") {
            out.at(vec!["policy".to_owned(), name.clone(), key.to_owned()], Shown::List(list));
        }
    }
    out.text("cache.expiry.any", duration(settings.cache.any));
    out.text("cache.expiry.unused", duration(settings.cache.unused));
    out.text("cache.expiry.offline", duration(settings.cache.offline));
    out.text("deletion.grace", days(settings.grace));
    out.list("keys", &settings.keys);
    for (name, age) in &settings.rotate_after {
        if let Some(index) = settings.keys.iter().position(|key| key == name) {
            out.text(&format!("keys.{index}.rotate_after"), days(*age));
        }
    }
    stores::key_store(&settings.key_store, out);
    if let Some(escrow) = &settings.escrow {
        out.list("escrow.recipients", &escrow.recipients);
        out.file("escrow.path", Some(&escrow.path));
        let on_failure = match escrow.on_failure {
            EscrowFailure::Refuse => "refuse",
            EscrowFailure::Warn => "warn",
        };
        out.text("escrow.on_failure", on_failure);
    }
    log(&settings.log, out);
    for (path, route) in &settings.routes {
        let at = |key: &str| vec!["api".to_owned(), path.clone(), key.to_owned()];
        out.at(at("skip_auth"), Shown::Text(if route.skip_auth { "on" } else { "off" }.to_owned()));
        out.at(at("timeout"), route.timeout.map_or(Shown::Nothing, |time| Shown::Text(duration(time))));
    }
    out.optional("probes.address", settings.probes);
    out.list("backup.recipients", &settings.backup.recipients);
    out.file("backup.drill_evidence", settings.backup.drill_evidence.as_deref());
    values.into_all()
}

fn tls(tls: &TlsSettings, out: &mut Values) {
    out.file("tls.cert", Some(&tls.cert));
    out.file("tls.key", Some(&tls.key));
    out.secret("tls.password", tls.password.is_some());
    out.switch("tls.auth", tls.verify_clients);
    let ca = tls.ca.as_ref().map(|ca| ca.display().to_string());
    out.text("tls.ca", ca.unwrap_or_else(|| "the CAs of the system".to_owned()));
    if let Some(proxy) = &tls.proxy {
        out.list("tls.proxy.identities", &proxy.identities);
        out.text("tls.proxy.header.cert", &proxy.cert_header);
    }
}

fn log(log: &LogSettings, out: &mut Values) {
    let error = match log.error_level {
        _ if !log.error => "off",
        ErrorLevel::All => "on",
        ErrorLevel::Warn => "WARN",
        ErrorLevel::Error => "ERROR",
    };
    out.text("log.error", error);
    let format = match log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    out.text("log.format", format);
    out.switch("log.audit", log.audit);
    let file = log.audit_file.as_ref().map(|file| file.display().to_string());
    out.text("log.audit_file", file.unwrap_or_else(|| "stdout".to_owned()));
    let failure = match log.audit_failure {
        AuditFailure::Drop => "drop",
        AuditFailure::Refuse => "refuse",
    };
    out.text("log.audit_failure", failure);
}
