//! The section `keystore.postgres`. What it leaves out comes from libpq's environment variables.

use std::path::PathBuf;

use kms_postgres::{Environment, Host, PostgresConfig, PostgresOptions, Secret};

use super::super::problem::Problem;
use super::super::schema::{RawPostgres, RawPostgresTls};
use super::super::value::RawPort;
use super::aws::refused;
use super::context::{Context, given};
use crate::settings::{OuterKms, RootSettings};

const SECTION: &str = "keystore.postgres";

/// What is told if no section says where the root key is.
pub const NO_ROOT: &str = "no root: keys are sealed before the database sees them, so this store needs a section [[kms]], such as \
    local.root_key_file = \"FILE\" (base64 of 32 random bytes, the same on all servers), aws or vault (docs/postgres.md)";

/// Refuses a root for which the store can have no entry. Records would be wrapped by it one by one.
pub fn refuse_unnamed(kms: &[RootSettings], context: &Context<'_>) -> Result<(), Problem> {
    let is_unnamed = |root: &&RootSettings| root.id.is_none() && matches!(root.kms, OuterKms::Aws(_));
    let Some(RootSettings { section, .. }) = kms.iter().find(is_unnamed) else { return Ok(()) };
    let message = "the root of a PostgreSQL store is known by its ARN: expected the ARN of the key, or an 'id' beside it";
    Err(context.problem(&format!("{section}.key"), message))
}

/// Checks the section.
pub fn postgres(raw: RawPostgres, context: &mut Context<'_>) -> Result<PostgresConfig, Problem> {
    let RawPostgresTls { ca, cert, key, mode } = raw.tls;
    let file = |text: Option<String>| given(text).map(PathBuf::from);
    let options = PostgresOptions {
        url: given(raw.url).map(Secret::from),
        host: joined(&raw.host),
        port: joined(&raw.port.iter().map(port).collect::<Vec<_>>()),
        listen_host: joined(&raw.listen_host),
        listen_port: joined(&raw.listen_port.iter().map(port).collect::<Vec<_>>()),
        database: given(raw.database),
        user: given(raw.user),
        password: given(raw.password).map(Secret::from),
        password_file: file(raw.password_file),
        tls_mode: given(mode),
        tls_ca: file(ca),
        tls_cert: file(cert),
        tls_key: file(key),
        schema: given(raw.schema),
        table: given(raw.table),
        pool: raw.pool,
        standby_reads: raw.standby_reads.map(|switch| switch.0),
        create_schema: raw.create_schema.map(|switch| switch.0),
    };
    // The default password file is in the home directory.
    let home = context.environment.get("HOME").map(|home| ("HOME", home));
    let variables: Vec<_> = context.environment.beginning_with("PG").chain(home).collect();
    let config = options.resolve(&Environment::from_pairs(&variables));
    let config = config.map_err(|error| refused(&error, SECTION, context))?;
    // Over a socket there is no TLS, and nobody between.
    if let Some(warning) = config.tls.mode.warning()
        && !config.hosts.iter().chain(&config.listen_hosts).all(Host::is_socket)
    {
        let message = format!("{}: {warning}; expected verify-full", config.tls.mode);
        context.warn("keystore.postgres.tls.mode", message);
    }
    Ok(config)
}

fn port(port: &RawPort) -> String {
    port.0.to_string()
}

fn joined(texts: &[String]) -> Option<String> {
    given(Some(texts.join(",")))
}
