//! The report of the check: all findings, and the identities that the config names.

use kms_core::store::{Finding, Level};
use std::fmt;
use std::path::Path;

use kms_core::Identity;
use serde::Serialize;

use super::{certificate, key_store, policy};
use crate::config::{self, Environment};
use crate::settings::Settings;
use crate::text::terminal::Escaped;

/// The result of all checks.
#[derive(Serialize)]
pub struct Report {
    /// Whether no finding is an error.
    ok: bool,
    /// The findings, in the order of the checks.
    findings: Vec<Finding>,
    /// The identities that have rights, with the admin first.
    identities: Vec<Grant>,
}

/// The rights of an identity.
#[derive(Serialize)]
struct Grant {
    identity: String,
    /// The name of the policy; `None` for the admin, who may do everything.
    policy: Option<String>,
    allow: Vec<String>,
    deny: Vec<String>,
}

impl Report {
    /// Checks the config file at `path` and everything that it names. With `all`, every key is read.
    ///
    /// A key store that can be opened gets an entry that is no key, which is written, read and deleted.
    pub async fn of(path: &Path, environment: &Environment, all: bool) -> Self {
        let mut findings = Vec::new();
        let mut identities = Vec::new();
        match config::load(path, environment) {
            Err(problem) => findings.push(Finding::problem("config", problem.to_string())),
            Ok(loaded) => {
                findings.push(Finding::good("config", path.display().to_string()));
                findings.extend(loaded.warnings.iter().map(|warning| {
                    let level = if warning.has_no_effect { Level::Problem } else { Level::Warning };
                    Finding::new(level, "config", warning.to_string())
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
        let ok = !findings.iter().any(|finding| finding.level == Level::Problem);
        Self { ok, findings, identities }
    }

    /// Returns the number of errors.
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.level == Level::Problem).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { level, what, detail, .. } in &self.findings {
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

/// Returns the grants of all identities, with the admin first.
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
