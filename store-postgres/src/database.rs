//! Statements and the connections that they run on.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use parking_lot::Mutex;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::{
    Arguments, AssertSqlSafe, ConnectOptions, Connection, Encode, PgConnection, Postgres, SqlSafeStr, SqlStr, Type,
    raw_sql,
};
use strait_core::store::{StoreError, StoreErrorKind};
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::addresses::Addresses;
use crate::config::PostgresConfig;
use crate::error::{error, from_sqlx, lost_against_another};
use crate::renewal::{Renewal, is_wrong_server};

/// How often a statement is tried that lost against another one.
const TRIES: u32 = 5;
/// After so long a connection is asked whether it is still there before it is used.
const DOUBTFUL: Duration = Duration::from_secs(1);
/// How long a connection is tried once more, to tell why there is none.
const LAST_TRY: Duration = Duration::from_millis(500);
/// Connections for what must not wait behind work.
const VITAL: u32 = 3;

/// Which connections a statement runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lane {
    /// What applications do.
    Work,
    /// Leases, polls and wake-ups, which go on when all connections for work are busy.
    Vital,
}

#[derive(Debug)]
pub(crate) struct Database {
    home: Mutex<Option<Home>>,
    options: PgConnectOptions,
    addresses: Addresses,
    connections: u32,
    operation: Duration,
    lifetime: Duration,
    pub(crate) renewal: Arc<Renewal>,
    /// What begins each transaction, behind a pooler.
    begin: Option<SqlStr>,
}

/// The runtime that connections and tasks belong to, whoever uses them: the first one that needed any, as long as it
/// lives. What a runtime opened is dead when it ends, so that connections of several would fail one by one.
#[derive(Debug)]
struct Home {
    runtime: Handle,
    /// A task of the runtime's that does nothing: it has ended when the runtime has.
    life: AbortHandle,
    pools: Pools,
}

#[derive(Debug, Clone)]
struct Pools {
    work: PgPool,
    vital: PgPool,
}

impl Drop for Home {
    fn drop(&mut self) {
        self.life.abort();
    }
}

/// Polls a future as a task of a runtime: what it opens, times and spawns belongs there.
async fn within<F: Future>(runtime: Handle, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|context| {
        let _entered = runtime.enter();
        future.as_mut().poll(context)
    })
    .await
}

/// The values of a statement.
#[derive(Default)]
pub(crate) struct Values {
    arguments: PgArguments,
    failure: Option<sqlx::error::BoxDynError>,
}

impl Values {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with<'t, T: Encode<'t, Postgres> + Type<Postgres>>(mut self, value: T) -> Self {
        if let Err(failure) = self.arguments.add(value) {
            self.failure.get_or_insert(failure);
        }
        self
    }
}

/// A pooled connection that is closed unless its work came to an end: what was under way would be the next one's.
struct Borrowed(Option<PoolConnection<Postgres>>);

impl Borrowed {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            drop(connection.detach());
        }
    }
}

impl Database {
    pub(crate) fn new(config: &PostgresConfig) -> Self {
        let begin = config.pooler.then(|| {
            let settings = config.settings().map(|(name, value)| format!("; SET LOCAL {name} = '{value}'"));
            AssertSqlSafe(format!("BEGIN{}", settings.concat())).into_sql_str()
        });
        Self {
            home: Mutex::new(None),
            options: config.options(),
            addresses: Addresses::new(config.options(), config.found.clone(), config.operation),
            connections: config.connections,
            operation: config.operation,
            lifetime: config.lifetime,
            renewal: Arc::default(),
            begin,
        }
    }

    fn open_pools(&self) -> Pools {
        let pool = |most: u32| {
            let renewal = Arc::clone(&self.renewal);
            PgPoolOptions::new()
                .max_connections(most)
                .acquire_timeout(self.operation)
                // A connection that comes late is measured with its call. A line each would be thousands in an outage.
                .acquire_slow_threshold(Duration::MAX)
                .max_lifetime(self.lifetime)
                .test_before_acquire(false)
                .before_acquire(move |connection, metadata| {
                    let ends = renewal.ends(metadata.age);
                    // An error would be a line in the log for each connection.
                    Box::pin(async move {
                        Ok(!ends && (metadata.idle_for <= DOUBTFUL || connection.ping().await.is_ok()))
                    })
                })
                .connect_lazy_with(self.options.clone())
        };
        Pools { work: pool(self.connections), vital: pool(VITAL) }
    }

    /// The runtime at home, and the connections there. Must be called on a runtime.
    fn home(&self) -> (Handle, Pools) {
        let mut home = self.home.lock();
        let lives = |home: &Home| !home.life.is_finished() || home.pools.work.is_closed();
        if let Some(home) = home.as_ref().filter(|home| lives(home)) {
            return (home.runtime.clone(), home.pools.clone());
        }
        let runtime = Handle::current();
        let life = runtime.spawn(std::future::pending::<()>()).abort_handle();
        let new = home.insert(Home { runtime, life, pools: self.open_pools() });
        (new.runtime.clone(), new.pools.clone())
    }

