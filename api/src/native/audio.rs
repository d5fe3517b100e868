//! The audio of a job: a URL that works for an hour without a key, and its deletion.
//!
//! An S3 store signs its own URLs. For a folder this API serves the file itself, under a URL that carries its end of
//! validity and an HMAC over job and end; byte ranges work, so that players can jump.

mod range;

use std::time::Duration;

use chrono::Utc;
use dalston_schema::db::jobs::{self, AudioDeleted};
use dalston_schema::storage::StorageError;
use dalston_schema::{ArtifactKey, Job, JobId};
use hmac::{Hmac, KeyInit, Mac};
use poem::http::{StatusCode, header};
use poem::{Body, Request, Response};
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use secrecy::ExposeSecret;
use serde_json::json;
use sha2::Sha256;
use uuid::Uuid;

use super::transcriptions::{NoContent, not_found, readable};
use crate::auth::{Caller, Permission};
use crate::document::{File, Tag};
use crate::error::ApiError;
use crate::state::App;
use crate::timestamp::Timestamp;

/// How long a URL works.
const VALID: Duration = Duration::from_secs(3600);

/// Where audio can be fetched.
#[derive(Object)]
pub struct AudioUrl {
    /// The URL; it needs no key.
    url: String,
    /// Seconds it works.
    expires_in: u64,
    /// `original` or `redacted`.
    r#type: String,
}

/// The audio endpoints.
pub struct AudioApi(pub App);

#[OpenApi(tag = "Tag::Transcriptions")]
impl AudioApi {
    /// Get a URL of the original audio.
    #[oai(path = "/v1/audio/transcriptions/:job_id/audio", method = "get")]
    async fn url(
        &self,
        caller: Caller,
        request: &Request,
        job_id: Path<Uuid>,
    ) -> Result<Json<AudioUrl>, ApiError> {
        let job = readable(&self.0, &caller, job_id.0).await?;
        finished(&job)?;
        let key = stored(&job)?;
        match self.0.storage.size(&key).await {
            Ok(_) => {}
            Err(StorageError::NotFound(_)) => return Err(deleted()),
            Err(error) => return Err(error.into()),
        }
        let url = match self.0.storage.signed_url(&key, VALID).await? {
            Some(url) => url,
            None => self.own_url(request, job.id),
        };
        Ok(Json(AudioUrl {
            url,
            expires_in: VALID.as_secs(),
            r#type: "original".to_owned(),
        }))
    }

    /// Get a URL of the audio with personal information silenced.
    #[oai(
        path = "/v1/audio/transcriptions/:job_id/audio/redacted",
        method = "get"
    )]
    async fn redacted(
        &self,
        caller: Caller,
        job_id: Path<Uuid>,
    ) -> Result<Json<AudioUrl>, ApiError> {
        readable(&self.0, &caller, job_id.0).await?;
        Err(ApiError::not_found(
            "PII audio redaction was not enabled for this job",
        ))
    }

    /// Fetch audio by its signed URL.
    ///
    /// Needs no key. `Range` is honoured.
    #[oai(
        path = "/v1/audio/transcriptions/:job_id/audio/content",
        method = "get"
    )]
    async fn content(
        &self,
        request: &Request,
        job_id: Path<Uuid>,
        /// When the URL stops working, in seconds since 1970.
        expires: Query<i64>,
        /// HMAC of the URL.
        signature: Query<String>,
    ) -> Result<File, ApiError> {
        let id = JobId(job_id.0);
        if !self.is_signed(id, expires.0, &signature.0) || expires.0 < Utc::now().timestamp() {
            return Err(ApiError::standard(
                StatusCode::FORBIDDEN,
                "This URL is not valid (any more). Ask GET /v1/audio/transcriptions/{job_id}/audio for a new one.",
            ));
        }
        let job = jobs::get_unscoped(&self.0.pool, id)
            .await?
            .ok_or_else(not_found)?;
        let key = stored(&job)?;
        let size = match self.0.storage.size(&key).await {
            Ok(size) => size,
            Err(StorageError::NotFound(_)) => return Err(deleted()),
            Err(error) => return Err(error.into()),
        };
        self.serve(&key, size, request.header(header::RANGE))
            .await
            .map(File)
    }

    /// Delete the audio of a finished job; its transcript stays.
    #[oai(path = "/v1/audio/transcriptions/:job_id/audio", method = "delete")]
    async fn delete(&self, caller: Caller, job_id: Path<Uuid>) -> Result<NoContent, ApiError> {
        caller.require(Permission::JobDeleteOwn)?;
        caller.take_request(&self.0).await?;
        let id = JobId(job_id.0);
        match jobs::delete_audio(&self.0.pool, caller.scope(), id).await? {
            AudioDeleted::Done => {}
            AudioDeleted::Refused(status) => return Err(not_final(status.as_str())),
            AudioDeleted::Gone {
                purged_at: Some(at),
            } => return Err(purged(at)),
            AudioDeleted::Gone { purged_at: None } => {
                return Err(ApiError::structured(
                    StatusCode::GONE,
                    json!({"code": "audio_deleted", "message": "Audio already purged"}),
                ));
            }
            AudioDeleted::NotFound => return Err(not_found()),
        }
        self.0
            .storage
            .delete_prefix(&ArtifactKey::job_audio_prefix(id))
            .await?;
        caller
            .audit(&self.0, "audio.deleted", ("job", id.to_string()), None)
            .await;
        Ok(NoContent::Done)
    }
}

