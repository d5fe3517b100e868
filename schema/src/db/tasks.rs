//! The verbs of a task: claim, extend, complete, fail, give back; and what a running task reads.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use sqlx::types::Json;

use super::jobs::{Retried, Scope};
use super::statement::{self, Statement};
use super::{DbError, PgPool, notify};
use crate::ids::{JobId, TaskId, WorkerId};
use crate::job::Job;
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
    /// What the task answers to its dependants, as JSON.
    pub response: Box<RawValue>,
    /// Tasks to add; those that needed this task and are named in `before` wait for them too.
    pub fan_out: Vec<NewTask>,
    /// Existing tasks of the job that must wait for all tasks of `fan_out`.
    pub before: Vec<TaskId>,
    /// The transcript, from `merge`.
    pub transcript: Option<(Transcript, TranscriptStats)>,
}

impl Completion {
    /// The completion of a task that only answers.
    ///
    /// # Errors
    /// When the answer cannot be written as JSON.
    pub fn answering(response: &impl Serialize) -> Result<Self, DbError> {
        Ok(Self {
            response: to_raw_value(response)?,
            fan_out: Vec::new(),
            before: Vec::new(),
            transcript: None,
        })
    }
}

/// What was given to and answered by one task, as JSON.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct TaskPayload {
    /// What the planner put in.
    pub request: Value,
    /// What the task answered; `None` until it completed.
    pub response: Option<Value>,
}

/// Claims at most `limit` ready tasks, each under a lease of `lease_seconds`. Tasks of loaded models go first within
/// their priority, unless another has waited for half a minute; of one job those that come first in `wanted`.
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
    // A claim need not have reached the disk: one that a crash of the server undoes leaves its tasks ready. What its
    // worker completes reaches the disk with the claim before it.
    statement::rows(
        "with unhurried as materialized (select set_config('synchronous_commit', 'off', true))
         select claimed.* from unhurried, claim_tasks($1, $2, $3, $4, $5) claimed",
    )
    .bind(worker)
    .bind(ids)
    .bind(loaded)
    .bind(limit)
    .bind(lease_seconds)
    .all(pool)
    .await
}

/// What a claimed task begins with.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct BegunTask {
    /// Its job.
    #[sqlx(flatten)]
    pub job: Job,
    /// Seconds it could be claimed before it was; `None` when its lease is lost.
    pub waited_seconds: Option<f64>,
}

/// Reads what a claimed task begins with; `None` when its job was deleted.
///
/// # Errors
/// Database trouble only.
pub async fn begin(pool: &PgPool, job: JobId, lease: Lease) -> Result<Option<BegunTask>, DbError> {
    statement::rows(
        "select j.*, (select extract(epoch from r.started_at - r.ready_at)::double precision
                        from running_tasks r where r.lease = $2) as waited_seconds
           from job_details j where j.id = $1",
    )
    .bind(job)
    .bind(lease.token)
    .optional(pool)
    .await
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
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let (ids, tokens): (Vec<TaskId>, Vec<i64>) = leases
        .iter()
        .map(|(lease, _)| (lease.task_id, lease.token))
        .unzip();
    let (done, total): (Vec<f64>, Vec<f64>) = leases
        .iter()
        .map(|(_, progress)| (progress.done_seconds, progress.total_seconds))
        .unzip();
    let states: Vec<String> = statement::values("select extend_leases($1, $2, $3, $4, $5, $6)")
        .bind(worker)
        .bind(ids)
        .bind(tokens)
        .bind(done)
        .bind(total)
        .bind(lease_seconds)
        .one(pool)
        .await?;
    Ok(states.iter().map(|state| lease_state(state)).collect())
}

/// Asks which of these leases belong to jobs being cancelled, or are lost, in the order asked; reads only.
///
/// # Errors
/// Database trouble only.
pub async fn check(pool: &PgPool, leases: &[Lease]) -> Result<Vec<LeaseState>, DbError> {
    if leases.is_empty() {
        return Ok(Vec::new());
    }
    let (ids, tokens): (Vec<TaskId>, Vec<i64>) = leases
        .iter()
        .map(|lease| (lease.task_id, lease.token))
        .unzip();
    let states: Vec<String> = statement::values("select check_leases($1, $2)")
        .bind(ids)
        .bind(tokens)
        .one(pool)
        .await?;
    Ok(states.iter().map(|state| lease_state(state)).collect())
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
    let row = statement::rows("select done, ready, jobs from complete_task($1, $2, $3)")
        .bind(lease.task_id)
        .bind(lease.token)
        .bind(Json(completion))
        .one(pool)
        .await?;
    Ok(told(pool, row))
}

/// Completes many tasks that neither fan out nor carry a transcript, in one transaction; answers in the order asked.
///
/// # Errors
/// Database trouble only; a lost lease is [`Outcome::LeaseLost`] for that task alone.
pub async fn complete_many(
    pool: &PgPool,
    finished: &[(Lease, Value)],
) -> Result<Vec<Outcome>, DbError> {
    if finished.is_empty() {
        return Ok(Vec::new());
    }
    let (ids, tokens): (Vec<TaskId>, Vec<i64>) = finished
        .iter()
        .map(|(lease, _)| (lease.task_id, lease.token))
        .unzip();
    let responses: Vec<&Value> = finished.iter().map(|(_, response)| response).collect();
    let (done, ready, jobs): (Vec<bool>, Vec<i32>, Vec<JobId>) =
        statement::rows("select done, ready, jobs from complete_tasks($1, $2, $3)")
            .bind(ids)
            .bind(tokens)
            .bind(responses)
            .one(pool)
            .await?;
    notify::announce(pool, &ready, &jobs);
    Ok(done.into_iter().map(outcome).collect())
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
    let row = statement::rows("select done, ready, jobs from fail_task($1, $2, $3, $4)")
        .bind(lease.task_id)
        .bind(lease.token)
        .bind(error)
        .bind(retryable)
        .one(pool)
        .await?;
    Ok(told(pool, row))
}

