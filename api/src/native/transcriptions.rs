//! `/v1/audio/transcriptions`: submit, read, rename, cancel, retry and delete jobs.

use dalston_schema::db::jobs::{self, Cancelled, Deleted, Retried};
use dalston_schema::db::tasks;
use dalston_schema::{ArtifactKey, Job, JobId, JobStatus};
use poem::Request;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{ApiResponse, Object, OpenApi};
use serde_json::json;
use uuid::Uuid;

use super::job_object::{JobCreated, JobObject};
use super::list::{self, JobList};
use crate::auth::{Caller, Permission};
use crate::body::Body;
use crate::document::{FileSchema, Submitted, Tag};
use crate::error::ApiError;
use crate::form::Form;
use crate::intake::{Accepted, Call, take_in};
use crate::openai::request::Endpoint;
use crate::openai::sync;
use crate::state::App;

/// The fields of a transcription request. An OpenAI model id, or an official OpenAI client, makes the request one of
/// OpenAI's dialect; only that reads the fields marked OpenAI. See the description of the operation.
#[derive(Object)]
pub struct TranscriptionForm {
    /// The audio file. Exactly one of `file` and `audio_url`; several with `tracks`.
    file: Option<FileSchema>,
    /// Where to fetch the audio: http or https, also share links of Google Drive and Dropbox.
    audio_url: Option<String>,
    /// Name shown to people, at most 255 characters; else the name of the file.
    name: Option<String>,
    /// `auto`, a model id, an engine id, or one of OpenAI's ids.
    #[oai(default = "auto")]
    model: String,
    /// ISO 639-1 code, or `auto`.
    language: Option<String>,
    /// JSON array of at most 100 words to expect.
    vocabulary: Option<String>,
    /// `none`, `diarize` or `per_channel`.
    speaker_detection: Option<String>,
    /// Exact number of speakers, 1–32; with `speaker_detection=diarize`.
    num_speakers: Option<u32>,
    /// Fewest speakers, 1–32; with `speaker_detection=diarize`.
    min_speakers: Option<u32>,
    /// Most speakers, 1–32; with `speaker_detection=diarize`.
    max_speakers: Option<u32>,
    /// `none`, `segment` or `word`.
    timestamps_granularity: Option<String>,
    /// Detect personal information.
    pii_detection: Option<bool>,
    /// JSON array or comma-separated list of kinds of personal information.
    pii_entity_types: Option<String>,
    /// Silence personal information in the audio.
    redact_pii_audio: Option<bool>,
    /// `silence` or `beep`.
    pii_redaction_mode: Option<String>,
    /// Days to keep the job (audio and transcript) after its end: 0 (purged within two minutes), −1 (for ever) or 1–3650.
    retention: Option<i32>,
    /// JSON array with an object for each `file`, in the same order, when several files are one recording with one
    /// speaker on each: `name` of the speaker, and `offset`, where the file begins in seconds of the recording.
    tracks: Option<String>,
    /// Model of the diarize stage; else the best there is.
    model_diarize: Option<String>,
    /// Model of the align stage; else the best there is, where the transcriber gives words no times or only those of
    /// its attention.
    model_align: Option<String>,
    /// `staged`, a task for each stage; or `integrated`, one task for transcribe, align and diarize.
    pipeline: Option<String>,
    /// Length in seconds of the parts that a long file is cut into for several workers, at least 30; 0 never cuts.
    chunk_target_seconds: Option<f64>,
    /// Shortest such part, in seconds.
    chunk_minimum_seconds: Option<f64>,
    /// Text that conditions style and spelling; OpenAI: at most 224 tokens.
    prompt: Option<String>,
    /// Sampling temperature, 0–1.
    temperature: Option<f32>,
    /// OpenAI: `json`, `text`, `srt`, `verbose_json`, `vtt` or `diarized_json`.
    response_format: Option<String>,
    /// OpenAI: `word` and `segment`, with `verbose_json`.
    #[oai(rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<String>>,
    /// OpenAI: `logprobs`.
    #[oai(rename = "include[]")]
    include: Option<Vec<String>>,
    /// OpenAI: `auto` or an object.
    chunking_strategy: Option<String>,
    /// Names of speakers, given in order of first speech, or to the voices in `known_speaker_references`; OpenAI: at
    /// most four.
    #[oai(rename = "known_speaker_names[]")]
    known_speaker_names: Option<Vec<String>>,
    /// Recordings of the named speakers as `data:` URLs in base64, 2 to 10 seconds each, at most four.
    #[oai(rename = "known_speaker_references[]")]
    known_speaker_references: Option<Vec<String>>,
    /// OpenAI: answer with server-sent events.
    stream: Option<bool>,
}

fn auto() -> String {
    "auto".to_owned()
}

fn twenty() -> i64 {
    20
}

