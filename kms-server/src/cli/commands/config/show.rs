//! `kms config show`: the settings that are in force, and where each of them comes from.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::effective;
use super::values::{self, Shown};
use crate::cli::colour::Style;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::{Output, note};
use crate::config::{self, Flags};

/// The arguments of `kms config show`.
#[derive(clap::Args)]
pub struct Args {
    /// The config file.
    #[arg(long, value_name = "FILE", default_value = "/etc/kms/config.toml")]
    config: PathBuf,
    /// The server's flag --addr.
    #[arg(long, value_name = "[IP]:PORT", value_parser = config::parse_address)]
    addr: Option<SocketAddr>,
    /// The server's flag --root.
    #[arg(long, value_name = "IDENTITY")]
    root: Option<String>,
    /// The server's flag --key.
    #[arg(long, value_name = "FILE")]
    key: Option<String>,
    /// The server's flag --cert.
    #[arg(long, value_name = "FILE")]
    cert: Option<String>,
    /// Print the settings as JSON.
    #[arg(long)]
    json: bool,
}

/// A setting in force.
#[derive(Serialize)]
struct Setting {
    /// The key, such as `cache.expiry.any`.
    key: String,
    /// The value, `***` for a secret.
    value: serde_json::Value,
    /// What set it: `default`, `file`, `variable`, `flag` or `credential`.
    origin: &'static str,
    /// The line of the file, the variable or the flag.
    #[serde(skip_serializing_if = "Option::is_none")]
    place: Option<String>,
    /// The variables to which the value in the file refers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    references: Vec<String>,
}

/// Prints the settings.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    let Args { root, cert, key, .. } = args;
    let flags = Flags { root: root.clone(), cert: cert.clone(), key: key.clone(), auth: None };
    let mut loaded = config::load_with(&args.config, &flags, call.environment)?;
    if let Some(address) = args.addr {
        loaded.settings.address = address;
        loaded.origins.set("address", "flag --addr");
    }
    for warning in &loaded.warnings {
        note(format_args!("Warning: {warning}"));
    }
    let values = effective::of(&loaded.settings);
    let settings: Vec<Setting> = values
        .into_iter()
        .map(|values::Value { path, shown, is_credential, elsewhere, within }| {
            // What a section leaves out may come from a variable of its own.
            let beside = || {
                let mut names = elsewhere.iter().copied();
                let name = names.find(|name| call.environment.first_of(&[name]).is_some());
                name.map(|name| config::Origin {
                    place: format!("environment variable {name}"),
                    references: Vec::new(),
                })
            };
            let around = || loaded.origins.of(&within?.split('.').map(str::to_owned).collect::<Vec<_>>());
            let origin = loaded.origins.of(&path).or_else(around).or_else(beside);
            let (place, references) = origin.map(|origin| (origin.place, origin.references)).unzip();
            let kind = match place.as_deref() {
                _ if is_credential => "credential",
                None => "default",
                Some(place) if place.starts_with("environment variable ") => "variable",
                Some(place) if place.starts_with("flag ") => "flag",
                Some(_) => "file",
            };
            Setting {
                key: values::name(&path),
                value: value(&shown),
                origin: kind,
                place,
                references: references.unwrap_or_default(),
            }
        })
        .collect();
    let output = call.output(args.json);
    if output.is_json() {
        return output.json(&settings);
    }
    print(&settings, output)
}

fn value(shown: &Shown) -> serde_json::Value {
    match shown {
        Shown::Nothing => serde_json::Value::Null,
        Shown::Secret => "***".into(),
        Shown::Text(text) => text.as_str().into(),
        Shown::List(texts) => texts.clone().into(),
    }
}

fn print(settings: &[Setting], output: Output) -> Result<(), Failure> {
    let width = settings.iter().map(|setting| setting.key.chars().count()).max().unwrap_or_default();
    for Setting { key, value, origin, place, references } in settings {
        let text = match value {
            serde_json::Value::Null => "-".to_owned(),
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Array(texts) => {
                texts.iter().filter_map(serde_json::Value::as_str).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        };
        let mut from = place.clone().unwrap_or_else(|| (*origin).to_owned());
        if *origin == "credential" {
            from.push_str(" (a credential of systemd)");
        }
        for name in references {
            let _ = write!(from, ", ${{{name}}}");
        }
        let style = if *origin == "default" { Style::Label } else { Style::Plain };
        output.row(&[
            (Style::Plain, &format!("{key:<width$}  ")),
            (Style::Strong, &text),
            (style, &format!("  ({from})")),
        ])?;
    }
    Ok(())
}
