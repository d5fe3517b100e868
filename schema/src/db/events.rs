//! The log of what happened to each job: the source of progress streams, which can be replayed from any id.
//!
//! Ids grow in the order of insertion, not of commit. Everything that changes a job's state is inserted under a lock
//! on the job, so a reader that has seen an id misses no state change before it; of two progress notes written at the
//! same moment the earlier may be missed by a reader that is already past it.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::statement::{self, Statement};
use super::{DbError, PgPool};
use crate::ids::{JobId, TaskId};

/// One thing that happened to a job.
///
/// Types: `job.pending`, `job.running`, `job.completed`, `job.failed`, `job.cancelling`, `job.cancelled` with
/// `{"status", "error"?}`; `task.completed`, `task.failed`, `task.retrying`, `task.skipped` with `{"task_id", "stage",
/// "name", "error"?}`; `progress` with `{"task_id", "stage", "name", "done_seconds", "total_seconds", "progress",
/// "eta_seconds"}`; `job.renamed`; [`SEGMENTS`] with [`SaidSegments`]; and what else [`append`] adds.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct JobEvent {
    /// Grows; what a client sends back as `Last-Event-ID`.
    pub id: i64,
    /// The job.
    pub job_id: JobId,
    /// When.
    pub at: DateTime<Utc>,
    /// What kind.
    #[sqlx(rename = "type")]
    pub event_type: String,
    /// More, as a JSON object.
    pub body: Value,
}

/// Type of the events that carry text while it is being made.
pub const SEGMENTS: &str = "transcript.segments";

/// Segments of a transcription that is still running: certain, in order of time, each told once an attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SaidSegments {
    /// The task.
    pub task_id: TaskId,
    /// Its name.
    pub name: String,
    /// Number of its attempt, from 1.
    pub attempt: i32,
    /// Channel or track, when the job has several.
    pub channel: Option<u16>,
    /// Position of its part of the file, when that was cut.
    pub chunk: Option<u32>,
    /// How many segments of the attempt were told before.
    pub first: usize,
    /// The segments.
    pub segments: Vec<SaidSegment>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SaidSegment {
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// The text with the space before it, if it has one: texts are put together as they are.
    pub text: String,
}

/// Adds an event of the application's own and answers its id.
///
/// # Errors
/// Database trouble only.
pub async fn append(
    pool: &PgPool,
    job: JobId,
    event_type: &str,
    body: &Value,
) -> Result<i64, DbError> {
    statement::values(
        "insert into job_log (job_id, at, type, body) values ($1, dalston_now(), $2, $3) returning id",
    )
    .bind(job)
    .bind(event_type)
    .bind(body)
    .one(pool)
    .await
}

/// The events of one job after an id (0 for all), oldest first.
///
/// # Errors
/// Database trouble only.
pub async fn after(
    pool: &PgPool,
    job: JobId,
    id: i64,
    limit: i64,
) -> Result<Vec<JobEvent>, DbError> {
    statement::rows(
        "select id, job_id, at, type, body from job_history
          where job_id = $1 and id > $2 and log_id > $2 - 65536 order by id limit $3",
    )
    .bind(job)
    .bind(id)
    .bind(limit)
    .all(pool)
    .await
}

/// The events of many jobs after an id, oldest first: one query for all the streams of a process.
///
/// # Errors
/// Database trouble only.
pub async fn after_many(
    pool: &PgPool,
    jobs: &[JobId],
    id: i64,
    limit: i64,
) -> Result<Vec<JobEvent>, DbError> {
    statement::rows(
        "select id, job_id, at, type, body from job_history
          where job_id = any($1) and id > $2 and log_id > $2 - 65536 order by id limit $3",
    )
    .bind(jobs)
    .bind(id)
    .bind(limit)
    .all(pool)
    .await
}

/// An id that no event of the log is after and every later one is; 0 when the log is empty.
///
/// # Errors
/// Database trouble only.
pub async fn newest(pool: &PgPool) -> Result<i64, DbError> {
    statement::values("select coalesce(max(id) + 65535, 0) from job_log")
        .one(pool)
        .await
}

/// As [`newest`] for each of these jobs; jobs without any entry are left out. One query for everything a
/// process waits for.
///
/// # Errors
/// Database trouble only.
pub async fn newest_many(pool: &PgPool, jobs: &[JobId]) -> Result<Vec<(JobId, i64)>, DbError> {
    statement::rows(
        "select job_id, max(id) + 65535 from job_log where job_id = any($1) group by job_id",
    )
    .bind(jobs)
    .all(pool)
    .await
}
