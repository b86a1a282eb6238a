//! Brings the schema up to date.

use sqlx::{AssertSqlSafe, Connection, PgConnection, raw_sql};
use strait_core::store::{StoreError, StoreErrorKind};

use crate::error::{error, from_sqlx};

/// Each version's SQL; `{s}` stands for the schema. A released version never changes.
const VERSIONS: &[&[&str]] = &[&[
    include_str!("../sql/1/tables.sql"),
    include_str!("../sql/1/topics.sql"),
    include_str!("../sql/1/outbox.sql"),
    include_str!("../sql/1/channels.sql"),
    include_str!("../sql/1/members.sql"),
    include_str!("../sql/1/bus.sql"),
    include_str!("../sql/1/publish.sql"),
]];

/// Unqualified names are Postgres's own: a pooler's session has none of our settings.
const OWN_NAMES: &str = "SET LOCAL search_path = pg_catalog";

/// The schema's version for this crate.
pub(crate) const LATEST: i32 = VERSIONS.len() as i32;

/// Fills in the schema's name, which needs no escaping within quotes.
pub(crate) fn in_schema(sql: &str, schema: &str) -> String {
    sql.replace("{s}", &format!("\"{schema}\""))
}

/// The version of a schema, 0 if it does not exist.
pub(crate) async fn version(connection: &mut PgConnection, schema: &str) -> Result<i32, sqlx::Error> {
    // Read the catalogue's rows: a failed look-up of a name is cached for the rest of the transaction.
    let there: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = $1 AND c.relname = 'migration')",
    )
    .bind(schema)
    .persistent(false)
    .fetch_one(&mut *connection)
    .await?;
    if !there {
        return Ok(0);
    }
    let newest = in_schema("SELECT coalesce(max(version), 0) FROM {s}.migration", schema);
    sqlx::query_scalar(AssertSqlSafe(newest)).persistent(false).fetch_one(connection).await
}

/// Applies the missing versions, all or none. One of several concurrent callers does it, and the others wait.
///
/// A newer schema is left alone: each version keeps the functions that older nodes call.
pub(crate) async fn migrate(connection: &mut PgConnection, schema: &str) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // On a busy server a first connection may have to wait longer than a usual statement.
    let settings = "SET LOCAL lock_timeout = '60s'; SET LOCAL statement_timeout = '60s'";
    raw_sql(settings).execute(&mut *transaction).await?;
    raw_sql(OWN_NAMES).execute(&mut *transaction).await?;
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('strait:' || $1, 0))")
        .bind(schema)
        .persistent(false)
        .execute(&mut *transaction)
        .await?;
    let found = version(&mut transaction, schema).await?;
    if found < LATEST {
        let begin = "CREATE SCHEMA IF NOT EXISTS {s}; CREATE TABLE IF NOT EXISTS {s}.migration \
                     (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())";
        raw_sql(AssertSqlSafe(in_schema(begin, schema))).execute(&mut *transaction).await?;
        for (version, parts) in (1..).zip(VERSIONS).filter(|(version, _)| *version > found) {
            for part in *parts {
                raw_sql(AssertSqlSafe(in_schema(part, schema))).execute(&mut *transaction).await?;
            }
            let note = in_schema("INSERT INTO {s}.migration (version) VALUES ($1)", schema);
            sqlx::query(AssertSqlSafe(note)).bind(version).persistent(false).execute(&mut *transaction).await?;
        }
    }
    transaction.commit().await
}

/// Checks that the store can work with the server; returns the schema's version.
pub(crate) async fn check(connection: &mut PgConnection, schema: &str) -> Result<i32, StoreError> {
    let failed = |error| from_sqlx("connect", error);
    // A transaction, so that a pooler keeps one server.
    let mut transaction = connection.begin().await.map_err(failed)?;
    raw_sql(OWN_NAMES).execute(&mut *transaction).await.map_err(failed)?;
    let wrong = |source| Err(error(StoreErrorKind::Misconfigured, "connect", source));
    let (server, encoding): (i32, String) =
        sqlx::query_as("SELECT current_setting('server_version_num')::integer, current_setting('server_encoding')")
            .persistent(false)
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
    let found = version(&mut transaction, schema).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    if server < 150_000 {
        return wrong("the server must be Postgres 15 or newer");
    }
    if encoding != "UTF8" {
        return wrong("the database's encoding must be UTF8");
    }
    Ok(found)
}
