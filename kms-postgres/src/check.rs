//! A check of everything between us and a PostgreSQL, step by step.

use std::sync::Arc;
use std::time::Duration;

use kms_core::primitives::SecretBytes;
use kms_core::store::{At as _, EntryName, FailedStep, Finding, Findings, KeyStore, StepError};
use kms_core::{Error, ErrorKind, ListQuery, Result};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use crate::config::{Host, PostgresConfig, TlsMode};
use crate::connection::{Connection, Value, Wanted};
use crate::error::Failure;
use crate::schema;
use crate::sql::{Sql, literal};
use crate::store::PostgresStore;
use crate::tls::Tls;

/// Checks everything between us and the database that `config` names, in the order in which things fail.
///
/// The check writes, reads and deletes one probe row that no listing shows. It ends at the first problem, since the
/// further steps depend on it. So only the last finding may be a problem.
///
/// # Panics
///
/// Panics outside of a tokio runtime.
pub async fn check(config: PostgresConfig) -> Vec<Finding> {
    let mut findings = Findings::default();
    let outcome = look(&Arc::new(config), &mut findings).await;
    findings.end(outcome)
}

impl StepError for Failure {
    fn into_error_at(self, what: &'static str) -> Error {
        self.into_error(format!("check the {what}"))
    }
}

async fn look(config: &Arc<PostgresConfig>, findings: &mut Findings) -> std::result::Result<(), FailedStep> {
    config.validate().at("configuration")?;
    let tls = Tls::new(&config.tls).at("tls files")?;
    let connected = Connection::to_one_of(&config.hosts, 0, Wanted::Primary, config, &tls, None).await;
    let (connection, index) = connected.at("connection")?;
    let host = config.hosts.get(index);
    let named = host.map(ToString::to_string).unwrap_or_default();
    findings.good("connection", format!("'{named}' takes writes, logged in as '{}'", config.user));
    if let Some(warning) = config.ignored_pass_file() {
        findings.warn("login", warning.to_string());
    }
    // One look into the catalog each.
    let limit = config.timeout;
    if host.is_some_and(Host::is_socket) {
        findings.good("tls", "none over a Unix socket, where nobody is between");
    } else {
        within(limit, protection(config, &connection, findings)).await.at("tls")?;
    }
    if config.create_schema {
        within(limit, schema::make(&connection, config)).await.at("table")?;
    }
    let sql = Sql::new(config);
    within(limit, shape(&connection, &sql, findings)).await.at("table")?;
    within(limit, rights(&connection, &sql, findings)).await.at("rights")?;
    within(limit, durability(&connection, findings)).await.at("durability")?;
    within(limit, replication(&connection, findings)).await.at("replication")?;
    let store = PostgresStore::connect(PostgresConfig::clone(config)).at("configuration")?;
    probe(&store).await.at("probe row")?;
    findings.good("probe row", "written, read back and deleted");
    listener(config, &tls, &sql, findings).await;
    let page = store.list(&ListQuery { limit: usize::MAX, ..ListQuery::prefix("") }).await.at("keys")?;
    findings.good("keys", format!("{} in '{}'", page.names.len(), config.place()));
    findings.warn(
        "backup",
        "a backup of this database must not lie only in the object store that its keys open: after a loss neither opens the other",
    );
    Ok(())
}

/// Bounds one step: a server that answered before may hang now.
async fn within<T>(
    limit: Duration,
    step: impl Future<Output = std::result::Result<T, Failure>>,
) -> std::result::Result<T, Failure> {
    tokio::time::timeout(limit, step).await.unwrap_or(Err(Failure::Timeout(limit.as_millis())))
}

