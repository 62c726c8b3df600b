//! `kms identity of`, and `kms identity FILE`.

use kms_core::Identity;
use serde_json::json;

use super::source::{Described, describe, identity_of};
use crate::cli::colour::Style;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::Output;

#[derive(clap::Args)]
pub struct OfArgs {
    /// An API key, or the file of a certificate; '-' reads either from stdin.
    #[arg(value_name = "API-KEY|CERTIFICATE")]
    of: String,
    /// Print the identity as JSON.
    #[arg(long)]
    json: bool,
}

/// Prints the identity of an API key or a certificate.
pub fn run(args: &OfArgs, call: Call<'_>) -> Result<(), Failure> {
    print_identity(&args.of, args.json, call)
}

/// Prints the identity of an API key or a certificate.
pub fn print_identity(of: &str, json: bool, call: Call<'_>) -> Result<(), Failure> {
    print(&identity_of(of)?, call.output(json))
}

/// Prints the identity of an API key or a certificate, or the API key of a private key.
pub fn run_for_any(of: &str, json: bool, call: Call<'_>) -> Result<(), Failure> {
    let output = call.output(json);
    let api_key = match describe(of)? {
        Described::Identity(identity) => return print(&identity, output),
        Described::ApiKey(api_key) => api_key,
    };
    let text = api_key.to_text();
    if output.is_json() {
        return output.json(&json!({ "api_key": *text, "identity": api_key.identity().to_string() }));
    }
    if !output.is_terminal() {
        return output.line(&*text);
    }
    output.text("Your API key:\n")?;
    output.row(&[(Style::Plain, "   "), (Style::Strong, &text)])?;
    output.line("")?;
    output.line(format_args!("It corresponds to the private key in: {of}."))?;
    output.line("Keep it secret and secure!")
}

fn print(identity: &Identity, output: Output) -> Result<(), Failure> {
    let identity = identity.to_string();
    if output.is_json() {
        return output.json(&json!({ "identity": identity }));
    }
    if !output.is_terminal() {
        return output.line(identity);
    }
    output.text("Identity:\n")?;
    output.row(&[(Style::Plain, "   "), (Style::Strong, &identity)])
}
