//! The statements on one table. Nothing here ever updates a row.

use sha2::{Digest as _, Sha256};

use crate::config::PostgresConfig;

/// The longest name of a channel, in bytes.
const MAX_CHANNEL: usize = 63;

/// When a server began, in microseconds, whatever the session's time zone: it tells servers behind one address apart.
macro_rules! began {
    () => {
        "(extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::pg_catalog.int8::pg_catalog.text"
    };
}

/// One row: whether the server takes writes, and when it began.
pub const SERVER: &str =
    concat!("SELECT pg_catalog.current_setting('transaction_read_only') = 'off', ", began!());

/// What begins each transaction that writes. All of it ends with the transaction, so a pooler may hand the session on. The
/// first value is the second of [`SERVER`].
///
/// Warnings have to be sent, and COMMIT has to wait for the disk and for synchronous standbys, whatever the role's and the
/// database's settings say. No bound of the server's ends a create halfway.
pub const BEGIN: &str = concat!(
    "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT ",
    began!(),
    ", pg_catalog.set_config('client_min_messages', 'warning', true), \
    pg_catalog.set_config('statement_timeout', '0', true), \
    pg_catalog.set_config('lock_timeout', '0', true), \
    pg_catalog.set_config('idle_in_transaction_session_timeout', '0', true), \
    CASE WHEN pg_catalog.current_setting('transaction_timeout', true) IS NOT NULL \
        THEN pg_catalog.set_config('transaction_timeout', '0', true) END, \
    CASE WHEN pg_catalog.current_setting('synchronous_commit') <> 'remote_apply' \
        THEN pg_catalog.set_config('synchronous_commit', 'on', true) END"
);

/// Statements for a table.
#[derive(Debug)]
pub struct Sql {
    /// The table, quoted.
    pub table: String,
    /// The channel of its changes, as a plain text.
    pub channel: String,
    /// `$1` name; one row: whether the server takes writes (null: rows may be hidden), and the record or null.
    pub read: String,
    /// `$1` name, `$2` record; a row if it was inserted.
    pub insert: String,
    /// `$1` name; a row if there was one.
    pub delete: String,
    /// `$1` from, `$2` after, `$3` before, `$4` limit; rows: as in `read`, and a name or null.
    pub list: String,
    /// `$1` directory, `$2` what follows all names in it; rows: as in `read`, and a name or null.
    pub segments: String,
    /// `$1` key's name; tells those who listen.
    pub notify: String,
    /// Listens.
    pub listen: String,
}

impl Sql {
    /// Makes the statements for the table that `config` names.
    pub fn new(config: &PostgresConfig) -> Self {
        let table = format!("{}.{}", quoted(&config.schema), quoted(&config.table));
        let channel = channel(config);
        let writes = "pg_catalog.current_setting('transaction_read_only') = 'off'";
        // Where row level security hides rows, their absence is none.
        let sees = format!(
            "CASE WHEN pg_catalog.row_security_active({}) THEN NULL ELSE {writes} END",
            literal(&table)
        );
        Self {
            read: format!(
                "SELECT CASE WHEN found.record IS NULL THEN {sees} ELSE {writes} END, found.record \
                 FROM (SELECT (SELECT record FROM {table} WHERE name = $1) AS record) AS found"
            ),
            // Without a primary key this is an error, where a plain DO NOTHING would insert a second row.
            insert: format!(
                "INSERT INTO {table} (name, record) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING RETURNING 1"
            ),
            delete: format!("DELETE FROM {table} WHERE name = $1 RETURNING 1"),
            list: format!(
                "SELECT {sees}, page.name FROM (VALUES (1)) AS one LEFT JOIN \
                 (SELECT name FROM {table} WHERE name COLLATE \"C\" >= $1 AND name COLLATE \"C\" > $2 \
                 AND name COLLATE \"C\" < $3 ORDER BY name COLLATE \"C\" LIMIT $4) AS page ON true \
                 ORDER BY page.name COLLATE \"C\""
            ),
            segments: segments(&table, &sees),
            notify: format!("SELECT pg_catalog.pg_notify({}, $1)", literal(&channel)),
            listen: format!("LISTEN {}", quoted(&channel)),
            table,
            channel,
        }
    }
}

/// Walks the index from segment to segment: each step looks up the first name behind the last segment.
fn segments(table: &str, sees: &str) -> String {
    let next = |from: &str| {
        format!(
            "(SELECT name FROM {table} WHERE name COLLATE \"C\" >= {from} AND name COLLATE \"C\" < $2 \
             ORDER BY name COLLATE \"C\" LIMIT 1)"
        )
    };
    // '0' follows '/' in the order of bytes, and no text lies between a text and the same with the least character.
    let behind = "CASE WHEN pg_catalog.strpos(pg_catalog.substr(walk.name, pg_catalog.length($1) + 1), '/') = 0 \
        THEN walk.name || pg_catalog.chr(1) \
        ELSE $1 || pg_catalog.split_part(pg_catalog.substr(walk.name, pg_catalog.length($1) + 1), '/', 1) || '0' END";
    format!(
        "WITH RECURSIVE walk (name) AS (SELECT {first} AS name UNION ALL \
         SELECT {following} FROM walk WHERE walk.name IS NOT NULL) SELECT {sees}, name FROM walk",
        first = next("$1"),
        following = next(&format!("({behind})")),
    )
}

/// Quotes a name.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text, whatever `standard_conforming_strings` says.
pub fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

/// Returns the name of the channel of a table.
fn channel(config: &PostgresConfig) -> String {
    let name = format!("kms:{}", config.place());
    if name.len() <= MAX_CHANNEL {
        return name;
    }
    let digest = hex::encode(Sha256::digest(name.as_bytes()));
    format!("kms:{}", digest.get(..32).unwrap_or(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Host;

    fn sql(schema: &str, table: &str) -> Sql {
        let config = PostgresConfig::new(vec![Host::new("db", 1)], "keys", "kms");
        Sql::new(&PostgresConfig { schema: schema.to_owned(), table: table.to_owned(), ..config })
    }

    #[test]
    fn names_cannot_leave_their_quotes() {
        let sql = sql("a\"; DROP TABLE x; --", "it's\\");
        assert_eq!(sql.table, r#""a""; DROP TABLE x; --"."it's\""#);
        assert!(sql.notify.contains(r"it''s\\"), "{}", sql.notify);
    }

    #[test]
    fn channels_of_long_names_are_short_and_apart() {
        let (one, other) = (sql(&"s".repeat(60), &"t".repeat(60)), sql(&"s".repeat(60), &"u".repeat(60)));
        assert!(one.channel.len() <= MAX_CHANNEL && one.channel != other.channel);
        assert_eq!(sql("kms", "kms_keys").channel, "kms:kms.kms_keys");
    }

    #[test]
    fn no_statement_updates() {
        let sql = format!("{:?}", sql("s", "t")).to_uppercase();
        assert!(!sql.contains("UPDATE"), "{sql}");
    }
}
