//! Pages of jobs, newest first: what `GET /v1/audio/transcriptions` answers, and how its query is read.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};
use dalston_schema::db::jobs::{self, JobFilter};
use dalston_schema::{Job, JobId, JobStatus};
use poem_openapi::Object;
use uuid::Uuid;

use super::job_object::{StatusName, milliseconds};
use crate::auth::{Caller, Permission};
use crate::error::ApiError;
use crate::state::App;
use crate::timestamp::Timestamp;

/// A job in a list.
#[derive(Debug, Object)]
pub struct JobSummary {
    /// The job.
    id: Uuid,
    /// Its state.
    status: StatusName,
    /// Its name.
    display_name: String,
    /// When it was submitted.
    created_at: Timestamp,
    /// When work began.
    started_at: Option<Timestamp>,
    /// When it reached a final state.
    completed_at: Option<Timestamp>,
    /// Share of the work done, 0–100.
    progress: Option<i32>,
    /// Length of the audio in seconds.
    audio_duration_seconds: Option<f64>,
    /// Language of the transcript.
    result_language_code: Option<String>,
    /// Words of the transcript.
    result_word_count: Option<i32>,
    /// Segments of the transcript.
    result_segment_count: Option<i32>,
    /// Speakers of the transcript; null for none.
    result_speaker_count: Option<i32>,
    /// Milliseconds between submit and begin.
    wait_ms: Option<i64>,
    /// Milliseconds between begin and end.
    processing_ms: Option<i64>,
}

/// A page of jobs.
#[derive(Debug, Object)]
pub struct JobList {
    /// The jobs.
    jobs: Vec<JobSummary>,
    /// Where the next page begins; null on the last.
    cursor: Option<String>,
    /// Whether there is a next page.
    has_more: bool,
}

/// A page of the caller's jobs, from the texts of a query.
///
/// # Errors
/// 422 and 400 for texts that cannot be read, 403 without the permission.
pub async fn page(
    app: &App,
    caller: &Caller,
    limit: i64,
    cursor: Option<&str>,
    status: Option<&str>,
    since: Option<&str>,
) -> Result<JobList, ApiError> {
    caller.require(Permission::JobReadOwn)?;
    let filter = JobFilter {
        status: given(status).map(read_status).transpose()?,
        since: given(since).map(read_since).transpose()?,
        after: given(cursor).map(read_cursor).transpose()?,
        limit: limit + 1,
    };
    let mut found = jobs::list(&app.pool, caller.scope(), &filter).await?;
    let has_more = found.len() as i64 > limit;
    found.truncate(usize::try_from(limit).unwrap_or(0));
    let cursor = found.last().filter(|_| has_more).map(write_cursor);
    Ok(JobList {
        jobs: found.into_iter().map(JobSummary::from).collect(),
        cursor,
        has_more,
    })
}

fn given(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

fn read_status(name: &str) -> Result<JobStatus, ApiError> {
    name.parse().map_err(|_| {
        ApiError::invalid_query(
            "status",
            "Input should be 'pending', 'running', 'completed', 'failed', 'cancelling' or 'cancelled'",
            name,
        )
    })
}

fn read_since(text: &str) -> Result<DateTime<Utc>, ApiError> {
    read_time(text).ok_or_else(|| {
        ApiError::invalid_query(
            "since",
            "Input should be a valid datetime, for example 2026-01-31T12:00:00Z",
            text,
        )
    })
}

/// ISO 8601 with an offset, without one (UTC), or a date. A `+` that a query turned into a space is one again.
fn read_time(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim().replace(' ', "+");
    if let Ok(time) = DateTime::parse_from_rfc3339(&text) {
        return Some(time.to_utc());
    }
    if let Ok(time) = text.replace('+', "T").parse::<NaiveDateTime>() {
        return Some(time.and_utc());
    }
    let date: NaiveDate = text.parse().ok()?;
    Some(date.and_hms_opt(0, 0, 0)?.and_utc())
}

fn write_cursor(job: &Job) -> String {
    format!("{}:{}", Timestamp(job.created_at).text(), job.id)
}

fn read_cursor(text: &str) -> Result<(DateTime<Utc>, JobId), ApiError> {
    let read = || {
        let (time, id) = text.rsplit_once(':')?;
        Some((read_time(time)?, id.parse().ok()?))
    };
    read().ok_or_else(|| ApiError::bad_request("Invalid cursor format"))
}

impl From<Job> for JobSummary {
    fn from(job: Job) -> Self {
        Self {
            id: job.id.0,
            status: job.status.into(),
            display_name: job.display_name,
            created_at: job.created_at.into(),
            started_at: job.started_at.map(Into::into),
            completed_at: job.completed_at.map(Into::into),
            progress: Some((job.progress.clamp(0.0, 1.0) * 100.0).floor() as i32),
            audio_duration_seconds: Some(job.audio_duration_seconds),
            result_language_code: job.result_language_code,
            result_word_count: job.result_word_count,
            result_segment_count: job.result_segment_count,
            result_speaker_count: job.result_speaker_count.filter(|count| *count > 0),
            wait_ms: milliseconds(Some(job.created_at), job.started_at),
            processing_ms: milliseconds(job.started_at, job.completed_at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_the_forms_clients_send() {
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31T12:00:00+00:00",
            "2026-01-31T12:00:00 00:00",
            "2026-01-31T13:00:00+01:00",
            "2026-01-31T12:00:00",
            "2026-01-31 12:00:00",
        ] {
            assert_eq!(
                read_time(text).map(|time| time.timestamp()),
                Some(1_769_860_800),
                "{text}"
            );
        }
        assert_eq!(
            read_time("2026-01-31").map(|time| time.timestamp()),
            Some(1_769_817_600)
        );
        assert_eq!(read_time("yesterday"), None);
    }

    #[test]
    fn a_cursor_is_split_at_its_last_colon() {
        let id = "01890000-0000-7000-8000-000000000001";
        for time in [
            "2026-01-31T12:00:00.123456Z",
            "2026-01-31T12:00:00.123456+00:00",
            "2026-01-31T12:00:00.123456 00:00",
        ] {
            let read = read_cursor(&format!("{time}:{id}")).ok();
            assert_eq!(
                read.map(|(time, id)| (time.timestamp_micros(), id.to_string())),
                Some((1_769_860_800_123_456, id.to_owned()))
            );
        }
        for bad in [
            "",
            "x",
            "2026-01-31T12:00:00Z",
            ":",
            "2026-01-31T12:00:00Z:nope",
        ] {
            assert!(read_cursor(bad).is_err(), "{bad}");
        }
    }
}