async fn protection(
    config: &PostgresConfig,
    connection: &Connection,
    findings: &mut Findings,
) -> std::result::Result<(), Failure> {
    const STATEMENT: &str =
        "SELECT ssl, version, cipher FROM pg_catalog.pg_stat_ssl WHERE pid = pg_catalog.pg_backend_pid()";
    let rows = connection.query(STATEMENT, &[]).await?;
    let in_force = match rows.first() {
        Some(row) if row.try_get::<_, bool>(0)? => {
            let (version, cipher): (String, String) = (row.try_get(1)?, row.try_get(2)?);
            Some(format!("{version} with {cipher}"))
        }
        _ => None,
    };
    let mode = config.tls.mode;
    match (in_force, mode.warning()) {
        (Some(what), None) => findings.good("tls", format!("{what}, mode {mode}")),
        (Some(what), Some(warning)) => findings.warn("tls", format!("{what}, mode {mode}: {warning}")),
        // A pooler on the way speaks TLS for itself.
        (None, None) => findings.warn(
            "tls",
            "the server sees no TLS on our session, so a pooler stands between: look at its connection to the server",
        ),
        (None, Some(_)) => findings.warn("tls", format!("none is in force, mode {mode}: {}", TlsMode::Disable.warning().unwrap_or_default())),
    }
    Ok(())
}

/// Looks at the columns, the key and the collation.
async fn shape(
    connection: &Connection,
    sql: &Sql,
    findings: &mut Findings,
) -> std::result::Result<(), Failure> {
    let statement = format!(
        "SELECT pg_catalog.to_regclass({table}) IS NOT NULL, \
         (SELECT pg_catalog.string_agg(a.attname || ' ' || t.typname || CASE WHEN a.attnotnull THEN '' ELSE ' null' END, ', ' \
          ORDER BY a.attnum) FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_type t ON t.oid = a.atttypid \
          WHERE a.attrelid = pg_catalog.to_regclass({table}) AND a.attnum > 0 AND NOT a.attisdropped), \
         (SELECT c.collname::text FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_collation c ON c.oid = a.attcollation \
          WHERE a.attrelid = pg_catalog.to_regclass({table}) AND a.attname = 'name'), \
         (SELECT c.relpersistence::text FROM pg_catalog.pg_class c WHERE c.oid = pg_catalog.to_regclass({table})), \
         (SELECT count(*) FROM pg_catalog.pg_trigger t WHERE t.tgrelid = pg_catalog.to_regclass({table}) AND NOT t.tgisinternal), \
         (SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k \
          WHERE k.conrelid = pg_catalog.to_regclass({table}) AND k.contype = 'p')",
        table = literal(&sql.table)
    );
    let rows = connection.query(&statement, &[]).await?;
    let row = first(&rows)?;
    if !row.try_get::<_, bool>(0)? {
        return Err(Failure::no_table(&sql.table));
    }
    let (columns, collation): (Option<String>, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
    let (persistence, triggers): (Option<String>, i64) = (row.try_get(3)?, row.try_get(4)?);
    let key: Option<String> = row.try_get(5)?;
    let columns = columns.unwrap_or_default();
    for needed in ["name text", "record bytea"] {
        if !columns.split(", ").any(|column| column == needed) {
            return Err(Failure::Unfit(format!(
                "the table {} has no column '{needed}' NOT NULL, but: {columns}",
                sql.table
            )));
        }
    }
    if key.as_deref() != Some("PRIMARY KEY (name)") {
        return Err(Failure::Unfit(format!(
            "the table {} has no primary key on 'name': one name could have two rows",
            sql.table
        )));
    }
    if persistence.as_deref() != Some("p") {
        return Err(Failure::Unfit(format!(
            "the table {} is unlogged or temporary: a crash empties it",
            sql.table
        )));
    }
    if collation.as_deref() != Some("C") {
        findings.warn("table", "its names have another collation than \"C\": listings are slow, and an update of the system's locales can damage its index");
    }
    if triggers > 0 {
        findings
            .warn("table", format!("it has {triggers} triggers, which see and may change what is stored"));
    }
    findings.good("table", format!("{}: {columns}", sql.table));
    Ok(())
}

/// Proves each right, and that there is none beside.
async fn rights(
    connection: &Connection,
    sql: &Sql,
    findings: &mut Findings,
) -> std::result::Result<(), Failure> {
    let has = |right: &str| format!("pg_catalog.has_table_privilege({}, '{right}')", literal(&sql.table));
    // A right may be given for one column alone.
    let has_of_any =
        |right: &str| format!("pg_catalog.has_any_column_privilege({}, '{right}')", literal(&sql.table));
    let others = "SELECT pg_catalog.string_agg(c.named, ', ') FROM (SELECT n.nspname || '.' || c.relname AS named FROM pg_catalog.pg_class c \
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'm', 'f') \
        AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_t' \
        AND c.oid <> pg_catalog.to_regclass($1) AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
        AND pg_catalog.has_any_column_privilege(c.oid, 'SELECT') ORDER BY c.oid LIMIT 5) AS c";
    let statement = format!(
        "SELECT {}, {}, {}, {} OR {}, (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user), ({others}), \
         pg_catalog.row_security_active(pg_catalog.to_regclass({}))",
        has("SELECT"),
        has("INSERT"),
        has("DELETE"),
        has_of_any("UPDATE"),
        has("TRUNCATE"),
        literal(&sql.table),
    );
    let rows = connection.query(&statement, &[(&sql.table, Type::TEXT)]).await?;
    let row = first(&rows)?;
    let mut missing = Vec::new();
    for (index, right) in ["select", "insert", "delete"].into_iter().enumerate() {
        if !row.try_get::<_, bool>(index)? {
            missing.push(right);
        }
    }
    if !missing.is_empty() {
        let says = format!("the role lacks the right to {} on {}", missing.join(", "), sql.table);
        return Err(Failure::Server { code: "42501".to_owned(), says, fatal: false });
    }
    if row.try_get::<_, Option<bool>>(6)? == Some(true) {
        return Err(Failure::hidden());
    }
    findings.good("rights", "select, insert and delete");
    let (may_update, is_super): (bool, bool) = (row.try_get(3)?, row.try_get(4)?);
    if is_super {
        findings.warn(
            "rights",
            "the role is a superuser; one of its own with three rights is safer ('kms postgres schema')",
        );
        return Ok(());
    }
    if may_update {
        findings.warn(
            "rights",
            "the role may update or truncate the table: whoever has it can replace or empty all keys at once",
        );
    }
    if let Some(others) = row.try_get::<_, Option<String>>(5)? {
        findings.warn("rights", format!("the role may read other tables, too: {others}"));
    }
    Ok(())
}

