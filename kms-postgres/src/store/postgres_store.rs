//! The key store in a table.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::store::{Changes, EntryName, KeyStore, Notes, StoreCapabilities, next_segments};
use kms_core::{Error, ErrorKind, KeyName, ListQuery, Page, Result, StoreStatus};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::doubts::{Doubt, Doubts, End, Flight, PENDING};
use super::read;
use super::rows::{flags, names, record};
use super::transaction::{Step, Transactions};
use crate::changes::{self, Listening};
use crate::config::PostgresConfig;
use crate::connection::{Value, Wanted};
use crate::error::Failure;
use crate::pool::Pool;
use crate::sql::Sql;
use crate::tls::Tls;

/// The most names that are asked of the server at once.
const CHUNK: usize = 1025;
/// Behind every character of a name, in the order of bytes, and in every encoding that a database may have.
const END: char = '\u{7f}';
/// Before every name of a key, and behind every name that begins with a dot.
const FIRST_OF_KEYS: &str = "0";
/// The pause before a write of unknown outcome is read again. It doubles up to the longest.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How long a primary that did not answer is left alone by reads that a standby can answer. Each costs a connection's time.
const LEFT_ALONE: Duration = Duration::from_secs(2);

/// A key store in one table of a PostgreSQL.
///
/// Creates are atomic and there is never an UPDATE. A create is acknowledged when the server vouches that it is kept: one
/// row was inserted, and no warning came before the end of the commit. A write outlives its caller, and is never sent
/// twice.
///
/// Rows are bytes here. They should come sealed, by [`kms_core::roots`].
pub struct PostgresStore(Arc<Inner>);

struct Inner {
    config: Arc<PostgresConfig>,
    tls: Tls,
    sql: Arc<Sql>,
    primary: Pool,
    /// For reads while the primary is away.
    standby: Option<Pool>,
    /// When the primary did not answer last, if it did not since.
    unheard: Mutex<Option<Instant>>,
    transactions: Transactions,
    /// Writes under way: at most half of the connections, so that reads are never held up by them.
    writes: Arc<Semaphore>,
    doubts: Arc<Doubts>,
    listening: Arc<Listening>,
}

/// The right to make a write, which the parts of one write share.
type Pass = Arc<OwnedSemaphorePermit>;

/// A write for its task: what it is called, what it changes, and how its outcome is found out.
struct Write {
    operation: String,
    name: EntryName,
    steps: Vec<Step>,
    /// The error when a step found the store otherwise.
    otherwise: ErrorKind,
    /// What a create wrote.
    record: Option<Arc<SecretBytes>>,
}

impl PostgresStore {
    /// Opens the table that `config` names. No connection is made until one is needed.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidInput`]: the configuration or a TLS file cannot be used.
    pub fn connect(config: PostgresConfig) -> Result<Self> {
        config.validate()?;
        let tls = Tls::new(&config.tls)?;
        let (sql, config) = (Arc::new(Sql::new(&config)), Arc::new(config));
        let pool = |wanted| {
            Pool::new(&config, &tls, wanted)
                .map_err(|failure| failure.into_error("open the pool of connections"))
        };
        let primary = pool(Wanted::Primary)?;
        let standby = if config.standby_reads { Some(pool(Wanted::Any)?) } else { None };
        let writes = Arc::new(Semaphore::new((config.pool / 2).max(1)));
        let transactions = Transactions::new(primary.clone(), Arc::clone(&sql), config.timeout);
        Ok(Self(Arc::new(Inner {
            config,
            tls,
            sql,
            primary,
            standby,
            unheard: Mutex::default(),
            transactions,
            writes,
            doubts: Arc::default(),
            listening: Arc::default(),
        })))
    }
}

impl Inner {
    fn place(&self, name: &EntryName) -> String {
        format!("row '{name}' of '{}' in PostgreSQL", self.config.place())
    }

