//! The verbs of a job: submit, cancel, retry, rename, delete; and the reads of the API.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::types::Json;

use super::statement::{self, Statement};
use super::{DbError, PgPool, notify};
use crate::ids::{ApiKeyId, JobId, TenantId};
use crate::job::{Job, JobStatus, NewJob};
use crate::transcript::Transcript;

/// What `submit` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submitted {
    /// A new job.
    Created(JobId),
    /// The job that the same `Idempotency-Key` made before.
    Existing(JobId),
}

impl Submitted {
    /// The job, whoever made it.
    #[must_use]
    pub const fn id(self) -> JobId {
        match self {
            Self::Created(id) | Self::Existing(id) => id,
        }
    }
}

/// Whose jobs a caller may see: a whole tenant (administrators) or one key's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The tenant.
    pub tenant_id: TenantId,
    /// Only jobs submitted with this key; `None` for administrators.
    pub key_id: Option<ApiKeyId>,
}

/// What `cancel` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// Cancelled at once; nothing was running.
    Now,
    /// Tasks are still running and are being stopped.
    Stopping {
        /// How many.
        running: i32,
    },
    /// Not cancellable in this state.
    Refused(JobStatus),
    /// No such job in this scope.
    NotFound,
}

/// What `delete` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// Every row of the job is gone; its objects are the caller's to delete.
    Done,
    /// Only finished jobs can be deleted.
    Refused(JobStatus),
    /// No such job in this scope.
    NotFound,
}

/// What `delete_audio` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioDeleted {
    /// The row no longer points at the audio; the objects are the caller's to delete.
    Done,
    /// Only finished jobs can lose their audio.
    Refused(JobStatus),
    /// The audio was deleted or purged before.
    Gone {
        /// When the whole job was purged, if it was.
        purged_at: Option<DateTime<Utc>>,
    },
    /// No such job in this scope.
    NotFound,
}

/// What a retry did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retried {
    /// Open again.
    Done,
    /// The job is not in a state that can be retried: unfinished, purged, or nothing of it failed.
    Refused(JobStatus),
    /// No such job or task in this scope.
    NotFound,
}

/// One page of a job list, newest first.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only jobs in this state.
    pub status: Option<JobStatus>,
    /// Only jobs created at or after this time.
    pub since: Option<DateTime<Utc>>,
    /// Continue after this job (`created_at`, id).
    pub after: Option<(DateTime<Utc>, JobId)>,
    /// Most rows; the caller asks for one more than it shows.
    pub limit: i64,
}

/// Counts for `GET /v1/jobs/stats`; days are UTC days of the database's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct JobStats {
    /// Running or being cancelled.
    pub running: i64,
    /// Pending.
    pub queued: i64,
    /// Completed since midnight.
    pub completed_today: i64,
    /// Failed since midnight.
    pub failed_today: i64,
}

/// A job whose text matched a search.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub struct SearchHit {
    /// The job.
    pub job_id: JobId,
    /// Its name.
    pub display_name: String,
    /// Part of the text around the first matches, matches between `**`.
    pub snippet: String,
}

/// Files a job in the fair order between tenants, makes it with its tasks and edges, and wakes the workers that can run
/// its first tasks.
///
/// `max_unfinished` is the most jobs of the tenant that may be unfinished at a time, this one included.
///
/// # Errors
/// [`DbError::IdempotencyMismatch`], [`DbError::JobLimit`], or database trouble.
pub async fn submit(
    pool: &PgPool,
    job: &NewJob,
    max_unfinished: Option<i32>,
) -> Result<Submitted, DbError> {
    // First, in a transaction of its own whose commit waits for no disk: the tenant's row is locked for microseconds.
    // Losing it in a crash would only file a later job where this one stood.
    let fair_key: Option<i64> = statement::values(
        "select take_fair_key($1, $2) from set_config('synchronous_commit', 'off', true)",
    )
    .bind(job.tenant_id)
    .bind(job.audio.duration)
    .one(pool)
    .await?;
    let (outcome, id, ready): (String, Option<JobId>, Vec<i32>) =
        statement::rows("select outcome, job_id, ready from submit_job($1, $2, $3)")
            .bind(Json(job))
            .bind(max_unfinished)
            .bind(fair_key)
            .one(pool)
            .await?;
    match (outcome.as_str(), id) {
        ("created", Some(id)) => {
            notify::announce(pool, &ready, &[id]);
            Ok(Submitted::Created(id))
        }
        ("existing", Some(id)) => Ok(Submitted::Existing(id)),
        ("mismatch", _) => Err(DbError::IdempotencyMismatch),
        _ => Err(DbError::JobLimit {
            limit: max_unfinished.unwrap_or_default(),
        }),
    }
}

