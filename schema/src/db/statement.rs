//! How a statement is sent: as it is on an ordinary connection; in a short transaction of its own behind a transaction
//! pooler, where nothing may be expected of the server between two transactions: sqlx sends a statement and its
//! parameters in two steps, and only a transaction keeps both on the same server connection.

use sqlx::postgres::{PgArguments, PgRow, Postgres};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{Decode, FromRow, SqlSafeStr, Type};

use super::{DbError, PgPool};

/// Whether the pool goes through a transaction pooler. [`super::connect`] tells those apart by who tests a connection
/// before it is used: sqlx, or a function of ours that spares those used a moment ago.
pub(super) fn is_pooled(pool: &PgPool) -> bool {
    pool.options().get_test_before_acquire()
}

/// A statement whose rows become `O`s.
pub(super) fn rows<O>(sql: impl SqlSafeStr) -> QueryAs<'static, Postgres, O, PgArguments>
where
    O: for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_as(sql)
}

/// A statement whose rows have one column, an `O`.
pub(super) fn values<O>(sql: impl SqlSafeStr) -> QueryScalar<'static, Postgres, O, PgArguments>
where
    (O,): for<'r> FromRow<'r, PgRow>,
{
    sqlx::query_scalar(sql)
}

/// A statement that answers nothing.
pub(super) fn plain(sql: impl SqlSafeStr) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql)
}

/// Sends a statement in the way its pool needs.
pub(super) trait Statement: Sized {
    /// What one row becomes.
    type Row;

    /// Exactly one row.
    async fn one(self, pool: &PgPool) -> Result<Self::Row, DbError>;
    /// One row or none.
    async fn optional(self, pool: &PgPool) -> Result<Option<Self::Row>, DbError>;
    /// All rows.
    async fn all(self, pool: &PgPool) -> Result<Vec<Self::Row>, DbError>;
}

macro_rules! in_its_own_transaction {
    ($query:expr, $pool:expr, $fetch:ident) => {{
        if is_pooled($pool) {
            let mut tx = $pool.begin().await?;
            let answer = $query.persistent(false).$fetch(&mut *tx).await?;
            tx.commit().await?;
            Ok(answer)
        } else {
            Ok($query.$fetch($pool).await?)
        }
    }};
}

impl<O> Statement for QueryAs<'_, Postgres, O, PgArguments>
where
    O: Send + Unpin + for<'r> FromRow<'r, PgRow>,
{
    type Row = O;

    async fn one(self, pool: &PgPool) -> Result<O, DbError> {
        in_its_own_transaction!(self, pool, fetch_one)
    }

    async fn optional(self, pool: &PgPool) -> Result<Option<O>, DbError> {
        in_its_own_transaction!(self, pool, fetch_optional)
    }

    async fn all(self, pool: &PgPool) -> Result<Vec<O>, DbError> {
        in_its_own_transaction!(self, pool, fetch_all)
    }
}

impl<O> Statement for QueryScalar<'_, Postgres, O, PgArguments>
where
    O: Send + Unpin + for<'r> Decode<'r, Postgres> + Type<Postgres>,
{
    type Row = O;

    async fn one(self, pool: &PgPool) -> Result<O, DbError> {
        in_its_own_transaction!(self, pool, fetch_one)
    }

    async fn optional(self, pool: &PgPool) -> Result<Option<O>, DbError> {
        in_its_own_transaction!(self, pool, fetch_optional)
    }

    async fn all(self, pool: &PgPool) -> Result<Vec<O>, DbError> {
        in_its_own_transaction!(self, pool, fetch_all)
    }
}

/// Sends a statement that answers nothing.
pub(super) async fn run(
    query: Query<'_, Postgres, PgArguments>,
    pool: &PgPool,
) -> Result<(), DbError> {
    let done: Result<_, DbError> = in_its_own_transaction!(query, pool, execute);
    done.map(|_| ())
}
