//! `kms identity info`.

use http::Method;
use serde::Deserialize;

use crate::cli::client::{Patterns, parse, path_of};
use crate::cli::colour::Style;
use crate::cli::connection::Connection;
use crate::cli::failure::Failure;
use crate::cli::format;
use crate::cli::listing;
use crate::cli::name::Call;
use crate::cli::runtime::block_on;

#[derive(clap::Args)]
pub struct InfoArgs {
    /// The identity [default: your own].
    identity: Option<String>,
    /// Print the server's answer as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Prints the rights of an identity.
pub fn run(args: &InfoArgs, call: Call<'_>) -> Result<(), Failure> {
    /// A server's answer. It has more fields about the caller than about other identities.
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Info {
        identity: String,
        admin: bool,
        policy: String,
        created_at: String,
        created_by: String,
        allow: Patterns,
        deny: Patterns,
    }

    let path = match &args.identity {
        None => "/v1/identity/self/describe".to_owned(),
        Some(identity) => {
            listing::refuse_secret(identity)?;
            path_of("identity/describe", identity)
        }
    };
    let client = args.connection.client(call)?;
    let answer = block_on(client.send(Method::GET, &path, None))??;
    let output = call.output(args.json);
    if output.is_json() {
        return output.received_json(&answer);
    }
    let info: Info = parse(&answer)?;
    let named = args.identity.clone().unwrap_or(info.identity);
    output.details(&[
        ("Identity", &named),
        ("Policy", &info.policy),
        ("Created At", &format::date(&info.created_at)),
        ("Role", if info.admin { "Admin" } else { "User" }),
        ("Created By", &info.created_by),
    ])?;
    for (title, patterns) in [("Allow", &info.allow), ("Deny", &info.deny)] {
        if !patterns.is_empty() {
            output.row(&[(Style::Label, title)])?;
            output.lines(patterns.keys().map(|pattern| format!("  {pattern}")))?;
        }
    }
    Ok(())
}
