//! A job as the API shows it, with its stages, its retention and, once completed, its transcript.

use chrono::{DateTime, Utc};
use dalston_schema::db::jobs::Submitted;
use dalston_schema::task::Task;
use dalston_schema::{Job, JobStatus, Transcript};
use poem_openapi::types::Any;
use poem_openapi::{Enum, Object};
use serde_json::Value;
use uuid::Uuid;

use super::transcript_object::{LanguageObject, SegmentObject, SpeakerObject, WordObject};
use crate::timestamp::Timestamp;

/// State of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename = "JobStatus", rename_all = "snake_case")]
pub enum StatusName {
    /// Waits for a worker.
    Pending,
    /// Being worked on.
    Running,
    /// Done, with a transcript.
    Completed,
    /// Gave up; `error` says why.
    Failed,
    /// Being cancelled.
    Cancelling,
    /// Cancelled.
    Cancelled,
}

impl From<JobStatus> for StatusName {
    fn from(status: JobStatus) -> Self {
        match status {
            JobStatus::Pending => Self::Pending,
            JobStatus::Running => Self::Running,
            JobStatus::Completed => Self::Completed,
            JobStatus::Failed => Self::Failed,
            JobStatus::Cancelling => Self::Cancelling,
            JobStatus::Cancelled => Self::Cancelled,
        }
    }
}

/// A new job.
#[derive(Debug, Object)]
pub struct JobCreated {
    /// The job.
    pub id: Uuid,
    /// Its state.
    pub status: StatusName,
    /// Its name.
    pub display_name: String,
    /// When it was submitted.
    pub created_at: Timestamp,
}

impl JobCreated {
    /// The answer to a submit. A job that it made is pending, although a worker may have taken it since; one that an
    /// earlier submit made stands as it stands.
    #[must_use]
    pub fn of(job: &Job, submitted: Submitted) -> Self {
        Self {
            id: job.id.0,
            status: match submitted {
                Submitted::Created(_) => StatusName::Pending,
                Submitted::Existing(_) => job.status.into(),
            },
            display_name: job.display_name.clone(),
            created_at: job.created_at.into(),
        }
    }
}

/// How long a job is kept.
#[derive(Debug, Object)]
pub struct Retention {
    /// `auto_delete`, `keep` or `none`.
    mode: String,
    /// Hours after its end, for `auto_delete`.
    hours: Option<i32>,
    /// When it will be purged.
    purge_after: Option<Timestamp>,
    /// When it was purged.
    purged_at: Option<Timestamp>,
}

/// One step of a job.
#[derive(Debug, Object)]
#[oai(rename = "Stage")]
pub struct StageObject {
    /// Name of the step.
    stage: String,
    /// Its task.
    task_id: Uuid,
    /// Engine that runs it.
    engine_id: String,
    /// Model that runs it.
    model_id: Option<String>,
    /// Why this engine and model were chosen.
    chosen_because: Option<String>,
    /// State of the task.
    status: String,
    /// False when its failure only leaves a warning.
    required: bool,
    /// When it could begin.
    ready_at: Option<Timestamp>,
    /// When it began.
    started_at: Option<Timestamp>,
    /// When it ended.
    completed_at: Option<Timestamp>,
    /// Milliseconds between ready and begin.
    wait_ms: Option<i64>,
    /// Milliseconds between begin and end.
    duration_ms: Option<i64>,
    /// Failed attempts; null for none.
    retries: Option<i32>,
    /// Why it failed.
    error: Option<String>,
}

/// A job.
#[derive(Debug, Object)]
#[oai(rename = "Job")]
pub struct JobObject {
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
    /// The model asked for; null for auto.
    model: Option<String>,
    /// Why it failed.
    error: Option<String>,
    /// Share of the work done, 0–100.
    progress: Option<i32>,
    /// Step being worked on.
    current_stage: Option<String>,
    /// Seconds until it is expected to be done; null until a part is done.
    eta_seconds: Option<f64>,
    /// Its steps, in order.
    stages: Option<Vec<StageObject>>,
    /// Milliseconds in which some step was ready and none had begun it.
    total_wait_ms: Option<i64>,
    /// Language of the transcript (ISO 639-1).
    language_code: Option<String>,
    /// Languages heard.
    languages: Option<Vec<LanguageObject>>,
    /// The text.
    text: Option<String>,
    /// Always null: words are in segments.
    words: Option<Vec<WordObject>>,
    /// The text with times.
    segments: Option<Vec<SegmentObject>>,
    /// Who speaks.
    speakers: Option<Vec<SpeakerObject>>,
    /// What went less well than asked for.
    warnings: Option<Vec<String>>,
    /// How long it is kept.
    retention: Option<Retention>,
    /// Personal information found.
    pii: Option<Any<Value>>,
    /// The text with personal information replaced.
    redacted_text: Option<String>,
    /// Personal information, piece by piece.
    entities: Option<Vec<Any<Value>>>,
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
    /// Characters of the transcript.
    result_character_count: Option<i32>,
}

