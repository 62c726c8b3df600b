//! `kms policy for-minio`: the smallest policy for what a MinIO does.

use std::fmt::Write as _;

use kms_core::KeyName;

use super::test::parse_identity;
use crate::cli::failure::Failure;
use crate::cli::name::Call;
use crate::cli::output::note;

/// The arguments of `kms policy for-minio`.
#[derive(clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Args {
    /// Objects are encrypted under MinIO's default key (SSE-S3).
    #[arg(long)]
    sse_s3: bool,
    /// Objects are encrypted under keys that clients or buckets name (SSE-KMS), those of --key.
    #[arg(long)]
    sse_kms: bool,
    /// MinIO encrypts what clients do not ask it to (MINIO_KMS_AUTO_ENCRYPTION).
    #[arg(long)]
    auto_encryption: bool,
    /// Users, policies and settings lie encrypted on MinIO's drives, as they do whenever it has a key server.
    #[arg(long)]
    iam: bool,
    /// Buckets or sites are replicated.
    #[arg(long)]
    replication: bool,
    /// Batch jobs encrypt objects anew (mc batch, keyrotate).
    #[arg(long)]
    batch: bool,
    /// MinIO derives the credentials of root from its key (MINIO_API_ROOT_ACCESS=off, and none are given).
    #[arg(long)]
    derived_root: bool,
    /// Operators use 'mc admin kms' to create and list keys, and 'mc admin info'.
    #[arg(long)]
    admin: bool,
    /// A release of 2021 to 2023, which opens the data keys of a listing at once.
    #[arg(long)]
    bulk_decrypt: bool,
    /// MinIO's default key (MINIO_KMS_KES_KEY_NAME).
    #[arg(long, value_name = "NAME", default_value = "minio-default-key")]
    default_key: String,
    /// A key that clients or buckets name, or all keys with a beginning, such as 'tenant-*'. May be repeated.
    #[arg(long = "key", value_name = "NAME|PATTERN")]
    keys: Vec<String>,
    /// The name of the policy.
    #[arg(long, value_name = "NAME", default_value = "minio")]
    name: String,
    /// MinIO's identity: 64 hex digits, an API key, or the file of a certificate [default: a reference to a variable].
    #[arg(long, value_name = "IDENTITY")]
    identity: Option<String>,
    /// The language of the config.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The language of a config.
#[derive(Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Ours.
    #[default]
    Toml,
    /// That of KES.
    Yaml,
}

/// Prints the policy.
pub fn run(args: &Args, call: Call<'_>) -> Result<(), Failure> {
    if !KeyName::is_valid(&args.name) {
        return Err(Failure::new("invalid policy name, expected 1 to 80 characters of 0-9 A-Z a-z - _"));
    }
    check_key(&args.default_key, false)?;
    args.keys.iter().try_for_each(|key| check_key(key, true))?;
    let names_keys = args.sse_kms || args.replication || args.batch || args.admin;
    if !args.keys.is_empty() && !names_keys {
        return Err(Failure::new(
            "--key wants --sse-kms, --replication, --batch or --admin, too: nothing else names keys",
        ));
    }
    if args.sse_kms && args.keys.is_empty() {
        note(
            "Warning: --sse-kms without --key: the default key is the only one that clients and buckets can name",
        );
    }
    let identity = args.identity.as_deref().map(parse_identity).transpose()?;
    let identity = identity.map(|identity| identity.to_string());
    let text = match args.format {
        Format::Toml => as_toml(args, identity.as_deref().unwrap_or("${MINIO_IDENTITY}")),
        Format::Yaml => as_yaml(args, identity.as_deref().unwrap_or("${MINIO_KES_IDENTITY}")),
    };
    call.output(false).text(text.trim_end())
}

fn check_key(key: &str, may_be_pattern: bool) -> Result<(), Failure> {
    let is_good = match key.strip_suffix('*').filter(|_| may_be_pattern) {
        // No name ends in '-', but many begin with such a text.
        Some(start) => start.is_empty() || KeyName::is_valid(start.trim_end_matches('-')),
        None => KeyName::is_valid(key),
    };
    if is_good {
        return Ok(());
    }
    let expected = if may_be_pattern { ", or the beginning of names with a '*' behind it" } else { "" };
    Err(Failure::new(format!("invalid key '{key}', expected the name of a key{expected}")))
}

/// A line of a policy, and what MinIO needs it for.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    path: String,
    reason: &'static str,
}

