//! The table of the keys: the SQL that makes it, and the making.

use crate::config::PostgresConfig;
use crate::connection::Connection;
use crate::error::Failure;
use crate::sql::{literal, quoted};

/// The number of the lock under which servers make the table, one after the other.
const LOCK: i64 = 0x6b6d_735f_6b65_7973;

/// The roles beside the server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Owns the table, and cannot log in.
    pub owner: String,
    /// May select, as a backup does, and cannot log in.
    pub reader: String,
}

impl Default for Roles {
    fn default() -> Self {
        Self { owner: "kms_owner".to_owned(), reader: "kms_reader".to_owned() }
    }
}

/// Returns the SQL that an owner of the database runs once: the table, and the rights of three roles.
///
/// The server's role, which `config` names, has the rights to select, insert and delete, and no other.
pub fn schema(config: &PostgresConfig, roles: &Roles) -> String {
    let (schema, table) = (quoted(&config.schema), table(config));
    let (owner, server, reader) = (quoted(&roles.owner), quoted(&config.user), quoted(&roles.reader));
    let role = |name: &str, quoted: &str, login: &str| {
        let name = literal(name);
        format!(
            "  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {name}) THEN\n    \
             CREATE ROLE {quoted} {login};\n  END IF;\n"
        )
    };
    let roles = [
        role(&roles.owner, &owner, "NOLOGIN"),
        role(&config.user, &server, "LOGIN"),
        role(&roles.reader, &reader, "NOLOGIN"),
    ]
    .concat();
    format!(
        "-- The table of the keys of kms, for the database {database}. Run it there once, as a superuser, or as\n\
         -- its owner with the attribute CREATEROLE (the administrator of a service has that):\n\
         --   kms postgres schema | psql --set ON_ERROR_STOP=1 --dbname {database}\n\
         -- Then give the server's role its password: \\password {server}\n\
         BEGIN;\n\
         DO $roles$\nBEGIN\n{roles}  \
         -- Only a superuser can give things to a role of which he is no member.\n  \
         IF NOT (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN\n    \
         GRANT {owner} TO CURRENT_USER;\n  END IF;\nEND\n$roles$;\n\
         CREATE SCHEMA IF NOT EXISTS {schema};\n\
         ALTER SCHEMA {schema} OWNER TO {owner};\n\
         {create};\n\
         ALTER TABLE {table} OWNER TO {owner};\n\
         REVOKE ALL ON SCHEMA {schema} FROM PUBLIC;\n\
         REVOKE ALL ON TABLE {table} FROM PUBLIC;\n\
         -- The server never changes a row, so its role has no UPDATE.\n\
         GRANT USAGE ON SCHEMA {schema} TO {server}, {reader};\n\
         GRANT SELECT, INSERT, DELETE ON TABLE {table} TO {server};\n\
         GRANT SELECT ON TABLE {table} TO {reader};\n\
         COMMIT;\n",
        database = quoted(&config.database),
        create = create(config),
    )
}

/// Makes schema and table if they are missing.
pub async fn make(connection: &Connection, config: &PostgresConfig) -> Result<(), Failure> {
    let look = format!(
        "SELECT pg_catalog.to_regnamespace({}) IS NULL, pg_catalog.to_regclass({}) IS NULL",
        literal(&quoted(&config.schema)),
        literal(&table(config))
    );
    let rows = connection.query(&look, &[]).await?;
    let first = rows.first().ok_or_else(|| Failure::Internal("a SELECT without a row".to_owned()))?;
    let (no_schema, no_table): (bool, bool) = (first.try_get(0)?, first.try_get(1)?);
    if !no_table {
        return Ok(());
    }
    // The right to make schemas is asked even where there is one already.
    let schema = format!("CREATE SCHEMA IF NOT EXISTS {};", quoted(&config.schema));
    let schema = if no_schema { schema.as_str() } else { "" };
    let statements = format!(
        "BEGIN; SELECT pg_catalog.pg_advisory_xact_lock({LOCK}); {schema} {}; COMMIT",
        create(config)
    );
    connection.run(&statements).await?;
    tracing::info!(table = config.place(), "the table of the keys was made in PostgreSQL");
    Ok(())
}

fn create(config: &PostgresConfig) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (\n  name text COLLATE \"C\" PRIMARY KEY,\n  record bytea NOT NULL,\n  \
         created_at timestamptz NOT NULL DEFAULT pg_catalog.now()\n)",
        table(config)
    )
}

fn table(config: &PostgresConfig) -> String {
    format!("{}.{}", quoted(&config.schema), quoted(&config.table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Host;

    #[test]
    fn the_servers_role_gets_three_rights_and_no_password() {
        let config = PostgresConfig::new(vec![Host::new("db", 1)], "keys", "my\"server");
        let text = schema(&config, &Roles { reader: "backup".to_owned(), ..Roles::default() });
        assert!(text.contains(r#"GRANT SELECT ON TABLE "kms"."kms_keys" TO "backup";"#), "{text}");
        assert!(
            text.contains(r#"GRANT SELECT, INSERT, DELETE ON TABLE "kms"."kms_keys" TO "my""server";"#),
            "{text}"
        );
        assert!(!text.contains("GRANT UPDATE") && !text.contains("PASSWORD "), "{text}");
        assert!(text.contains("name text COLLATE \"C\" PRIMARY KEY"), "{text}");
    }
}
