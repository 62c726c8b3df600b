//! `kms policy`: shows the policies of a server, tests requests against those of a config, and says what a policy needs.

mod explain;
mod for_minio;
mod narrow;
mod test;

use clap::Subcommand;
use http::Method;
use serde::{Deserialize, Serialize};

use crate::cli::client::{Patterns, parse, path_of};
use crate::cli::colour::Style;
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::format;
use crate::cli::listing::{self, Kind, ListArgs};
use crate::cli::name::Call;
use crate::cli::output::Output;
use crate::cli::runtime::block_on;

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
    Test(test::Args),
    /// Explain from an audit log which requests were denied, why, and what would allow them.
    Explain(explain::Args),
    /// Print the smallest policy for a MinIO.
    ForMinio(for_minio::Args),
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
        Command::Test(args) => test::run(&args, call.environment),
        Command::Explain(args) => explain::run(&args, call),
        Command::ForMinio(args) => for_minio::run(&args, call),
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
