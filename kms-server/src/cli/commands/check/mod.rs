//! `kms check`: what is wrong with a configuration, told before production tells.

mod certificate;
mod key_store;
mod policy;

use std::fmt;
use std::path::Path;

use kms_core::Identity;
use kms_core::store::{Finding, Level};
use serde::Serialize;

use crate::config::{self, Environment};
use crate::settings::Settings;
use crate::text::terminal::Escaped;

/// All that was found.
#[derive(Serialize)]
pub struct Report {
    /// Whether nothing has to be mended.
    ok: bool,
    /// What was looked at, in this order.
    findings: Vec<Finding>,
    /// Who may do something, the admin first.
    identities: Vec<Grant>,
}

/// What an identity may do.
#[derive(Serialize)]
struct Grant {
    identity: String,
    /// The name of the policy; `None` for the admin, who may do everything.
    policy: Option<String>,
    allow: Vec<String>,
    deny: Vec<String>,
}

/// Checks the config file at `path` and all that it names; the key store is asked to store, return and forget
/// an entry of no meaning. With `all` every key is read.
pub async fn check(path: &Path, environment: &Environment, all: bool) -> Report {
    let mut findings = Vec::new();
    let mut identities = Vec::new();
    match config::load(path, environment) {
        Err(problem) => findings.push(Finding::problem("config", problem.to_string())),
        Ok(loaded) => {
            findings.push(Finding::good("config", path.display().to_string()));
            findings.extend(loaded.warnings.iter().map(|warning| {
                let level = if warning.has_no_effect { Level::Problem } else { Level::Warning };
                Finding { level, what: "config", detail: warning.to_string() }
            }));
            findings.extend(policy::check(&loaded.settings.policies));
            let mut of_files = certificate::check(&loaded.settings.tls);
            of_files.extend(key_store::check(&loaded.settings.key_store, all).await);
            for finding in of_files.iter_mut().filter(|finding| finding.level == Level::Problem) {
                finding.detail = loaded.origins.tell(&finding.detail);
            }
            findings.extend(of_files);
            identities = grants(loaded.settings);
        }
    }
    let ok = findings.iter().all(|finding| finding.level != Level::Problem);
    Report { ok, findings, identities }
}

impl Report {
    /// Counts what has to be mended.
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.level == Level::Problem).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { level, what, detail } in &self.findings {
            writeln!(f, "{level:<8} {what:<12} {}", Escaped(detail))?;
        }
        for Grant { identity, policy, allow, deny } in &self.identities {
            match policy {
                None => writeln!(f, "identity {identity} is the admin")?,
                Some(policy) => writeln!(
                    f,
                    "identity {identity} has policy '{policy}' (allows {}, denies {})",
                    patterns(allow.len()),
                    patterns(deny.len())
                )?,
            }
        }
        let errors = self.errors();
        let warnings = self.findings.iter().filter(|finding| finding.level == Level::Warning).count();
        write!(f, "{errors} errors, {warnings} warnings")
    }
}

fn patterns(count: usize) -> String {
    if count == 1 { "1 pattern".to_owned() } else { format!("{count} patterns") }
}

fn grants(settings: Settings) -> Vec<Grant> {
    let everything = |admin: Identity| Grant {
        identity: admin.to_string(),
        policy: None,
        allow: vec!["*".to_owned()],
        deny: Vec::new(),
    };
    let mut grants: Vec<_> = settings.admin.map(everything).into_iter().collect();
    for (name, policy) in settings.policies {
        grants.extend(policy.identities.iter().map(|identity| Grant {
            identity: identity.to_string(),
            policy: Some(name.clone()),
            allow: policy.allow.clone(),
            deny: policy.deny.clone(),
        }));
    }
    grants
}
