//! The log of what happened to each job: the source of progress streams, which can be replayed from any id.
//!
//! Ids grow in the order of insertion, not of commit; [`after`] sees to it that a reader misses none.

use std::time::{Duration, Instant};

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

/// How long [`after`] waits for what is being written.
const LONGEST_WRITE: Duration = Duration::from_secs(2);

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
        // The transaction has its number before the event has its id, which `after` relies on.
        "with begun as materialized (select pg_current_xact_id() as number)
         insert into job_log (job_id, at, type, body)
         select $1, dalston_now(), $2, $3 from begun where number is not null returning id",
    )
    .bind(job)
    .bind(event_type)
    .bind(body)
    .one(pool)
    .await
}

/// The events of one job after an id (0 for all), oldest first.
///
/// A transaction takes its ids before it commits, so an event may be seen before one with a smaller id. Events are
/// therefore answered once every transaction that ran when they were first seen has ended: who goes on after the last of
/// them misses none. A transaction that runs on and on is waited for [`LONGEST_WRITE`].
///
/// # Errors
/// Database trouble only.
pub async fn after(
    pool: &PgPool,
    job: JobId,
    id: i64,
    limit: i64,
) -> Result<Vec<JobEvent>, DbError> {
    let deadline = Instant::now() + LONGEST_WRITE;
    let mut pause = Duration::from_millis(1);
    let mut first_seen = None;
    loop {
        let page = page(pool, job, id, limit).await?;
        let Some(last) = page.last() else {
            return Ok(Vec::new());
        };
        let (newest, reader) = *first_seen.get_or_insert((last.event.id, last.reader));
        // At once, where nobody else was writing: the reader's number was the next.
        if last.oldest_running >= reader || Instant::now() >= deadline {
            let events = page.into_iter().map(|seen| seen.event);
            return Ok(events.filter(|event| event.id <= newest).collect());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(100));
    }
}

/// An event, and when it was seen: by the transaction with the number `reader`, while `oldest_running` was the oldest
/// that ran.
#[derive(sqlx::FromRow)]
struct Seen {
    #[sqlx(flatten)]
    event: JobEvent,
    reader: i64,
    oldest_running: i64,
}

async fn page(pool: &PgPool, job: JobId, id: i64, limit: i64) -> Result<Vec<Seen>, DbError> {
    statement::rows(
        "select id, job_id, at, type, body, pg_current_xact_id()::text::bigint as reader,
                pg_snapshot_xmin(pg_current_snapshot())::text::bigint as oldest_running
           from job_history
          where job_id = $1 and id > $2 and log_id > $2 - 65536 order by id limit $3",
    )
    .bind(job)
    .bind(id)
    .bind(limit)
    .all(pool)
    .await
}

/// For each of these jobs an id that no event of its log is after and every later one is; jobs without any entry are left
/// out. One query for everything a process waits for.
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