/// Gives a task back unfinished: it becomes ready at once and the attempt does not count; when its job is being
/// cancelled it becomes cancelled instead.
///
/// # Errors
/// Database trouble only.
pub async fn give_back(pool: &PgPool, lease: Lease) -> Result<Outcome, DbError> {
    let row = statement::rows("select done, ready, jobs from give_back_task($1, $2)")
        .bind(lease.task_id)
        .bind(lease.token)
        .one(pool)
        .await?;
    Ok(told(pool, row))
}

/// Runs one failed or skipped task of a finished job again, and everything that depends on it; the rest is kept.
/// `max_unfinished` is as in [`super::jobs::submit`].
///
/// # Errors
/// [`DbError::JobLimit`], or database trouble.
pub async fn retry(
    pool: &PgPool,
    scope: Scope,
    job: JobId,
    task: TaskId,
    max_unfinished: Option<i32>,
) -> Result<Retried, DbError> {
    let known: bool = statement::values(
        "select exists (select from tasks t join jobs j on j.id = t.job_id
          where t.id = $1 and j.id = $2 and j.tenant_id = $3 and ($4::uuid is null or j.created_by_key_id = $4))",
    )
    .bind(task)
    .bind(job)
    .bind(scope.tenant_id)
    .bind(scope.key_id)
    .one(pool)
    .await?;
    if !known {
        return Ok(Retried::NotFound);
    }
    let row = statement::rows("select outcome, status, ready from retry_task($1, $2)")
        .bind(task)
        .bind(max_unfinished)
        .one(pool)
        .await?;
    super::jobs::retried(pool, job, max_unfinished, row)
}

/// The tasks of a job that have ended with a result, for their dependants to read: those of these names, or all. What
/// they answered can be long, so ask for what is needed.
///
/// # Errors
/// Database trouble only.
pub async fn finished(
    pool: &PgPool,
    job: JobId,
    names: Option<&[&str]>,
) -> Result<Vec<FinishedTask>, DbError> {
    statement::rows(
        "select id, stage, name, status, error, response from task_details
          where job_id = $1 and status in ('completed', 'skipped') and ($2::text[] is null or name = any($2))
          order by name",
    )
    .bind(job)
    .bind(names.map(<[&str]>::to_vec))
    .all(pool)
    .await
}

/// Every task of a job in topological order, ties by name.
///
/// # Errors
/// Database trouble only.
pub async fn list(pool: &PgPool, job: JobId) -> Result<Vec<Task>, DbError> {
    // Not what they were given and answered, which can be megabytes.
    let mut tasks: Vec<Task> = statement::rows(
        "select id, job_id, stage, name, engine, model, status, required, dependencies, retries, max_attempts,
                ready_at, started_at, completed_at, error, chosen_because
           from task_details where job_id = $1",
    )
    .bind(job)
    .all(pool)
    .await?;
    let levels = levels(&tasks);
    tasks.sort_by(|a, b| (levels[&a.id], &a.name).cmp(&(levels[&b.id], &b.name)));
    Ok(tasks)
}

/// The longest path of dependencies that leads to each task.
fn levels(tasks: &[Task]) -> HashMap<TaskId, usize> {
    let mut levels: HashMap<TaskId, usize> = tasks.iter().map(|task| (task.id, 0)).collect();
    // Each round settles at least one more level; a graph of n tasks has at most n.
    for _ in 0..tasks.len() {
        let mut settled = true;
        for task in tasks {
            let above = task.dependencies.iter().filter_map(|need| levels.get(need));
            let level = above.max().map_or(0, |level| level + 1);
            settled &= levels.insert(task.id, level) == Some(level);
        }
        if settled {
            break;
        }
    }
    levels
}

/// What a task of this job was given and answered; `None` when the job has no such task or was purged.
///
/// # Errors
/// Database trouble only.
pub async fn payload(
    pool: &PgPool,
    job: JobId,
    task: TaskId,
) -> Result<Option<TaskPayload>, DbError> {
    statement::rows(
        "select request, response from task_details where id = $2 and job_id = $1 and request is not null",
    )
    .bind(job)
    .bind(task)
    .optional(pool)
    .await
}

/// What those of these tasks of a job answered that have, by task.
///
/// # Errors
/// Database trouble only.
pub async fn responses(
    pool: &PgPool,
    job: JobId,
    tasks: Vec<TaskId>,
) -> Result<Vec<(TaskId, Value)>, DbError> {
    statement::rows(
        "select id, response from task_details where job_id = $1 and id = any($2) and response is not null",
    )
    .bind(job)
    .bind(tasks)
    .all(pool)
    .await
}

fn told(pool: &PgPool, (done, ready, jobs): (bool, Vec<i32>, Vec<JobId>)) -> Outcome {
    notify::announce(pool, &ready, &jobs);
    outcome(done)
}

const fn outcome(done: bool) -> Outcome {
    if done {
        Outcome::Done
    } else {
        Outcome::LeaseLost
    }
}

fn lease_state(name: &str) -> LeaseState {
    match name {
        "held" => LeaseState::Held,
        "cancelled" => LeaseState::Cancelled,
        _ => LeaseState::Lost,
    }
}
