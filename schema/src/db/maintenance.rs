//! What must happen from time to time, in whichever process gets to it: every function is safe to run in several
//! processes at once (they pass over each other's rows), cheap when there is nothing to do, and bounded.

use std::time::Duration;

use super::statement::{self, Statement};
use super::{DbError, PgPool, notify};
use crate::ids::JobId;

/// The right to do something that only one process should do at a time; ends when dropped.
#[derive(Debug)]
pub struct Turn {
    // The lock lives as long as the transaction, also behind a transaction pooler; a process that dies loses both.
    _transaction: sqlx::Transaction<'static, sqlx::Postgres>,
}

/// Takes the turn for `what`, or answers `None` when another process has it.
///
/// # Errors
/// Database trouble only.
pub async fn take_turn(pool: &PgPool, what: &str) -> Result<Option<Turn>, DbError> {
    let mut transaction = pool.begin().await?;
    let taken: bool = sqlx::query_scalar(
        "select pg_try_advisory_xact_lock(hashtextextended('dalston ' || $1, 0))",
    )
    .persistent(false)
    .bind(what)
    .fetch_one(&mut *transaction)
    .await?;
    Ok(taken.then_some(Turn {
        _transaction: transaction,
    }))
}

/// The id of this installation, made with its database.
///
/// # Errors
/// Database trouble only.
pub async fn installation(pool: &PgPool) -> Result<uuid::Uuid, DbError> {
    statement::values("select id from installation")
        .one(pool)
        .await
}

/// What a rescue round found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Tasks that were opened again.
    pub retried: i32,
    /// Tasks that gave up: attempts used, or their workers died on them too often.
    pub failed: i32,
}

/// Takes tasks away from workers whose leases ran out. Run every few seconds.
///
/// # Errors
/// Database trouble only.
pub async fn rescue_tasks(pool: &PgPool, limit: i32) -> Result<Rescued, DbError> {
    let (retried, failed, ready, jobs): (i32, i32, Vec<i32>, Vec<JobId>) =
        statement::rows("select retried, failed, ready, jobs from rescue_tasks($1)")
            .bind(limit)
            .one(pool)
            .await?;
    notify::announce(pool, &ready, &jobs);
    Ok(Rescued { retried, failed })
}

/// Gives up on at most `limit` ready tasks for which no live worker has had the model for `after`, and answers how many.
/// Run every few seconds where jobs may wait for models.
///
/// # Errors
/// Database trouble only.
pub async fn fail_unserved_tasks(
    pool: &PgPool,
    after: Duration,
    limit: i32,
) -> Result<i32, DbError> {
    let (failed, ready, jobs): (i32, Vec<i32>, Vec<JobId>) =
        statement::rows("select failed, ready, jobs from fail_unserved_tasks($1, $2)")
            .bind(after.as_secs_f64())
            .bind(limit)
            .one(pool)
            .await?;
    notify::announce(pool, &ready, &jobs);
    Ok(failed)
}

/// Makes tasks ready whose backoff has passed, and answers how many. Run every second.
///
/// # Errors
/// Database trouble only.
pub async fn promote_scheduled(pool: &PgPool, limit: i32) -> Result<i32, DbError> {
    let (promoted, ready): (i32, Vec<i32>) =
        statement::rows("select promoted, ready from promote_scheduled($1)")
            .bind(limit)
            .one(pool)
            .await?;
    notify::announce(pool, &ready, &[]);
    Ok(promoted)
}

/// Raises the fairness clock to the newest claimed task, so that a tenant that comes back starts level with the
/// others. Run every second.
///
/// # Errors
/// Database trouble only.
pub async fn advance_fair_clock(pool: &PgPool) -> Result<(), DbError> {
    statement::run(statement::plain("select advance_fair_clock()"), pool).await
}

/// Purges jobs past their retention: transcripts and payloads are deleted, the row stays. Answers the jobs whose
/// objects (`ArtifactKey::job_prefix`) must go, those of an earlier round that were not confirmed included. Within `grace`
/// of its time a job is left alone.
///
/// # Errors
/// Database trouble only.
pub async fn purge_expired_jobs(
    pool: &PgPool,
    limit: i32,
    grace: Duration,
) -> Result<Vec<JobId>, DbError> {
    statement::values("select purge_expired_jobs($1, $2)")
        .bind(limit)
        .bind(grace.as_secs_f64())
        .all(pool)
        .await
}

/// Notes that the objects of a purged job are deleted, `n_objects` of them, and audits it as `job.purged`.
///
/// # Errors
/// Database trouble only.
pub async fn confirm_purged(pool: &PgPool, job: JobId, n_objects: u64) -> Result<(), DbError> {
    let confirm = statement::plain("select confirm_purged($1, $2)")
        .bind(job)
        .bind(i64::try_from(n_objects).unwrap_or(i64::MAX));
    statement::run(confirm, pool).await
}

/// Forgets workers that have been silent for longer than `after`, and answers how many. Their tasks are
/// [`rescue_tasks`]' business.
///
/// # Errors
/// Database trouble only.
pub async fn forget_workers(pool: &PgPool, after: Duration) -> Result<i32, DbError> {
    statement::values("select forget_workers($1)")
        .bind(after.as_secs_f64())
        .one(pool)
        .await
}

/// Deletes at most `limit` rows each of what has grown old: events of finished jobs, messages of `job_events` that
/// nobody archived, and rate-limit counters. Answers how many rows went.
///
/// # Errors
/// Database trouble only.
pub async fn trim(pool: &PgPool, keep: Duration, limit: i32) -> Result<i64, DbError> {
    statement::values("select trim_logs($1, $2)")
        .bind(keep.as_secs_f64())
        .bind(limit)
        .one(pool)
        .await
}
