//! What may go wrong with the database, and what that says about the transaction under way.

use std::error::Error as _;

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// Why a transaction has not succeeded.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It lost a race and is undone; it may be run again at once.
    #[error("another transaction was first: {0}")]
    Raced(#[source] Error),
    /// The database refuses it as it is, and it is undone.
    #[error("the database refuses: {}", told(.0))]
    Refused(#[source] Error),
    /// The connection is of no use any more.
    #[error("the connection to the database is lost: {}", told(.0))]
    Lost(#[source] Error),
    /// No answer in time, so the connection is given up.
    #[error("the database has not answered in time")]
    Late,
    /// There is no connection.
    #[error("no connection to the database: {0}")]
    Unconnected(String),
    /// What the database holds is not what the service wrote.
    #[error("the database holds a row that makes no sense: {0}")]
    Damaged(&'static str),
}

/// The error with its cause, which the client library leaves out.
pub fn told(error: &Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl Failure {
    /// Every kind, as metrics name it.
    pub const KINDS: [&str; 6] = ["raced", "refused", "lost", "late", "unconnected", "damaged"];

    /// One of [`Failure::KINDS`].
    pub fn kind(&self) -> &'static str {
        let index = match self {
            Failure::Raced(_) => 0,
            Failure::Refused(_) => 1,
            Failure::Lost(_) => 2,
            Failure::Late => 3,
            Failure::Unconnected(_) => 4,
            Failure::Damaged(_) => 5,
        };
        Failure::KINDS[index]
    }

    /// Whether the connection may be used again, after a rollback.
    pub fn leaves_the_connection(&self) -> bool {
        matches!(self, Failure::Raced(_) | Failure::Refused(_) | Failure::Damaged(_))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        let Some(code) = error.code() else {
            // Without a word from the server: the connection broke off, or what came over it was no answer.
            return Failure::Lost(error);
        };
        match *code {
            SqlState::T_R_SERIALIZATION_FAILURE
            | SqlState::T_R_DEADLOCK_DETECTED
            | SqlState::LOCK_NOT_AVAILABLE
            // The last word on a name that two give at once: the next look finds it.
            | SqlState::UNIQUE_VIOLATION => Failure::Raced(error),
            // A primary that has become a standby is no longer the one to talk to.
            SqlState::READ_ONLY_SQL_TRANSACTION
            | SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
            | SqlState::ADMIN_SHUTDOWN
            | SqlState::CRASH_SHUTDOWN
            | SqlState::CANNOT_CONNECT_NOW => Failure::Lost(error),
            _ if code.code().starts_with("08") => Failure::Lost(error),
            _ => Failure::Refused(error),
        }
    }
}