/// Looks at the settings by which a commit is kept.
async fn durability(connection: &Connection, findings: &mut Findings) -> std::result::Result<(), Failure> {
    const STATEMENT: &str = "SELECT pg_catalog.current_setting('fsync'), pg_catalog.current_setting('full_page_writes'), \
        pg_catalog.current_setting('synchronous_commit'), pg_catalog.current_setting('server_version')";
    let rows = connection.query(STATEMENT, &[]).await?;
    let row = first(&rows)?;
    let (fsync, pages, commit): (String, String, String) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let version: String = row.try_get(3)?;
    if fsync != "on" {
        findings.warn(
            "durability",
            "fsync is off: a power cut loses keys that were acknowledged, or the whole table",
        );
    }
    if pages != "on" {
        findings.warn("durability", "full_page_writes is off: a power cut can leave torn pages");
    }
    if !matches!(commit.as_str(), "on" | "remote_apply") {
        let what =
            format!("synchronous_commit is '{commit}' for others; our transactions set it to 'on' each time");
        findings.warn("durability", what);
    }
    if fsync == "on" && pages == "on" {
        findings
            .good("durability", format!("PostgreSQL {version}, fsync is on, and our commits wait for it"));
    }
    Ok(())
}

/// Looks at the standbys.
async fn replication(connection: &Connection, findings: &mut Findings) -> std::result::Result<(), Failure> {
    const STATEMENT: &str = "SELECT pg_catalog.current_setting('synchronous_standby_names'), \
        (SELECT count(*) FROM pg_catalog.pg_stat_replication), \
        (SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE sync_state IN ('sync', 'quorum')), \
        pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') \
            OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)";
    let rows = connection.query(STATEMENT, &[]).await?;
    let row = first(&rows)?;
    let (names, attached, synchronous): (String, i64, i64) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let sees: bool = row.try_get(3)?;
    match (names.is_empty(), attached, synchronous) {
        (true, 0, _) => findings.warn("replication", "no standby is attached: what this server loses is lost"),
        (true, attached, _) => findings.warn(
            "replication",
            format!("{attached} standbys, none of them synchronous: a promotion can lose the newest keys (see 'synchronous_standby_names')"),
        ),
        (false, 0, _) => findings.warn(
            "replication",
            format!("no standby is attached, and commits wait for '{names}': creates hang until one is"),
        ),
        (false, attached, 0) if !sees => findings.good(
            "replication",
            format!("{attached} standbys, commits wait for '{names}'; their state needs the role pg_read_all_stats"),
        ),
        (false, attached, 0) => findings.warn(
            "replication",
            format!("{attached} standbys, none of them synchronous now, and commits wait for '{names}': creates hang"),
        ),
        (false, attached, synchronous) => {
            findings.good("replication", format!("{attached} standbys, {synchronous} of them synchronous ('{names}')"));
        }
    }
    Ok(())
}