    /// Runs a task at home. Without a runtime there nothing is done.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        let runtime = if Handle::try_current().is_ok() {
            Some(self.home().0)
        } else {
            self.home.lock().as_ref().map(|home| home.runtime.clone())
        };
        Some(runtime?.spawn(task).abort_handle())
    }

    pub(crate) async fn close(&self) {
        let (_, pools) = self.home();
        pools.work.close().await;
        pools.vital.close().await;
    }

    async fn acquire(&self, lane: Lane) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let (runtime, pools) = self.home();
        let pool = match lane {
            Lane::Work => &pools.work,
            Lane::Vital => &pools.vital,
        };
        let acquiring = async {
            self.addresses.choose(pool, [&pools.work, &pools.vital]).await;
            pool.acquire().await
        };
        within(runtime, acquiring).await
    }

    /// A connection of the caller's own, for what is no single statement.
    pub(crate) async fn connection(&self, op: &'static str) -> Result<PgConnection, StoreError> {
        match self.acquire(Lane::Vital).await {
            Ok(connection) => Ok(connection.detach()),
            // The pool has tried for all of the time, and does not tell what it met.
            Err(sqlx::Error::PoolTimedOut) => {
                let (runtime, pools) = self.home();
                let options = pools.vital.connect_options();
                let connecting = within(runtime, timeout(self.operation.min(LAST_TRY), options.connect()));
                connecting.await.map_err(|_| late(op))?.map_err(|error| from_sqlx(op, error))
            }
            Err(error) => Err(from_sqlx(op, error)),
        }
    }

    /// Runs a statement, which is a transaction of its own, and answers its rows.
    pub(crate) async fn rows(
        &self,
        op: &'static str,
        lane: Lane,
        sql: &SqlStr,
        values: Values,
    ) -> Result<Vec<PgRow>, StoreError> {
        let mut tries = 1;
        loop {
            let mut rows = Vec::new();
            let mut take = |row| rows.push(row);
            match timeout(self.operation, self.each(lane, sql, &values, &mut take)).await {
                Ok(Ok(())) => return Ok(rows),
                Ok(Err(error)) if lost_against_another(&error) && tries < TRIES => {
                    tries += 1;
                    metrics::counter!("strait_postgres_retries_total").increment(1);
                    tokio::task::yield_now().await;
                }
                Ok(Err(error)) => return Err(from_sqlx(op, error)),
                Err(_) => return Err(late(op)),
            }
        }
    }

    /// As [`rows`](Self::rows), row by row as they come.
    pub(crate) async fn stream(
        &self,
        op: &'static str,
        lane: Lane,
        sql: &SqlStr,
        values: Values,
        take: &mut (dyn FnMut(PgRow) + Send),
    ) -> Result<(), StoreError> {
        match timeout(self.operation, self.each(lane, sql, &values, take)).await {
            Ok(ran) => ran.map_err(|error| from_sqlx(op, error)),
            Err(_) => Err(late(op)),
        }
    }

    async fn each(
        &self,
        lane: Lane,
        sql: &SqlStr,
        values: &Values,
        take: &mut (dyn FnMut(PgRow) + Send),
    ) -> Result<(), sqlx::Error> {
        if let Some(failure) = &values.failure {
            return Err(sqlx::Error::Encode(failure.to_string().into()));
        }
        let mut borrowed = Borrowed(Some(self.acquire(lane).await?));
        let Some(connection) = borrowed.0.as_deref_mut() else { return Err(sqlx::Error::PoolClosed) };
        let ran = match &self.begin {
            None => execute(connection, sql, values, true, take).await,
            Some(begin) => in_transaction(connection, begin, sql, values, take).await,
        };
        if ran.as_ref().err().and_then(crate::error::code).is_some_and(|code| is_wrong_server(&code))
            && self.renewal.begin()
        {
            self.addresses.doubt();
        }
        // The connection is in order after the server's own word only.
        if matches!(ran, Ok(()) | Err(sqlx::Error::Database(_))) && !ended(&ran) {
            borrowed.give_back();
        }
        ran
    }
}

/// Whether the server has said that it ends the connection.
fn ended(ran: &Result<(), sqlx::Error>) -> bool {
    let code = ran.as_ref().err().and_then(crate::error::code);
    code.is_some_and(|code| code.starts_with("57P") || code.starts_with("08"))
}

pub(crate) fn late(op: &'static str) -> StoreError {
    error(StoreErrorKind::Timeout, op, "the database did not answer within the operation's time limit")
}

async fn execute(
    connection: &mut PgConnection,
    sql: &SqlStr,
    values: &Values,
    persistent: bool,
    take: &mut (dyn FnMut(PgRow) + Send),
) -> Result<(), sqlx::Error> {
    let query = sqlx::query_with(sql.clone(), values.arguments.clone()).persistent(persistent);
    let mut rows = query.fetch(connection);
    while let Some(row) = rows.try_next().await? {
        take(row);
    }
    Ok(())
}

/// A statement is prepared in one exchange and run in another: the transaction keeps both on one server.
async fn in_transaction(
    connection: &mut PgConnection,
    begin: &SqlStr,
    sql: &SqlStr,
    values: &Values,
    take: &mut (dyn FnMut(PgRow) + Send),
) -> Result<(), sqlx::Error> {
    raw_sql(begin.clone()).execute(&mut *connection).await?;
    match execute(connection, sql, values, false, take).await {
        Ok(()) => raw_sql("COMMIT").execute(connection).await.map(drop),
        Err(error) => {
            raw_sql("ROLLBACK").execute(connection).await?;
            Err(error)
        }
    }
}