impl AudioApi {
    fn own_url(&self, request: &Request, job: JobId) -> String {
        let expires = Utc::now().timestamp() + VALID.as_secs() as i64;
        let signature = hex::encode(self.signature(job, expires).finalize().into_bytes());
        let base = match &self.0.config.public_url {
            Some(base) => base.trim_end_matches('/').to_owned(),
            None => {
                let scheme = request.header("x-forwarded-proto").unwrap_or("http");
                let host = request.header(header::HOST).unwrap_or("localhost");
                format!("{scheme}://{host}")
            }
        };
        format!(
            "{base}/v1/audio/transcriptions/{job}/audio/content?expires={expires}&signature={signature}"
        )
    }

    fn signature(&self, job: JobId, expires: i64) -> Hmac<Sha256> {
        let secret = self.0.config.signing_secret.expose_secret().as_bytes();
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
        mac.update(format!("audio\n{job}\n{expires}").as_bytes());
        mac
    }

    /// Compares in constant time.
    fn is_signed(&self, job: JobId, expires: i64, signature: &str) -> bool {
        hex::decode(signature).is_ok_and(|signature| {
            self.signature(job, expires)
                .verify_slice(&signature)
                .is_ok()
        })
    }

    async fn serve(
        &self,
        key: &ArtifactKey,
        size: u64,
        range: Option<&str>,
    ) -> Result<Response, ApiError> {
        let extension = key.as_str().rsplit_once('.').map_or("", |(_, end)| end);
        let builder = Response::builder()
            .content_type(content_type(extension))
            .header(header::ACCEPT_RANGES, "bytes")
            .header(header::CACHE_CONTROL, "private, max-age=3600");
        match range::requested(range, size) {
            range::Wanted::All => {
                let body = range::stream(self.0.storage.clone(), key.clone(), 0..size);
                Ok(builder
                    .header(header::CONTENT_LENGTH, size)
                    .body(Body::from_bytes_stream(body)))
            }
            range::Wanted::Part(part) => {
                let length = part.end - part.start;
                let content_range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
                let body = range::stream(self.0.storage.clone(), key.clone(), part);
                Ok(builder
                    .status(StatusCode::PARTIAL_CONTENT)
                    .header(header::CONTENT_RANGE, content_range)
                    .header(header::CONTENT_LENGTH, length)
                    .body(Body::from_bytes_stream(body)))
            }
            range::Wanted::Nothing => Ok(builder
                .status(StatusCode::RANGE_NOT_SATISFIABLE)
                .header(header::CONTENT_RANGE, format!("bytes */{size}"))
                .finish()),
        }
    }
}

fn finished(job: &Job) -> Result<(), ApiError> {
    if job.status.is_final() {
        Ok(())
    } else {
        Err(not_final(job.status.as_str()))
    }
}

fn not_final(status: &str) -> ApiError {
    ApiError::conflict(format!(
        "Job not in terminal state. Current status: {status}"
    ))
}

/// The key of a job's audio, or why there is none any more.
fn stored(job: &Job) -> Result<ArtifactKey, ApiError> {
    match (&job.audio_key, job.purged_at) {
        (Some(key), _) => Ok(ArtifactKey::from_stored(key)),
        (None, Some(at)) => Err(purged(at)),
        (None, None) => Err(deleted()),
    }
}

fn purged(at: chrono::DateTime<Utc>) -> ApiError {
    ApiError::structured(
        StatusCode::GONE,
        json!({
            "code": "audio_purged",
            "message": "Audio has been purged according to retention policy",
            "purged_at": Timestamp(at).text(),
        }),
    )
}

fn deleted() -> ApiError {
    ApiError::structured(
        StatusCode::GONE,
        json!({"code": "audio_deleted", "message": "Audio has been deleted"}),
    )
}

fn content_type(extension: &str) -> &'static str {
    match extension {
        "wav" => "audio/wav",
        "mp3" => "audio/mpeg",
        "flac" => "audio/flac",
        "ogg" | "oga" | "opus" => "audio/ogg",
        "m4a" => "audio/mp4",
        "aac" => "audio/aac",
        "aiff" | "aif" => "audio/aiff",
        "mp4" => "video/mp4",
        "webm" => "video/webm",
        "mkv" => "video/x-matroska",
        _ => "application/octet-stream",
    }
}