/// A new name.
#[derive(Object)]
pub struct Rename {
    /// The name, 1–255 characters.
    #[oai(validator(min_length = 1, max_length = 255))]
    display_name: String,
}

/// What a cancellation did.
#[derive(Object)]
pub struct JobCancelled {
    /// The job.
    id: Uuid,
    /// `cancelling` while tasks are being stopped, else `cancelled`.
    status: String,
    /// The same for people.
    message: String,
}

/// Nothing more to say.
#[derive(ApiResponse)]
pub enum NoContent {
    /// Done.
    #[oai(status = 204)]
    Done,
}

/// The job endpoints.
pub struct TranscriptionsApi(pub App);

#[OpenApi(tag = "Tag::Transcriptions")]
impl TranscriptionsApi {
    /// Submit audio.
    ///
    /// Native: answers 201 with the job at once. OpenAI dialect: waits for the text, as long as
    /// `DALSTON_SYNC_TIMEOUT_SECONDS` says (300 by default), and answers 200 with it in the asked format, or with
    /// server-sent events when `stream=true`. A request is of the OpenAI dialect when `model` is one of OpenAI's ids;
    /// or, with another model, when an official OpenAI client sent it without a native-only field. A repeated request
    /// with the same `Idempotency-Key` header is answered with the first one's job.
    #[oai(path = "/v1/audio/transcriptions", method = "post")]
    async fn create(
        &self,
        caller: Caller,
        request: &Request,
        form: Form<TranscriptionForm>,
    ) -> Result<Submitted, ApiError> {
        caller.require(Permission::JobCreate)?;
        let budget = caller.take_request(&self.0).await?;
        let scope = caller.scope();
        let call = Call::of(caller, request, Endpoint::Transcriptions)?;
        match take_in(&self.0, call, form).await? {
            Accepted::Native(submitted) => {
                let job = jobs::get(&self.0.pool, scope, submitted.id())
                    .await?
                    .ok_or_else(not_found)?;
                Ok(Submitted::created(JobCreated::of(&job, submitted)))
            }
            Accepted::OpenAi { job, request } => {
                let answer = sync::answer(&self.0, job, *request, budget).await?;
                Ok(Submitted::answered(answer))
            }
        }
    }