impl JobObject {
    /// The job by itself: no steps, no retention, no transcript.
    #[must_use]
    pub fn bare(job: Job) -> Self {
        Self {
            id: job.id.0,
            status: job.status.into(),
            created_at: job.created_at.into(),
            started_at: job.started_at.map(Into::into),
            completed_at: job.completed_at.map(Into::into),
            model: Some(job.parameters.0.model).filter(|model| !model.eq_ignore_ascii_case("auto")),
            display_name: job.display_name,
            error: job.error,
            progress: Some((job.progress.clamp(0.0, 1.0) * 100.0).floor() as i32),
            current_stage: job.current_stage,
            eta_seconds: job
                .eta_seconds
                .map(|seconds| (seconds * 10.0).round() / 10.0),
            stages: None,
            total_wait_ms: None,
            language_code: None,
            languages: None,
            text: None,
            words: None,
            segments: None,
            speakers: None,
            warnings: None,
            retention: None,
            pii: None,
            redacted_text: None,
            entities: None,
            audio_duration_seconds: Some(job.audio_duration_seconds),
            result_language_code: job.result_language_code,
            result_word_count: job.result_word_count,
            result_segment_count: job.result_segment_count,
            result_speaker_count: job.result_speaker_count.filter(|count| *count > 0),
            result_character_count: job.result_character_count,
        }
    }

    /// The whole job.
    #[must_use]
    pub fn full(job: Job, tasks: Vec<Task>, transcript: Option<Transcript>) -> Self {
        let retention = retention(&job);
        let total_wait_ms = (!tasks.is_empty()).then(|| total_wait_ms(&tasks));
        let mut object = Self::bare(job);
        object.retention = Some(retention);
        object.total_wait_ms = total_wait_ms;
        if !tasks.is_empty() {
            object.stages = Some(tasks.into_iter().map(StageObject::from).collect());
        }
        if let Some(transcript) = transcript {
            object.language_code = Some(transcript.metadata.language);
            object.languages = transcript
                .metadata
                .languages
                .map(|languages| languages.into_iter().map(Into::into).collect());
            object.text = Some(transcript.text);
            object.segments = Some(transcript.segments.into_iter().map(Into::into).collect());
            object.speakers = Some(transcript.speakers.into_iter().map(Into::into).collect());
            object.warnings = Some(transcript.metadata.pipeline_warnings);
            object.redacted_text = transcript.redacted_text;
        }
        object
    }
}

impl From<Task> for StageObject {
    fn from(task: Task) -> Self {
        Self {
            stage: task.name.clone(),
            task_id: task.id.0,
            engine_id: engine_id(&task),
            model_id: Some(task.model.clone()).filter(|model| !model.is_empty()),
            status: task.status.as_str().to_owned(),
            required: task.required,
            ready_at: task.ready_at.map(Into::into),
            started_at: task.started_at.map(Into::into),
            completed_at: task.completed_at.map(Into::into),
            wait_ms: milliseconds(task.ready_at, task.started_at),
            duration_ms: milliseconds(task.started_at, task.completed_at),
            retries: Some(task.retries).filter(|retries| *retries > 0),
            error: task.error,
            chosen_because: task.chosen_because,
        }
    }
}

/// The engine of a task; a stage without a model is its own engine.
pub(super) fn engine_id(task: &Task) -> String {
    if task.engine.is_empty() {
        task.stage.as_str().to_owned()
    } else {
        task.engine.clone()
    }
}

fn retention(job: &Job) -> Retention {
    let (mode, hours) = match job.retention_days {
        0 => ("none", None),
        -1 => ("keep", None),
        days => ("auto_delete", Some(days * 24)),
    };
    Retention {
        mode: mode.to_owned(),
        hours,
        purge_after: job.purge_after.map(Into::into),
        purged_at: job.purged_at.map(Into::into),
    }
}

/// Milliseconds between two times, never negative; null until both are there.
pub(super) fn milliseconds(from: Option<DateTime<Utc>>, to: Option<DateTime<Utc>>) -> Option<i64> {
    Some((to? - from?).num_milliseconds().max(0))
}

/// The union of the times between ready and begin, so that steps that wait side by side count once.
fn total_wait_ms(tasks: &[Task]) -> i64 {
    let mut waits: Vec<_> = tasks
        .iter()
        .filter_map(|task| Some((task.ready_at?, task.started_at?)))
        .collect();
    waits.sort();
    let mut total = 0;
    let mut covered: Option<DateTime<Utc>> = None;
    for (ready, started) in waits {
        let from = covered.map_or(ready, |covered| covered.max(ready));
        if started > from {
            total += (started - from).num_milliseconds();
            covered = Some(started);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use chrono::TimeZone;
    use dalston_schema::{JobId, Stage, TaskId, TaskStatus};

    fn task(ready: i64, started: i64) -> Task {
        let at = |seconds| Utc.timestamp_opt(seconds, 0).single();
        Task {
            id: TaskId::generate(),
            job_id: JobId::generate(),
            stage: Stage::Prepare,
            name: "prepare".to_owned(),
            engine: String::new(),
            model: String::new(),
            status: TaskStatus::Running,
            required: true,
            dependencies: Vec::new(),
            retries: 0,
            max_attempts: 3,
            ready_at: at(ready),
            started_at: at(started),
            completed_at: None,
            error: None,
            chosen_because: None,
        }
    }

    #[test]
    fn waits_side_by_side_count_once() {
        for (tasks, expected) in [
            (vec![task(0, 2), task(5, 6)], 3000),
            (vec![task(0, 4), task(1, 3), task(2, 6)], 6000),
            (vec![task(3, 3)], 0),
            (vec![], 0),
        ] {
            assert_eq!(total_wait_ms(&tasks), expected);
        }
    }

    #[test]
    fn a_stage_without_a_model_is_its_own_engine() {
        let stage = StageObject::from(task(0, 1));
        assert_eq!(
            (stage.engine_id.as_str(), stage.model_id, stage.retries),
            ("prepare", None, None)
        );
        assert_eq!(stage.wait_ms, Some(1000));
        assert_eq!(stage.duration_ms, None);
    }
}