async fn probe(store: &PostgresStore) -> Result<()> {
    let (name, record) = (EntryName::probe()?, SecretBytes::from(b"probe of kms check".as_slice()));
    store.create(&name, &record).await?;
    let read = store.get(&name).await;
    store.delete(&name).await?;
    if read? == record {
        return Ok(());
    }
    let operation = format!("read {}", store.place(&name));
    Err(Error::with_source(ErrorKind::Corrupt, operation, "it is not what was written"))
}

/// Listens, notifies itself, and looks whether that is heard.
async fn listener(config: &PostgresConfig, tls: &Tls, sql: &Sql, findings: &mut Findings) {
    let limit = config.connect_timeout.saturating_mul(4).saturating_add(config.timeout);
    match within(limit, hears(config, tls, sql)).await {
        Ok(true) => findings.good("changes", "deletions by other servers are heard at once"),
        Ok(false) => findings.warn(
            "changes",
            "notifications do not arrive, as behind a PgBouncer in transaction mode: name PostgreSQL itself in 'listen_host', or \
             deletions by other servers are found when the cache's time is over",
        ),
        Err(failure) => findings.warn("changes", format!("nothing is heard of deletions by other servers: {failure}")),
    }
}

async fn hears(config: &PostgresConfig, tls: &Tls, sql: &Sql) -> std::result::Result<bool, Failure> {
    let hosts = config.hosts_to_listen();
    let (hear, mut heard) = tokio::sync::mpsc::channel(16);
    let (listener, _) = Connection::to_one_of(hosts, 0, Wanted::Primary, config, tls, Some(&hear)).await?;
    listener.run(&sql.listen).await?;
    let (notifier, _) = Connection::to_one_of(&config.hosts, 0, Wanted::Primary, config, tls, None).await?;
    let payload = ".check";
    let values: [Value<'_>; 1] = [(&payload, Type::TEXT)];
    notifier.query(&sql.notify, &values).await?;
    let arrives = async {
        while let Some(notification) = heard.recv().await {
            if notification.payload() == payload {
                return true;
            }
        }
        false
    };
    Ok(tokio::time::timeout(config.timeout.min(Duration::from_secs(2)), arrives).await.unwrap_or(false))
}

fn first(rows: &[Row]) -> std::result::Result<&Row, Failure> {
    rows.first().ok_or_else(|| Failure::Internal("a SELECT without a row".to_owned()))
}