    /// List jobs, newest first.
    #[oai(path = "/v1/audio/transcriptions", method = "get")]
    async fn list(
        &self,
        caller: Caller,
        /// Jobs on a page.
        #[oai(
            default = "twenty",
            validator(minimum(value = "1"), maximum(value = "100"))
        )]
        limit: Query<i64>,
        /// `cursor` of the page before.
        cursor: Query<Option<String>>,
        /// Only jobs in this state.
        status: Query<Option<String>>,
        /// Only jobs submitted at or after this time.
        since: Query<Option<String>>,
    ) -> Result<Json<JobList>, ApiError> {
        let (cursor, status) = (cursor.0.as_deref(), status.0.as_deref());
        let page = list::page(
            &self.0,
            &caller,
            limit.0,
            cursor,
            status,
            since.0.as_deref(),
        );
        Ok(Json(page.await?))
    }

    /// Read a job.
    #[oai(path = "/v1/audio/transcriptions/:job_id", method = "get")]
    async fn get(&self, caller: Caller, job_id: Path<Uuid>) -> Result<Json<JobObject>, ApiError> {
        let job = readable(&self.0, &caller, job_id.0).await?;
        let tasks = tasks::list(&self.0.pool, job.id).await?;
        let transcript = match job.status {
            JobStatus::Completed => jobs::transcript(&self.0.pool, job.id).await?,
            _ => None,
        };
        Ok(Json(JobObject::full(job, tasks, transcript)))
    }

    /// Rename a job.
    #[oai(path = "/v1/audio/transcriptions/:job_id", method = "patch")]
    async fn rename(
        &self,
        caller: Caller,
        job_id: Path<Uuid>,
        body: Body<Rename>,
    ) -> Result<Json<JobObject>, ApiError> {
        caller.require(Permission::JobUpdateOwn)?;
        let id = JobId(job_id.0);
        let missing = || ApiError::resource_not_found("job", id);
        let name = body.0.display_name.trim();
        if name.is_empty() {
            return Err(ApiError::invalid_field(
                "display_name",
                "String should have at least 1 character",
                &body.0.display_name,
            ));
        }
        let old_name = jobs::rename(&self.0.pool, caller.scope(), id, name)
            .await?
            .ok_or_else(missing)?;
        let detail = json!({"old_name": old_name, "new_name": name});
        caller
            .audit(
                &self.0,
                "job.renamed",
                ("job", id.to_string()),
                Some(detail),
            )
            .await;
        let job = jobs::get(&self.0.pool, caller.scope(), id).await?;
        Ok(Json(JobObject::bare(job.ok_or_else(missing)?)))
    }

    /// Cancel a job.
    #[oai(path = "/v1/audio/transcriptions/:job_id/cancel", method = "post")]
    async fn cancel(
        &self,
        caller: Caller,
        job_id: Path<Uuid>,
    ) -> Result<Json<JobCancelled>, ApiError> {
        caller.require(Permission::JobCancelOwn)?;
        let id = JobId(job_id.0);
        let (status, message) = match jobs::cancel(&self.0.pool, caller.scope(), id).await? {
            Cancelled::Now => ("cancelled", "Job cancelled.".to_owned()),
            Cancelled::Stopping { running } => (
                "cancelling",
                format!("Cancellation requested. {running} task(s) still running."),
            ),
            Cancelled::Refused(status) => {
                return Err(ApiError::conflict(format!(
                    "Cannot cancel job in '{status}' state. Only pending or running jobs can be cancelled."
                )));
            }
            Cancelled::NotFound => return Err(not_found()),
        };
        caller
            .audit(
                &self.0,
                "job.cancel_requested",
                ("job", id.to_string()),
                None,
            )
            .await;
        Ok(Json(JobCancelled {
            id: id.0,
            status: status.to_owned(),
            message,
        }))
    }

    /// Run what failed of a job again.
    #[oai(path = "/v1/audio/transcriptions/:job_id/retry", method = "post")]
    async fn retry(&self, caller: Caller, job_id: Path<Uuid>) -> Result<Json<JobObject>, ApiError> {
        caller.require(Permission::JobUpdateOwn)?;
        let id = JobId(job_id.0);
        caller.take_request(&self.0).await?;
        let limit = self.0.config.limits.concurrent_jobs;
        match jobs::retry(&self.0.pool, caller.scope(), id, limit).await? {
            Retried::Done => {}
            Retried::Refused(status) => {
                refuse_without_audio(&self.0, &caller, id).await?;
                return Err(ApiError::conflict(match status {
                    JobStatus::Failed | JobStatus::Cancelled => format!(
                        "Cannot retry job in '{status}' state: all of its tasks were completed before."
                    ),
                    JobStatus::Pending
                    | JobStatus::Running
                    | JobStatus::Completed
                    | JobStatus::Cancelling => format!(
                        "Cannot retry job in '{status}' state. Only failed or cancelled jobs can be retried."
                    ),
                }));
            }
            Retried::NotFound => return Err(not_found()),
        }
        caller
            .audit(&self.0, "job.retried", ("job", id.to_string()), None)
            .await;
        let job = jobs::get(&self.0.pool, caller.scope(), id).await?;
        Ok(Json(JobObject::bare(job.ok_or_else(not_found)?)))
    }

    /// Delete a finished job with its audio and transcript.
    #[oai(path = "/v1/audio/transcriptions/:job_id", method = "delete")]
    async fn delete(&self, caller: Caller, job_id: Path<Uuid>) -> Result<NoContent, ApiError> {
        caller.require(Permission::JobDeleteOwn)?;
        caller.take_request(&self.0).await?;
        let id = JobId(job_id.0);
        match jobs::delete(&self.0.pool, caller.scope(), id).await? {
            Deleted::Done => {}
            Deleted::Refused(status) => {
                return Err(ApiError::conflict(format!(
                    "Cannot delete job in '{status}' state. Only completed, failed, or cancelled jobs can be deleted."
                )));
            }
            Deleted::NotFound => return Err(not_found()),
        }
        // The job is gone whatever happens here; the sweeper of orphans takes what is left.
        if let Err(error) = self
            .0
            .storage
            .delete_prefix(&ArtifactKey::job_prefix(id))
            .await
        {
            tracing::warn!(job.id = %id, %error, "objects of deleted job {id} are left for the sweeper");
        }
        caller
            .audit(&self.0, "job.deleted", ("job", id.to_string()), None)
            .await;
        Ok(NoContent::Done)
    }
}

/// The answer for a job that is not there, or somebody else's.
#[must_use]
pub fn not_found() -> ApiError {
    ApiError::not_found("Job not found")
}

/// A job the caller may read.
///
/// # Errors
/// 403 without the permission, 404 when there is no such job for this caller.
pub async fn readable(app: &App, caller: &Caller, job: Uuid) -> Result<Job, ApiError> {
    caller.require(Permission::JobReadOwn)?;
    jobs::get(&app.pool, caller.scope(), JobId(job))
        .await?
        .ok_or_else(not_found)
}

/// Refuses to run a job again that has no audio any more.
///
/// # Errors
/// 409 then.
pub async fn refuse_without_audio(app: &App, caller: &Caller, id: JobId) -> Result<(), ApiError> {
    let job = jobs::get(&app.pool, caller.scope(), id).await?;
    if job.is_some_and(|job| job.audio_key.is_none()) {
        return Err(ApiError::conflict(
            "Cannot retry job: its audio was deleted. Submit the audio again as a new job.",
        ));
    }
    Ok(())
}
