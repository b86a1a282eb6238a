//! Maps the database's errors to store errors.

use strait_core::store::{StoreError, StoreErrorKind};

/// The name of this store in errors.
pub(crate) const BACKEND: &str = "postgres";

/// The SQLSTATE of the schema's functions for a node that is not on the bus.
pub(crate) const NOT_ON_THE_BUS: &str = "STR01";
/// The SQLSTATE of `send_commands` for a full mailbox.
const MAILBOX_FULL: &str = "STR02";

/// An error without a source.
pub(crate) fn error(kind: StoreErrorKind, op: &'static str, source: &'static str) -> StoreError {
    StoreError::new(kind, BACKEND, op).because(source)
}

pub(crate) fn from_sqlx(op: &'static str, source: sqlx::Error) -> StoreError {
    let error = StoreError::new(kind(&source), BACKEND, op);
    match code(&source) {
        Some(code) => error.because(Answered { code, source }),
        None => error.because(source),
    }
}

/// The server's SQLSTATE, which sqlx's text leaves out.
#[derive(Debug, thiserror::Error)]
#[error("SQLSTATE {code}")]
struct Answered {
    code: String,
    source: sqlx::Error,
}

/// The SQLSTATE of a store error, if the server has answered with one.
pub(crate) fn answered(error: &StoreError) -> Option<&str> {
    Some(&error.source.as_ref()?.downcast_ref::<Answered>()?.code)
}

/// The SQLSTATE, if the error is an answer of the server.
pub(crate) fn code(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

/// Whether a transaction was rolled back because of another one, without an effect.
pub(crate) fn lost_against_another(error: &sqlx::Error) -> bool {
    matches!(code(error).as_deref(), Some("40001" | "40P01"))
}

/// Classes of SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn kind(error: &sqlx::Error) -> StoreErrorKind {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed
        | sqlx::Error::Protocol(_) => StoreErrorKind::Unavailable,
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) | sqlx::Error::InvalidArgument(_) => {
            StoreErrorKind::Misconfigured
        }
        sqlx::Error::Database(_) => code(error).map_or(StoreErrorKind::Corrupt, |code| of_code(&code)),
        _ => StoreErrorKind::Corrupt,
    }
}

fn of_code(code: &str) -> StoreErrorKind {
    match code {
        // Cancelled by a time limit.
        "57014" => StoreErrorKind::Timeout,
        // A read-only server, a held lock, a node that must join anew or does not read.
        // A server in recovery has no unlogged tables (0A000).
        "25006" | "0A000" | "55P03" | "55006" | NOT_ON_THE_BUS | MAILBOX_FULL => StoreErrorKind::Unavailable,
        "23505" => StoreErrorKind::Conflict,
        // Connections, rolled-back transactions, resources (a full disk too), shutdown, I/O errors.
        _ if ["08", "25", "40", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => {
            StoreErrorKind::Unavailable
        }
        // Credentials, a missing database, schema or function, privileges, limits.
        _ if ["28", "3D", "3F", "42", "54"].iter().any(|class| code.starts_with(class)) => {
            StoreErrorKind::Misconfigured
        }
        _ => StoreErrorKind::Corrupt,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_whether_trying_again_helps() {
        for (code, expected) in [
            ("57P01", StoreErrorKind::Unavailable),
            ("53100", StoreErrorKind::Unavailable),
            ("53300", StoreErrorKind::Unavailable),
            ("25006", StoreErrorKind::Unavailable),
            ("0A000", StoreErrorKind::Unavailable),
            ("40P01", StoreErrorKind::Unavailable),
            ("55P03", StoreErrorKind::Unavailable),
            ("57014", StoreErrorKind::Timeout),
            ("28P01", StoreErrorKind::Misconfigured),
            ("42501", StoreErrorKind::Misconfigured),
            ("42883", StoreErrorKind::Misconfigured),
            ("23505", StoreErrorKind::Conflict),
            ("22021", StoreErrorKind::Corrupt),
        ] {
            assert_eq!(of_code(code), expected, "{code}");
        }
    }
}
