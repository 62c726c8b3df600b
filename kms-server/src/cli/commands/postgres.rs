//! `kms postgres`: the SQL of a key store in PostgreSQL.

use std::path::PathBuf;

use clap::Subcommand;
use kms_postgres::{Host, PostgresConfig, Roles};

use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::config::{self, Environment};

/// The commands of `kms postgres`.
#[derive(Subcommand)]
pub enum Command {
    /// Print the SQL that makes the table, and gives three roles their rights: the owner's, the server's and the reader's.
    Schema(Args),
}

#[derive(clap::Args)]
pub struct Args {
    /// A config with [keystore.postgres], whose database, user, schema and table are taken.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The role that owns the table; it cannot log in.
    #[arg(long, value_name = "ROLE", default_value_t = Roles::default().owner)]
    owner: String,
    /// The role of the servers, which may select, insert and delete [default: kms].
    #[arg(long, value_name = "ROLE")]
    server: Option<String>,
    /// The role that may select, for backups; it cannot log in.
    #[arg(long, value_name = "ROLE", default_value_t = Roles::default().reader)]
    reader: String,
    /// The database [default: kms].
    #[arg(long, value_name = "NAME")]
    database: Option<String>,
    /// The schema of the table [default: kms].
    #[arg(long, value_name = "NAME")]
    schema: Option<String>,
    /// The table [default: kms_keys].
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
}

/// Runs one of the commands.
pub fn run(command: Command, environment: &Environment) -> Result<(), Failure> {
    let Command::Schema(args) = command;
    let of_config = match &args.config {
        None => PostgresConfig::new(vec![Host::new("localhost", 5432)], "kms", "kms"),
        Some(file) => {
            let (key_store, _) = config::load_key_store(file, environment)?;
            let config = key_store.postgres().cloned();
            config.ok_or_else(|| {
                Failure::new(format!(
                    "{}: its keys are not in PostgreSQL, expected [keystore.postgres]",
                    file.display()
                ))
            })?
        }
    };
    let config = PostgresConfig {
        database: args.database.unwrap_or(of_config.database),
        user: args.server.unwrap_or(of_config.user),
        schema: args.schema.unwrap_or(of_config.schema),
        table: args.table.unwrap_or(of_config.table),
        ..of_config
    };
    config.validate()?;
    let roles = Roles { owner: args.owner, reader: args.reader };
    for (flag, role) in [("--owner", &roles.owner), ("--reader", &roles.reader)] {
        // The rules for the names of roles are those of the server's.
        let checked = PostgresConfig { user: role.clone(), ..config.clone() }.validate();
        checked.map_err(|error| Failure::from(error).context(flag))?;
    }
    if roles.owner == config.user || roles.reader == config.user || roles.owner == roles.reader {
        return Err(Failure::new(
            "the three roles have to be different: each has rights that the others lack",
        ));
    }
    Output::new(false).text(kms_postgres::schema(&config, &roles).trim_end())
}
