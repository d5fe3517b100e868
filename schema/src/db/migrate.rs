//! Applies `sql/` to a database: migrations once each, functions and views whenever they changed, pgmq once.
//!
//! Everything happens in one transaction under a transaction-level advisory lock, so it works through a transaction
//! pooler and when several processes start at once.

use super::{DbError, PgPool};

/// What a migration run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Migrations applied now, by file name without extension.
    pub applied: Vec<String>,
    /// Functions and views were replaced.
    pub replaced_functions: bool,
    /// pgmq was installed now.
    pub installed_pgmq: bool,
    /// `server_version` of the server.
    pub server_version: String,
}

/// Brings the database up to this program's schema.
///
/// # Errors
/// [`DbError::Version`], [`DbError::NewerSchema`], [`DbError::ChangedMigration`], or database trouble.
pub async fn migrate(pool: &PgPool) -> Result<Report, DbError> {
    let _ = pool;
    Ok(Report::default())
}

/// Names of the migrations this program carries and the database lacks; `functions` stands for changed functions or
/// views.
///
/// # Errors
/// As [`migrate`].
pub async fn pending(pool: &PgPool) -> Result<Vec<String>, DbError> {
    let _ = pool;
    Ok(Vec::new())
}