/// Reads one job in a scope.
///
/// # Errors
/// Database trouble only.
pub async fn get(pool: &PgPool, scope: Scope, job: JobId) -> Result<Option<Job>, DbError> {
    statement::rows(
        "select * from job_details where id = $1 and tenant_id = $2 and ($3::uuid is null or created_by_key_id = $3)",
    )
    .bind(job)
    .bind(scope.tenant_id)
    .bind(scope.key_id)
    .optional(pool)
    .await
}

/// Reads one job whoever owns it: for workers and maintenance, never for a client.
///
/// # Errors
/// Database trouble only.
pub async fn get_unscoped(pool: &PgPool, job: JobId) -> Result<Option<Job>, DbError> {
    statement::rows("select * from job_details where id = $1")
        .bind(job)
        .optional(pool)
        .await
}

/// Reads the jobs of a scope, newest first.
///
/// # Errors
/// Database trouble only.
pub async fn list(pool: &PgPool, scope: Scope, filter: &JobFilter) -> Result<Vec<Job>, DbError> {
    statement::rows(
        "select * from job_details
          where tenant_id = $1 and ($2::uuid is null or created_by_key_id = $2)
            and ($3::text is null or status = $3)
            and ($4::timestamptz is null or created_at >= $4)
            and ($5::timestamptz is null or (created_at, id) < ($5, $6))
          order by created_at desc, id desc limit $7",
    )
    .bind(scope.tenant_id)
    .bind(scope.key_id)
    .bind(filter.status.map(JobStatus::as_str))
    .bind(filter.since)
    .bind(filter.after.map(|(at, _)| at))
    .bind(filter.after.map(|(_, id)| id))
    .bind(filter.limit)
    .all(pool)
    .await
}

/// The states of many jobs at once, for callers that wait for them; unknown jobs are left out.
///
/// # Errors
/// Database trouble only.
pub async fn statuses(pool: &PgPool, jobs: &[JobId]) -> Result<Vec<(JobId, JobStatus)>, DbError> {
    let rows: Vec<(JobId, String)> =
        statement::rows("select id, status from jobs where id = any($1)")
            .bind(jobs)
            .all(pool)
            .await?;
    rows.into_iter()
        .map(|(id, status)| Ok((id, parse_status(&status)?)))
        .collect()
}

/// Which of these jobs exist; what an object-store sweeper asks before it removes a folder.
///
/// # Errors
/// Database trouble only.
pub async fn existing(pool: &PgPool, jobs: &[JobId]) -> Result<HashSet<JobId>, DbError> {
    let ids: Vec<JobId> = statement::values("select id from jobs where id = any($1)")
        .bind(jobs)
        .all(pool)
        .await?;
    Ok(ids.into_iter().collect())
}

/// Gives a job another name and answers the old one; `None` when there is no such job in the scope.
///
/// # Errors
/// Database trouble only.
pub async fn rename(
    pool: &PgPool,
    scope: Scope,
    job: JobId,
    display_name: &str,
) -> Result<Option<String>, DbError> {
    if !in_scope(pool, scope, job).await? {
        return Ok(None);
    }
    statement::values("select rename_job($1, $2)")
        .bind(job)
        .bind(display_name)
        .one(pool)
        .await
}

/// Cancels a job: open tasks at once, running ones through their workers' heartbeats.
///
/// # Errors
/// Database trouble only.
pub async fn cancel(pool: &PgPool, scope: Scope, job: JobId) -> Result<Cancelled, DbError> {
    if !in_scope(pool, scope, job).await? {
        return Ok(Cancelled::NotFound);
    }
    let (outcome, status, running, ready): (String, Option<String>, i32, Vec<i32>) =
        statement::rows("select outcome, status, running, ready from cancel_job($1)")
            .bind(job)
            .one(pool)
            .await?;
    if outcome == "done" {
        notify::announce(pool, &ready, &[job]);
    }
    Ok(match (outcome.as_str(), status) {
        ("done", _) if running > 0 => Cancelled::Stopping { running },
        ("done", _) => Cancelled::Now,
        (_, Some(status)) => Cancelled::Refused(parse_status(&status)?),
        (_, None) => Cancelled::NotFound,
    })
}

/// Opens everything of a failed or cancelled job that is not completed, with fresh attempts. `max_unfinished` is as in
/// [`submit`].
///
/// # Errors
/// [`DbError::JobLimit`], or database trouble.
pub async fn retry(
    pool: &PgPool,
    scope: Scope,
    job: JobId,
    max_unfinished: Option<i32>,
) -> Result<Retried, DbError> {
    if !in_scope(pool, scope, job).await? {
        return Ok(Retried::NotFound);
    }
    let row: (String, Option<String>, Vec<i32>) =
        statement::rows("select outcome, status, ready from retry_job($1, $2)")
            .bind(job)
            .bind(max_unfinished)
            .one(pool)
            .await?;
    retried(pool, job, max_unfinished, row)
}

