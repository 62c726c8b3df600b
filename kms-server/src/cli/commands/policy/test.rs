//! `kms policy test`: whether the policies of a config allow a request, and by which rule.

use std::path::{Path, PathBuf};

use kms_core::Identity;
use serde_json::json;

use crate::access::policy::{AccessRules, Role, Target};
use crate::api::{self, Routes};
use crate::cli::commands::identity::identity_of;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{self, Environment, Flags};
use crate::credentials::apikey::PREFIX;

/// The arguments of `kms policy test`.
#[derive(clap::Args)]
pub struct Args {
    /// The config file of the server.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The identity of the client: 64 hex digits, an API key, or the file of a certificate.
    #[arg(long, value_name = "IDENTITY")]
    identity: String,
    /// The path of the request, such as /v1/key/create/my-key.
    path: String,
    /// The admin's identity, if the server gets one by its flag --root.
    #[arg(long, value_name = "IDENTITY")]
    root: Option<String>,
    /// Print the decision as JSON.
    #[arg(long)]
    json: bool,
}

/// Decides about one request as a server with this config does.
pub fn run(args: &Args, environment: &Environment) -> Result<(), Failure> {
    let identity = parse_identity(&args.identity)?;
    let flags = Flags { root: args.root.clone(), ..Flags::default() };
    let settings = config::load_with(&args.config, &flags, environment)?.settings;
    let access = AccessRules::new(settings.admin, &settings.policies)
        .map_err(|error| Failure::new(error.to_string()))?;
    let role = access.role(&identity);
    let routes = Routes::standard().with_settings(&settings.routes);
    let decision = decide(&role, &routes, &args.path);
    let output = Output::new(args.json);
    let (allowed, reason) = match &decision {
        Ok(reason) => (true, reason.clone()),
        Err(reason) => (false, reason.clone()),
    };
    let policy = match &role {
        Role::Policy(policy) => Some(policy.name()),
        Role::Admin | Role::None => None,
    };
    if output.is_json() {
        output.json(&json!({
            "allowed": allowed,
            "identity": identity.to_string(),
            "path": args.path,
            "policy": policy,
            "reason": reason,
        }))?;
    } else {
        let verdict = if allowed { "allowed" } else { "denied" };
        output.line(format_args!("{verdict}: {reason}"))?;
    }
    if allowed { Ok(()) } else { Err(Failure::silent()) }
}

/// Reads an identity: 64 hex digits, an API key, or the file of a certificate.
pub fn parse_identity(text: &str) -> Result<Identity, Failure> {
    match Identity::from_hex(text) {
        Some(identity) => Ok(identity),
        None if text.starts_with(PREFIX) || Path::new(text).exists() => identity_of(text),
        None => Err(Failure::new(
            "invalid identity, expected 64 hex digits, an API key, or the file of a certificate",
        )),
    }
}

/// Decides as the server does, and returns the reason for a yes or a no.
fn decide(role: &Role, routes: &Routes, path: &str) -> Result<String, String> {
    let path = api::decode(path.split('?').next().unwrap_or_default());
    let found = routes.find(&path);
    if found.is_some_and(|(route, _)| route.is_open()) {
        return Ok("no policy is asked about this path".to_owned());
    }
    let note = if found.is_none() { ", but no route has this path" } else { "" };
    let nowhere = Target::of(&path);
    let target = found.map_or(nowhere, |(route, rest)| route.target(&path, rest));
    match role {
        Role::Admin => Ok(format!("the identity is the admin, who may do everything{note}")),
        Role::Policy(policy) => match policy.rule_for(&target) {
            Ok(pattern) => Ok(format!("policy '{}' allows '{pattern}'{note}", policy.name())),
            Err(denial) => Err(denial.to_string()),
        },
        Role::None => Err("the identity has no policy, and is not the admin".to_owned()),
    }
}
