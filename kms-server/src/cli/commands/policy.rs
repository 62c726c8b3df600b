//! `kms policy`: shows the policies of a server, and tests requests against the policies of a config.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use http::Method;
use kms_core::Identity;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::identity::identity_of;
use crate::access::policy::{AccessRules, Role, Target};
use crate::api::{self, Routes};
use crate::cli::client::{Patterns, parse, path_of};
use crate::cli::colour::Style;
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::format;
use crate::cli::listing::{self, Kind, ListArgs};
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;
use crate::config::{self, Environment, Flags};

/// The commands of `kms policy`.
#[derive(Subcommand)]
pub enum Command {
    /// Show who created a policy, and when.
    Info(NameArgs),
    /// List policies.
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Show what a policy allows and denies.
    Show(NameArgs),
    /// Test whether the policies of a config allow a request, and explain why; the exit code is 1 if they do not.
    Test(TestArgs),
}

#[derive(clap::Args)]
pub struct NameArgs {
    /// The name of the policy.
    name: String,
    /// Print the server's answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(clap::Args)]
pub struct TestArgs {
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

/// Runs one of the commands.
pub fn run(command: Command, call: Call<'_>) -> Result<(), Failure> {
    match command {
        Command::Info(args) => info(&args, call),
        Command::Show(args) => show(&args, call),
        Command::Ls(args) => listing::print_under(
            // KES has the wrong title, and scripts rely on it.
            if call.is_kes() { "Key" } else { "Policy" },
            Kind::Policies,
            &args,
            call,
        ),
        Command::Test(args) => test(&args, call.environment),
    }
}

/// A policy in the answer of a server, with its fields in KES's order.
#[derive(Deserialize, Serialize, Default)]
#[serde(default)]
struct Info {
    #[serde(skip_serializing)]
    name: String,
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    allow: Patterns,
    #[serde(skip_serializing_if = "Patterns::is_empty")]
    deny: Patterns,
    created_at: String,
    created_by: String,
}

impl Info {
    /// Parses a server's answer about the policy that `args` name.
    fn parse(answer: &[u8], args: &NameArgs) -> Result<Self, Failure> {
        let mut info: Self = parse(answer)?;
        if info.name.is_empty() {
            info.name.clone_from(&args.name);
        }
        Ok(info)
    }
}

fn info(args: &NameArgs, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    let path = path_of("policy/describe", &args.name);
    let answer = block_on(client.send(Method::GET, &path, None))??;
    let output = call.output(args.json);
    if output.is_json() {
        return output.shown_json(&answer);
    }
    let info = Info::parse(&answer, args)?;
    output.details(&[
        ("Name", &info.name),
        ("Date", &format::date(&info.created_at)),
        ("Created by", &info.created_by),
    ])
}

fn show(args: &NameArgs, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    let path = path_of("policy/read", &args.name);
    let answer = block_on(client.send(Method::GET, &path, None))?
        .map_err(|error| Failure::from(error).context(&format!("failed to show policy '{}'", args.name)))?;
    let output = call.output(args.json);
    let info = Info::parse(&answer, args)?;
    if output.is_json() || !output.is_terminal() {
        if !call.is_kes() {
            return output.shown_json(&answer);
        }
        let json = serde_json::to_vec(&info).map_err(|error| Failure::new(error.to_string()))?;
        return output.shown_json(&json);
    }
    print_rules(&info, output)
}

/// Prints a policy for people.
fn print_rules(info: &Info, output: Output) -> Result<(), Failure> {
    let rules = [("Allow:", Style::Good, &info.allow), ("Deny:", Style::Bad, &info.deny)];
    for (title, style, patterns) in rules.into_iter().filter(|(_, _, patterns)| !patterns.is_empty()) {
        output.row(&[(style, title)])?;
        output.lines(patterns.keys().map(|pattern| format!("  · {pattern}")))?;
        output.line("")?;
    }
    output.line("")?;
    output.row(&[
        (Style::Label, "Created at:"),
        (Style::Plain, " "),
        (Style::Plain, &format::date(&info.created_at)),
    ])?;
    output.row(&[(Style::Label, "Created by:"), (Style::Plain, " "), (Style::Plain, &info.created_by)])
}

fn test(args: &TestArgs, environment: &Environment) -> Result<(), Failure> {
    let identity = match Identity::from_hex(&args.identity) {
        Some(identity) => identity,
        None if args.identity.starts_with(crate::credentials::apikey::PREFIX)
            || Path::new(&args.identity).exists() =>
        {
            identity_of(&args.identity)?
        }
        None => {
            return Err(Failure::new(
                "invalid identity, expected 64 hex digits, an API key, or the file of a certificate",
            ));
        }
    };
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