/// Returns the lines of the policy.
///
/// What a MinIO asks was seen in the audit log of a real one (`tests/tools/minio-calls`). Whatever it has encrypted, it has to open again:
/// its settings and users lie on its drives under the default key, whichever feature is in use.
fn lines(args: &Args) -> Vec<Line> {
    let default = &args.default_key;
    let mut lines = vec![
        Line::of("generate", default, "its settings, users and objects, and a probe at each start"),
        Line::of("decrypt", default, "the same"),
        Line::of("create", default, "at the first start; not needed once the key is there"),
        Line::of("describe", default, "every 10 seconds; a denial breaks nothing, and is logged each time"),
    ];
    if args.derived_root {
        lines.push(Line::of("hmac", default, "the credentials of root, at each start"));
    }
    let names_keys = args.sse_kms || args.replication || args.batch;
    for key in args.keys.iter().filter(|_| names_keys) {
        lines.push(Line::of("generate", key, "SSE-KMS: new objects, and the check of a bucket's key"));
        lines.push(Line::of("decrypt", key, "SSE-KMS: reads, copies, replication, key rotation"));
    }
    if args.bulk_decrypt {
        let keys = args.keys.iter().filter(|_| names_keys);
        lines.extend(
            [default]
                .into_iter()
                .chain(keys)
                .map(|key| Line::of("bulk/decrypt", key, "listings of releases up to 2023")),
        );
    }
    if args.admin {
        lines.extend([
            Line::at("/v1/status", "mc admin info"),
            Line::at("/v1/key/list/*", "mc admin kms key list"),
        ]);
        lines.extend(args.keys.iter().map(|key| Line::of("create", key, "mc admin kms key create")));
    }
    let mut seen = Vec::new();
    lines.retain(|line| {
        let is_covered = seen.iter().any(|path: &String| covers(path, &line.path));
        seen.push(line.path.clone());
        !is_covered
    });
    let all: Vec<_> = lines.iter().map(|line| line.path.clone()).collect();
    lines.retain(|line| !all.iter().any(|path| *path != line.path && covers(path, &line.path)));
    lines
}

impl Line {
    fn of(operation: &str, key: &str, reason: &'static str) -> Self {
        Self { path: format!("/v1/key/{operation}/{key}"), reason }
    }

    fn at(path: &str, reason: &'static str) -> Self {
        Self { path: path.to_owned(), reason }
    }
}

fn covers(outer: &str, inner: &str) -> bool {
    outer == inner
        || outer.strip_suffix('*').is_some_and(|start| inner.trim_end_matches('*').starts_with(start))
}

/// Returns what the policy is for.
fn title(args: &Args) -> String {
    let features = [
        (args.sse_s3, "SSE-S3"),
        (args.sse_kms, "SSE-KMS"),
        (args.auto_encryption, "automatic encryption"),
        (args.iam, "encrypted users and settings"),
        (args.replication, "replication"),
        (args.batch, "key rotation by batch jobs"),
        (args.derived_root, "credentials of root from its key"),
        (args.admin, "'mc admin kms'"),
    ];
    let named: Vec<_> = features.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name).collect();
    if named.is_empty() {
        return format!("A MinIO with the default key {}.", args.default_key);
    }
    format!("A MinIO with {}. Its default key is {}.", named.join(", "), args.default_key)
}

fn as_toml(args: &Args, identity: &str) -> String {
    let mut text = format!("# {}\n[policy.{}]\nallow = [\n", title(args), args.name);
    for Line { path, reason } in lines(args) {
        let _ = writeln!(text, "    \"{path}\", # {reason}");
    }
    let _ = writeln!(text, "]\nidentities = [\"{identity}\"]");
    text
}

fn as_yaml(args: &Args, identity: &str) -> String {
    let mut text = format!("# {}\npolicy:\n  {}:\n    allow:\n", title(args), args.name);
    for Line { path, reason } in lines(args) {
        let _ = writeln!(text, "    - \"{path}\" # {reason}");
    }
    let _ = writeln!(text, "    identities:\n    - {identity}");
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Parsed {
        #[command(flatten)]
        args: Args,
    }

    fn of(flags: &str) -> Vec<String> {
        let args = Parsed::parse_from(["x"].into_iter().chain(flags.split_whitespace())).args;
        lines(&args).into_iter().map(|line| line.path).collect()
    }

    #[test]
    fn no_line_covers_another() {
        let all = "--sse-s3 --sse-kms --auto-encryption --iam --replication --batch --derived-root --admin --bulk-decrypt";
        for keys in [
            "",
            "--key tenant-a --key tenant-*",
            "--key minio-default-key",
            "--key *",
            "--default-key m --key m*",
        ] {
            let lines = of(&format!("{all} {keys}"));
            for (n, line) in lines.iter().enumerate() {
                let covering = lines.iter().enumerate().find(|(m, other)| *m != n && covers(other, line));
                assert!(covering.is_none(), "{line} is covered by {covering:?}");
            }
        }
    }

    #[test]
    fn keys_that_clients_name_are_for_features_that_name_keys() {
        assert_eq!(of("--sse-s3").len(), 4);
        assert!(of("--sse-kms --key a-*").contains(&"/v1/key/decrypt/a-*".to_owned()));
        assert!(!of("--admin --key a").contains(&"/v1/key/decrypt/a".to_owned()));
    }
}
