//! Audio in: an upload or a URL becomes a stored object whose facts have been read.
//!
//! The object is stored before anything else exists and belongs to nobody until a job is submitted, so [`Received`]
//! deletes it again unless it is kept.

pub mod address_guard;
pub mod probe;
pub mod tracks;
pub mod upload;
pub mod url;
pub mod voices;

use dalston_audio::AudioError;
use dalston_schema::job::UploadedAudio;
use dalston_schema::storage::StorageError;
use dalston_schema::{ArtifactKey, JobId, Storage};
use poem::http::StatusCode;

use crate::error::ApiError;
use crate::speakers::SpeakerError;
use crate::state::App;

/// Why audio was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// Larger than allowed.
    #[error("File too large. Maximum size is {}.", size(*.limit))]
    TooLarge {
        /// Allowed size in bytes.
        limit: u64,
    },
    /// The file is not audio, or cannot be used.
    #[error(transparent)]
    Audio(AudioError),
    /// `audio_url` could not be fetched.
    #[error(transparent)]
    Url(#[from] url::UrlError),
    /// The client stopped sending.
    #[error("The upload broke off: {0}")]
    BrokenOff(std::io::Error),
    /// The object store failed.
    #[error(transparent)]
    Storage(StorageError),
    /// A recording of a known speaker cannot serve.
    #[error(transparent)]
    Speakers(#[from] SpeakerError),
    /// The request itself is wrong.
    #[error("{0}")]
    Request(ApiError),
}

impl From<StorageError> for IngestError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::TooLarge { limit } => Self::TooLarge { limit },
            StorageError::Source(error) => Self::BrokenOff(error),
            error => Self::Storage(error),
        }
    }
}

impl From<ApiError> for IngestError {
    fn from(error: ApiError) -> Self {
        Self::Request(error)
    }
}

impl IngestError {
    /// The error in the standard shape.
    #[must_use]
    pub fn into_standard(self) -> ApiError {
        let message = self.to_string();
        match self {
            Self::TooLarge { .. } => ApiError::standard(StatusCode::PAYLOAD_TOO_LARGE, message),
            Self::Audio(error) if error.is_client_error() => ApiError::bad_request(message),
            Self::Audio(error) => ApiError::internal(&error),
            Self::Url(error) => error.into_standard(),
            Self::BrokenOff(_) => ApiError::bad_request(message),
            Self::Storage(error) => error.into(),
            Self::Speakers(error) => error.into_standard(),
            Self::Request(error) => error,
        }
    }

    /// The error in OpenAI's shape, with its codes for files.
    #[must_use]
    pub fn into_openai(self) -> ApiError {
        let message = self.to_string();
        let (status, code) = match &self {
            Self::Speakers(error) => return error.clone().into_openai(),
            Self::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "file_too_large"),
            Self::Audio(error) if error.is_client_error() => {
                (StatusCode::BAD_REQUEST, "invalid_file_format")
            }
            _ => return self.into_standard().into_openai(),
        };
        ApiError::openai(
            status,
            "invalid_request_error",
            Some(code),
            message,
            Some("file"),
        )
    }
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if bytes >= 1 << 30 {
        format!("{:.1} GiB", mib / 1024.0)
    } else {
        format!("{mib:.0} MiB")
    }
}

/// Where received audio came from, for its name and for telling a repeated request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// File name, where there is one.
    pub file_name: Option<String>,
    /// SHA-256 of the bytes, or the URL; only when asked for.
    pub fingerprint: Option<String>,
}

/// A further file of a recording in several files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FurtherFile {
    /// Key of the object.
    pub key: ArtifactKey,
    /// Name the client gave the file.
    pub file_name: String,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// Stored audio that no job owns yet. Dropped without [`Received::keep`], it is deleted.
pub struct Received {
    storage: Storage,
    job: JobId,
    /// Key of the object.
    pub key: ArtifactKey,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// Where it came from.
    pub origin: Origin,
    /// Further files, for a recording in several.
    pub further: Vec<FurtherFile>,
    owned: bool,
}

impl Received {
    /// Takes responsibility for a job's audio before the first byte is stored.
    fn reserve(storage: &Storage, job: JobId, extension: &str) -> Self {
        Self {
            storage: storage.clone(),
            job,
            key: ArtifactKey::original_audio(job, extension),
            size_bytes: 0,
            origin: Origin {
                file_name: None,
                fingerprint: None,
            },
            further: Vec::new(),
            owned: true,
        }
    }

    /// The job whose audio it will be.
    #[must_use]
    pub fn job(&self) -> JobId {
        self.job
    }

    /// Reads the facts of the stored object.
    ///
    /// # Errors
    /// [`IngestError::Audio`] when it cannot be transcribed.
    pub async fn probe(&self, app: &App) -> Result<UploadedAudio, IngestError> {
        let facts = probe::probe_stored(app, &self.key)
            .await
            .map_err(IngestError::Audio)?;
        Ok(UploadedAudio {
            key: self.key.as_str().to_owned(),
            format: facts.format,
            duration: facts.duration,
            sample_rate: facts.sample_rate,
            channels: facts.channels,
            bit_depth: facts.bit_depth,
            size_bytes: self.size_bytes,
        })
    }

    /// Leaves the object to the job that now points at it.
    pub fn keep(mut self) {
        self.owned = false;
    }

    /// Deletes the object now and waits for it.
    pub async fn discard(mut self) {
        self.owned = false;
        delete(&self.storage, self.job).await;
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if !self.owned {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (storage, job) = (self.storage.clone(), self.job);
            runtime.spawn(async move { delete(&storage, job).await });
        }
    }
}

async fn delete(storage: &Storage, job: JobId) {
    // The sweeper of orphans takes what cannot be deleted now.
    if let Err(error) = storage.delete_prefix(&ArtifactKey::job_prefix(job)).await {
        tracing::warn!(job.id = %job, %error, "audio of job {job} was not accepted and could not be deleted yet");
    }
}

/// The extension of a file name: lower-case letters and digits, or nothing.
fn extension_of(file_name: &str) -> String {
    file_name
        .rsplit_once('.')
        .map(|(_, extension)| extension.to_ascii_lowercase())
        .unwrap_or_default()
}
