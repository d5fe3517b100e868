//! The only door to PostgreSQL: the connection pool, migrations, and one short function per verb or query.
//!
//! State changes are SQL functions in `sql/functions/`; each guards itself (by lease token and state) and says what
//! happened. A lost lease is an outcome here, not an error. Nothing here keeps session state, so everything but
//! LISTEN works through a transaction pooler.

pub mod audit;
pub mod events;
pub mod jobs;
pub mod keys;
pub mod maintenance;
pub mod measures;
pub mod migrate;
pub mod models;
pub mod notify;
pub mod queue;
pub mod rate_limits;
mod statement;
pub mod tasks;
pub mod workers;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

use statement::Statement;

pub use sqlx::PgPool;

/// How to reach PostgreSQL.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// `postgres://…` URL; may hold a password.
    pub url: SecretString,
    /// Most connections of this process.
    pub max_connections: u32,
    /// The server is behind a transaction pooler (PgBouncer): no prepared statements are kept and no LISTEN is used.
    pub transaction_pooler: bool,
    /// Name shown in `pg_stat_activity`, for example `dalston-api`.
    pub application_name: String,
}

/// Why the database could not do it.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// PostgreSQL or the connection failed.
    #[error("database: {0}")]
    Sqlx(#[from] sqlx::Error),
    /// A stored JSON document has a shape this version does not know.
    #[error("stored JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The `Idempotency-Key` was used before with another request.
    #[error("this Idempotency-Key was used with a different request")]
    IdempotencyMismatch,
    /// The tenant has as many unfinished jobs as it may have.
    #[error("Concurrent job limit exceeded ({limit} max)")]
    JobLimit {
        /// Unfinished jobs a tenant may have.
        limit: i32,
    },
    /// The server is too old or too new.
    #[error("PostgreSQL {found} is not supported; use 15 to 18")]
    Version {
        /// `server_version` of the server.
        found: String,
    },
    /// The schema in the database is newer than this program.
    #[error(
        "the database was migrated by a newer dalston (migration {found}); upgrade this program"
    )]
    NewerSchema {
        /// Newest migration found.
        found: i32,
    },
    /// A migration that was applied is not the one this program carries.
    #[error(
        "migration {number} in the database differs from this program's; was a released migration edited?"
    )]
    ChangedMigration {
        /// Number of the migration.
        number: i32,
    },
}

impl DbError {
    /// Whether the same call may succeed later: connection trouble, a server that is starting or stopping, a
    /// serialization failure or deadlock.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Sqlx(
                sqlx::Error::Io(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::Protocol(_),
            ) => true,
            Self::Sqlx(sqlx::Error::Database(error)) => error.code().is_some_and(|code| {
                // Classes: 08 connection, 40 rollback, 53 resources, 57P operator intervention.
                ["08", "40", "53", "57P"]
                    .iter()
                    .any(|class| code.starts_with(class))
            }),
            _ => false,
        }
    }

    /// Whether a text was refused that PostgreSQL does not store: one with a NUL character.
    #[must_use]
    pub fn is_unstorable_text(&self) -> bool {
        let Self::Sqlx(sqlx::Error::Database(error)) = self else {
            return false;
        };
        // Invalid byte sequence; escape that is no character.
        matches!(error.code().as_deref(), Some("22021" | "22P05"))
    }
}

/// How long a connection is taken to be alive since it was put back, which tests it; a longer rest has it tested again.
const TRUSTED_FOR: Duration = Duration::from_millis(50);

/// Connects lazily: the first statement opens the first connection, so a server that is still starting is waited for
/// by whoever asks first.
///
/// # Errors
/// When the URL cannot be read.
pub fn connect(config: &DatabaseConfig) -> Result<PgPool, DbError> {
    let mut options: PgConnectOptions = config.url.expose_secret().parse()?;
    options = options.application_name(&config.application_name);
    if config.transaction_pooler {
        options = options.statement_cache_capacity(0);
    }
    Ok(PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(Duration::from_secs(10))
        // How `statement` tells a pooled pool: see there.
        .test_before_acquire(config.transaction_pooler)
        .before_acquire(|connection, since| {
            Box::pin(async move {
                if since.idle_for > TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options))
}

/// The time, by the database's clock; a host's own clock may be wrong.
///
/// # Errors
/// Database trouble only.
pub async fn now(pool: &PgPool) -> Result<chrono::DateTime<chrono::Utc>, DbError> {
    statement::values("select dalston_now()").one(pool).await
}
