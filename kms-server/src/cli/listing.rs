//! Lists of the names that a server has: of keys, identities and policies.

use http::Method;
use serde::Deserialize;

use super::client::{Client, ClientError, path_of};
use super::colour::Style;
use super::connection::Connection;
use super::failure::Failure;
use super::name::Call;
use super::runtime::block_on;
use crate::text::mask::Secret;

/// The arguments of every command that lists names.
#[derive(clap::Args)]
pub struct ListArgs {
    /// List only the names that begin with this; may end in '*'.
    #[arg(default_value = "*")]
    pattern: String,
    /// Print the names as a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl ListArgs {
    /// Returns the pattern.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Returns whether the user asked for JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Creates the client.
    pub fn client(&self, call: Call<'_>) -> Result<Client, Failure> {
        self.connection.client(call)
    }
}

/// The things that a server lists.
#[derive(Clone, Copy)]
pub enum Kind {
    /// Keys.
    Keys,
    /// Identities.
    Identities,
    /// Policies.
    Policies,
}

impl Kind {
    /// Returns the title over a list.
    fn title(self) -> &'static str {
        match self {
            Self::Keys => "Key",
            Self::Identities => "Identity",
            Self::Policies => "Policy",
        }
    }

    fn route(self) -> &'static str {
        match self {
            Self::Keys => "key/list",
            Self::Identities => "identity/list",
            Self::Policies => "policy/list",
        }
    }

    fn plural(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Identities => "identities",
            Self::Policies => "policies",
        }
    }
}

/// Reads all pages of a list and prints its names under a title. An empty list prints nothing.
pub fn print(kind: Kind, args: &ListArgs, call: Call<'_>) -> Result<(), Failure> {
    print_under(kind.title(), kind, args, call)
}

/// Prints the same as [`print`] under another title.
pub fn print_under(title: &str, kind: Kind, args: &ListArgs, call: Call<'_>) -> Result<(), Failure> {
    let client = args.connection.client(call)?;
    if matches!(kind, Kind::Identities) {
        refuse_secret(&args.pattern)?;
    }
    let names = block_on(read_all(&client, kind, &args.pattern))?
        .map_err(|error| Failure::from(error).context(&format!("failed to list {}", kind.plural())))?;
    let output = call.output(args.json);
    if output.is_json() {
        // KES has no empty array.
        let is_null = call.is_kes() && names.is_empty();
        return output.json(&(!is_null).then_some(&names));
    }
    if names.is_empty() {
        return Ok(());
    }
    output.row(&[(Style::Header, title)])?;
    output.lines(&names)
}

async fn read_all(client: &Client, kind: Kind, pattern: &str) -> Result<Vec<String>, ClientError> {
    #[derive(Deserialize)]
    struct Page {
        #[serde(default, alias = "identities")]
        names: Option<Vec<String>>,
        #[serde(default)]
        continue_at: String,
    }

    let mut names = Vec::new();
    let mut pattern = pattern.to_owned();
    loop {
        let page: Page = client.json(Method::GET, &path_of(kind.route(), &pattern), None).await?;
        names.extend(page.names.unwrap_or_default());
        if page.continue_at.is_empty() || page.continue_at == pattern {
            return Ok(names);
        }
        pattern = page.continue_at;
    }
}

/// Refuses a secret in the place of an identity, before it is sent: servers log the paths of requests.
pub fn refuse_secret(identity: &str) -> Result<(), Failure> {
    match Secret::in_text(identity) {
        None => Ok(()),
        Some(secret) => Err(Failure::new(format!(
            "expected an identity, 64 hex digits as 'identity of' prints them, and found {secret}: nothing was sent"
        ))),
    }
}