    /// Makes a write in a task of its own, and waits for it for a time.
    async fn write(self: &Arc<Self>, write: Write) -> Result<()> {
        let (operation, config) = (write.operation.clone(), &self.config);
        let pass =
            self.pass(config.timeout).await.map_err(|failure| failure.into_error(operation.clone()))?;
        let doubt = match write.record {
            Some(_) => Doubt::Created { since: Instant::now() },
            None => Doubt::Deleted,
        };
        let flight = Flight::begin(&self.doubts, &write.name, doubt);
        let waiting = flight.waiting();
        let (told, outcome) = oneshot::channel();
        // It gives up looking before the caller does, who then hears why.
        let (this, until) = (Arc::clone(self), Instant::now() + config.write_timeout.mul_f64(0.9));
        tokio::spawn(async move {
            let (end, result) = this.carry_out(&write, &pass, until).await;
            flight.end(end);
            drop(pass);
            // The caller may have left; the ring reads it back when it is asked again.
            let _ = told.send(result);
        });
        let result = match timeout(config.write_timeout, outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::with_source(ErrorKind::Internal, operation, "its task ended")),
            Err(_) => {
                let why = "it is still under way, and goes on";
                Err(Error::with_source(ErrorKind::Timeout, operation, why))
            }
        };
        drop(waiting);
        result
    }

    /// Takes one of the passes for writes. It goes with the last clone.
    async fn pass(&self, within: Duration) -> std::result::Result<Pass, Failure> {
        let pass = timeout(within, Arc::clone(&self.writes).acquire_owned()).await;
        pass.ok().and_then(std::result::Result::ok).map(Arc::new).ok_or(Failure::Busy("writes"))
    }

    /// Reads a row by a transaction that writes. It goes on with the pass when the caller has waited long enough: cut off it
    /// would leave a session behind that waits for a standby, and the next read another one.
    async fn read_kept(
        self: &Arc<Self>,
        name: &EntryName,
        pass: Pass,
        within: Duration,
    ) -> std::result::Result<Option<SecretBytes>, Failure> {
        let (told, outcome) = oneshot::channel();
        let (this, name) = (Arc::clone(self), name.clone());
        tokio::spawn(async move {
            let read = this.transactions.read_kept(&name).await;
            drop(pass);
            let _ = told.send(read); // the caller may have left
        });
        match timeout(within, outcome).await {
            Ok(read) => read.unwrap_or_else(|_| Err(Failure::Internal("its task ended".to_owned()))),
            Err(_) => Err(Failure::Timeout(within.as_millis())),
        }
    }

    async fn carry_out(self: &Arc<Self>, write: &Write, pass: &Pass, until: Instant) -> (End, Result<()>) {
        let operation = write.operation.as_str();
        let trouble = match self.transactions.make(&write.steps).await {
            Ok(None) => return (End::Kept, Ok(())),
            Ok(Some(_)) => {
                let why = if write.otherwise == ErrorKind::AlreadyExists {
                    "there is a row"
                } else {
                    "there is no row"
                };
                return (End::Undone, Err(Error::with_source(write.otherwise, operation, why)));
            }
            Err(trouble) => trouble,
        };
        // The other idle connections lead to the same server.
        if trouble.failure.is_lost() {
            self.primary.clear();
        }
        if !trouble.may_be_kept {
            return (End::Undone, Err(trouble.failure.into_error(operation)));
        }
        let unknown = |failure: &Failure| {
            let why = format!("nobody knows yet whether it took effect: {failure}");
            Error::with_source(ErrorKind::Timeout, operation, why)
        };
        tracing::warn!("{operation}: {}", trouble.failure);
        let Some(record) = &write.record else { return (End::Unknown, Err(unknown(&trouble.failure))) };
        let (mut pause, mut last) = (LOOK_AGAIN.0, trouble.failure);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return (End::Unknown, Err(unknown(&last)));
            }
            match self.read_kept(&write.name, Arc::clone(pass), left).await {
                Ok(Some(found)) if found == **record => return (End::Kept, Ok(())),
                // Where a row gives way to another one, both are seen in turn.
                Ok(Some(_)) if write.otherwise == ErrorKind::AlreadyExists => {
                    let why = "another record was read back";
                    return (End::Undone, Err(Error::with_source(ErrorKind::AlreadyExists, operation, why)));
                }
                // The INSERT may still wait for a standby.
                Ok(_) => return (End::Unknown, Err(unknown(&last))),
                Err(failure) => last = failure,
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = (pause * 2).min(LOOK_AGAIN.1);
        }
    }

    /// Reads a row of which a plain read proves nothing.
    async fn get_in_doubt(self: &Arc<Self>, name: &EntryName, doubt: Doubt) -> Result<SecretBytes> {
        let (operation, until) = (format!("read {}", self.place(name)), Instant::now() + self.config.timeout);
        let read = match self.pass(self.config.timeout).await {
            Ok(pass) => self.read_kept(name, pass, until.saturating_duration_since(Instant::now())).await,
            Err(failure) => Err(failure),
        };
        match (read.map_err(|failure| failure.into_error_of_read(operation.clone()))?, doubt) {
            (Some(record), Doubt::Created { .. }) => {
                self.doubts.settle(name);
                Ok(record)
            }
            (Some(record), Doubt::Deleted) => Ok(record),
            (None, Doubt::Created { since }) if since.elapsed() < PENDING => {
                let why = "a create of it may still be under way";
                Err(Error::with_source(ErrorKind::Timeout, operation, why))
            }
            (None, Doubt::Created { .. }) => Err(absent(operation)),
            (None, Doubt::Deleted) => {
                self.doubts.settle(name);
                Err(absent(operation))
            }
        }
    }

    async fn read(&self, operation: &str, statement: &str, values: &[Value<'_>]) -> Result<Vec<Row>> {
        let read = read::of_primary(&self.primary, statement, values, self.config.timeout).await;
        read.map_err(|failure| failure.into_error_of_read(operation))
    }

    /// Reads a row. While the primary is away, a standby may answer, if that is allowed.
    async fn read_row(&self, name: &EntryName, operation: &str) -> Result<Option<SecretBytes>> {
        let values: [Value<'_>; 1] = [(&name.as_str(), Type::TEXT)];
        if let Some(standby) = self.standby.as_ref().filter(|_| self.is_left_alone())
            && let Some(answer) = self.of_standby(standby, &values, operation).await
        {
            return answer;
        }
        let error = match self.read(operation, &self.sql.read, &values).await {
            Ok(rows) => {
                self.note_unheard(None);
                return record(&rows).map_err(|failure| failure.into_error_of_read(operation));
            }
            Err(error) => error,
        };
        match &self.standby {
            Some(standby) if is_no_answer(&error) => {
                self.note_unheard(Some(Instant::now()));
                self.of_standby(standby, &values, operation).await.unwrap_or(Err(error))
            }
            _ => Err(error),
        }
    }

    /// Reads a row of any server; `None` if none answers. What a standby lacks is no absence.
    async fn of_standby(
        &self,
        standby: &Pool,
        values: &[Value<'_>],
        operation: &str,
    ) -> Option<Result<Option<SecretBytes>>> {
        let rows = read::of_any(standby, &self.sql.read, values, self.config.timeout).await.ok()?;
        let takes_writes = rows.first()?.try_get::<_, bool>(0).ok()?;
        match record(&rows).ok()? {
            Some(record) => Some(Ok(Some(record))),
            None if takes_writes => Some(Ok(None)),
            None => {
                let why = "the standby that answered does not have it, and the primary may";
                Some(Err(Error::with_source(ErrorKind::Behind, operation, why)))
            }
        }
    }

    fn is_left_alone(&self) -> bool {
        let unheard = *self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        unheard.is_some_and(|at| at.elapsed() < LEFT_ALONE)
    }

    fn note_unheard(&self, at: Option<Instant>) {
        if self.standby.is_some() {
            *self.unheard.lock().unwrap_or_else(PoisonError::into_inner) = at;
        }
    }

    /// Returns the names from `from` to before `before`, in byte order and at most `limit`; those up to `after` are left out.
    async fn names(&self, from: &str, after: &str, before: &str, limit: usize) -> Result<Vec<String>> {
        let operation = format!("list '{}' in PostgreSQL", self.config.place());
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values: [Value<'_>; 4] =
            [(&from, Type::TEXT), (&after, Type::TEXT), (&before, Type::TEXT), (&limit, Type::INT8)];
        let rows = self.read(&operation, &self.sql.list, &values).await?;
        names(&rows).map_err(|failure| failure.into_error(operation))
    }
}

#[async_trait]
impl KeyStore for PostgresStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities::shared("postgresql").noting_removals()
    }

    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        let record = copied(record);
        let mut steps = vec![Step::Insert(name.clone(), Arc::clone(&record))];
        steps.extend(notice_of_marker(name));
        self.0.write(self.creating("create", name, record, steps)).await
    }

    async fn bring_back(&self, name: &EntryName, record: &SecretBytes, gone: &EntryName) -> Result<()> {
        let record = copied(record);
        let steps = vec![Step::Insert(name.clone(), Arc::clone(&record)), Step::Clear(gone.clone())];
        self.0.write(self.creating("create", name, record, steps)).await
    }

    async fn replace(&self, name: &EntryName, record: &SecretBytes, notes: &Notes<'_>) -> Result<()> {
        let record = copied(record);
        let mut steps = vec![
            Step::Delete(name.clone()),
            Step::Note(notes.gone.clone(), copied(notes.record)),
            Step::Clear(notes.back.clone()),
            Step::Insert(name.clone(), Arc::clone(&record)),
        ];
        steps.extend(notice_of_key(name));
        let write = self.creating("replace", name, record, steps);
        self.0.write(Write { otherwise: ErrorKind::NotFound, ..write }).await
    }

    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        if let Some(doubt) = self.0.doubts.about(name) {
            return self.0.get_in_doubt(name, doubt).await;
        }
        let operation = format!("read {}", self.0.place(name));
        self.0.read_row(name, &operation).await?.ok_or_else(|| absent(operation))
    }

    async fn delete(&self, name: &EntryName) -> Result<()> {
        let mut steps = vec![Step::Delete(name.clone())];
        steps.extend(notice_of_marker(name).or_else(|| notice_of_key(name)));
        self.0.write(self.deleting(name, steps)).await
    }

    async fn remove(&self, name: &EntryName, gone: &EntryName, record: &SecretBytes) -> Result<()> {
        let mut steps = vec![Step::Delete(name.clone()), Step::Note(gone.clone(), copied(record))];
        steps.extend(notice_of_marker(name).or_else(|| notice_of_key(name)));
        self.0.write(self.deleting(name, steps)).await
    }

    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        if !query.prefix.is_empty() && !KeyName::is_valid_prefix(query.prefix) {
            return Ok(Page::default());
        }
        let from = query.prefix.max(FIRST_OF_KEYS);
        let before = format!("{}{END}", query.prefix);
        let wanted = query.limit.saturating_add(1);
        let (mut names, mut after) = (Vec::new(), query.after.unwrap_or_default().replace('\0', ""));
        while names.len() < wanted {
            let chunk = (wanted - names.len()).min(CHUNK);
            let found = self.0.names(from, &after, &before, chunk).await?;
            let is_last = found.len() < chunk;
            if let Some(last) = found.last() {
                after.clone_from(last);
            }
            // A text that is no name of a key was put there by somebody else.
            names.extend(found.into_iter().filter_map(|name| KeyName::new(name).ok()));
            if is_last {
                break;
            }
        }
        let more = names.len() > query.limit;
        names.truncate(query.limit);
        Ok(Page { names, more })
    }

    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        let operation = format!("list '{directory}' of '{}' in PostgreSQL", self.0.config.place());
        let before = format!("{directory}{END}");
        let values: [Value<'_>; 2] = [(&directory, Type::TEXT), (&before.as_str(), Type::TEXT)];
        let rows = self.0.read(&operation, &self.0.sql.segments, &values).await?;
        let names = names(&rows).map_err(|failure| failure.into_error(operation))?;
        Ok(next_segments(directory, names.iter().map(String::as_str)))
    }

    fn changes(&self) -> Option<Changes> {
        let Inner { config, tls, sql, listening, .. } = &*self.0;
        Some(changes::listen(Arc::clone(config), tls.clone(), Arc::clone(sql), Arc::clone(listening)))
    }

    async fn status(&self) -> Result<StoreStatus> {
        const OPERATION: &str = "ask PostgreSQL how it is";
        const STATEMENT: &str = "SELECT CASE WHEN pg_catalog.row_security_active(pg_catalog.to_regclass($1)) THEN NULL \
            ELSE pg_catalog.current_setting('transaction_read_only') = 'off' END, \
            pg_catalog.current_setting('fsync') = 'on', pg_catalog.to_regclass($1) IS NOT NULL";
        let began = Instant::now();
        let Inner { primary, standby, config, sql, .. } = &*self.0;
        let table: [Value<'_>; 1] = [(&sql.table, Type::TEXT)];
        match read::of_primary(primary, STATEMENT, &table, config.timeout).await {
            Ok(rows) => {
                let status = StoreStatus::ok(began.elapsed());
                let (syncs, is_set_up) =
                    flags(&rows).map_err(|failure| failure.into_error_of_read(OPERATION))?;
                if !is_set_up {
                    return Err(Failure::no_table(&sql.table).into_error(OPERATION));
                }
                let status = if syncs {
                    status
                } else {
                    status.degraded("fsync is off in PostgreSQL: a power cut loses keys")
                };
                let why =
                    "the connection that listens is down, so deletions by other servers are heard later";
                Ok(if self.0.listening.is_deaf() { status.degraded(why) } else { status })
            }
            Err(failure) => {
                let error = failure.into_error_of_read(OPERATION);
                let Some(standby) = standby.as_ref().filter(|_| error.kind().is_outage()) else {
                    return Err(error);
                };
                match read::of_any(standby, STATEMENT, &table, config.timeout).await {
                    Ok(_) => {
                        let why =
                            format!("only a standby answers, so nothing can be changed: {}", error.chain());
                        Ok(StoreStatus::ok(began.elapsed()).degraded(why))
                    }
                    Err(_) => Err(error),
                }
            }
        }
    }

    fn place(&self, name: &EntryName) -> String {
        self.0.place(name)
    }
}