/// Reads the answer of `retry_job` and `retry_task`.
pub(super) fn retried(
    pool: &PgPool,
    job: JobId,
    max_unfinished: Option<i32>,
    (outcome, status, ready): (String, Option<String>, Vec<i32>),
) -> Result<Retried, DbError> {
    if outcome == "limit" {
        let limit = max_unfinished.unwrap_or_default();
        return Err(DbError::JobLimit { limit });
    }
    Ok(match (outcome.as_str(), status) {
        ("done", _) => {
            notify::announce(pool, &ready, &[job]);
            Retried::Done
        }
        (_, Some(status)) => Retried::Refused(parse_status(&status)?),
        (_, None) => Retried::NotFound,
    })
}

/// Deletes every row of a finished job. Its objects (`ArtifactKey::job_prefix`) are deleted by the caller afterwards.
///
/// # Errors
/// Database trouble only.
pub async fn delete(pool: &PgPool, scope: Scope, job: JobId) -> Result<Deleted, DbError> {
    if !in_scope(pool, scope, job).await? {
        return Ok(Deleted::NotFound);
    }
    let (outcome, status): (String, Option<String>) =
        statement::rows("select outcome, status from delete_job($1)")
            .bind(job)
            .one(pool)
            .await?;
    Ok(match (outcome.as_str(), status) {
        ("done", _) => Deleted::Done,
        (_, Some(status)) => Deleted::Refused(parse_status(&status)?),
        (_, None) => Deleted::NotFound,
    })
}

/// Forgets the audio of a finished job; the transcript stays. The objects (`ArtifactKey::job_audio_prefix`) are
/// deleted by the caller afterwards.
///
/// # Errors
/// Database trouble only.
pub async fn delete_audio(
    pool: &PgPool,
    scope: Scope,
    job: JobId,
) -> Result<AudioDeleted, DbError> {
    if !in_scope(pool, scope, job).await? {
        return Ok(AudioDeleted::NotFound);
    }
    let (outcome, status, purged_at): (String, Option<String>, Option<DateTime<Utc>>) =
        statement::rows("select outcome, status, purged_at from delete_job_audio($1)")
            .bind(job)
            .one(pool)
            .await?;
    Ok(match (outcome.as_str(), status) {
        ("done", _) => AudioDeleted::Done,
        ("gone", _) => AudioDeleted::Gone { purged_at },
        (_, Some(status)) => AudioDeleted::Refused(parse_status(&status)?),
        (_, None) => AudioDeleted::NotFound,
    })
}

/// Counts jobs of a scope.
///
/// # Errors
/// Database trouble only.
pub async fn stats(pool: &PgPool, scope: Scope) -> Result<JobStats, DbError> {
    statement::rows("select * from job_stats($1, $2)")
        .bind(scope.tenant_id)
        .bind(scope.key_id)
        .one(pool)
        .await
}

/// The transcript of a job; `None` before it is completed and after it is purged. Check the scope with [`get`] first.
///
/// # Errors
/// Database trouble, or a stored transcript of a layout this version does not know.
pub async fn transcript(pool: &PgPool, job: JobId) -> Result<Option<Transcript>, DbError> {
    let body: Option<Json<Transcript>> =
        statement::values("select body from transcripts where job_id = $1")
            .bind(job)
            .optional(pool)
            .await?;
    Ok(body.map(|Json(transcript)| transcript))
}

/// Finds jobs by words of their transcripts, in the syntax of web search engines, best first.
///
/// # Errors
/// Database trouble only.
pub async fn search(
    pool: &PgPool,
    scope: Scope,
    query: &str,
    limit: i64,
) -> Result<Vec<SearchHit>, DbError> {
    statement::rows("select job_id, display_name, snippet from search_transcripts($1, $2, $3, $4)")
        .bind(scope.tenant_id)
        .bind(scope.key_id)
        .bind(query)
        .bind(limit)
        .all(pool)
        .await
}

async fn in_scope(pool: &PgPool, scope: Scope, job: JobId) -> Result<bool, DbError> {
    statement::values(
        "select exists (select from jobs
          where id = $1 and tenant_id = $2 and ($3::uuid is null or created_by_key_id = $3))",
    )
    .bind(job)
    .bind(scope.tenant_id)
    .bind(scope.key_id)
    .one(pool)
    .await
}

fn parse_status(name: &str) -> Result<JobStatus, DbError> {
    name.parse().map_err(|error: crate::task::UnknownName| {
        DbError::Sqlx(sqlx::Error::Decode(Box::new(error)))
    })
}