impl PostgresStore {
    fn creating(&self, doing: &str, name: &EntryName, record: Arc<SecretBytes>, steps: Vec<Step>) -> Write {
        let operation = format!("{doing} {}", self.0.place(name));
        let otherwise = ErrorKind::AlreadyExists;
        Write { operation, name: name.clone(), steps, otherwise, record: Some(record) }
    }

    fn deleting(&self, name: &EntryName, steps: Vec<Step>) -> Write {
        let operation = format!("delete {}", self.0.place(name));
        Write { operation, name: name.clone(), steps, otherwise: ErrorKind::NotFound, record: None }
    }
}

/// Returns the notice of a marker that is made or removed: it changes what a key means that others have in memory.
fn notice_of_marker(name: &EntryName) -> Option<Step> {
    let rest = [".d/", ".x/", ".p/"].iter().find_map(|directory| name.as_str().strip_prefix(directory))?;
    let (key, _) = rest.split_once('/')?;
    Some(Step::Notify(key.to_owned()))
}

/// Returns the notice of a key whose entry is removed.
fn notice_of_key(name: &EntryName) -> Option<Step> {
    (!name.is_hidden()).then(|| Step::Notify(name.as_str().to_owned()))
}

fn copied(record: &SecretBytes) -> Arc<SecretBytes> {
    Arc::new(SecretBytes::from(record.expose()))
}

/// Returns whether the primary is away, and not only busy or without its table.
fn is_no_answer(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Unreachable | ErrorKind::Sealed | ErrorKind::Timeout)
}

fn absent(operation: String) -> Error {
    Error::with_source(ErrorKind::NotFound, operation, "there is no row")
}
