//! Jobs: what a user asked for, free of the dialect it was asked in.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::types::Json;

use crate::ids::{ApiKeyId, JobId, TenantId};
use crate::task::{NewTask, text_enum};

/// State of a job.
///
/// `pending` → `running` at the first claim → `completed`, `failed` or, through `cancelling` while tasks still run,
/// `cancelled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// No task has been claimed yet.
    Pending,
    /// At least one task has been claimed.
    Running,
    /// Done, with a transcript.
    Completed,
    /// A required task gave up.
    Failed,
    /// Cancelled by the user while tasks were running; they are being stopped.
    Cancelling,
    /// Cancelled by the user.
    Cancelled,
}

impl JobStatus {
    /// The name used in JSON, SQL and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelling => "cancelling",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether the job will not change any more (unless an operator retries it).
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

text_enum!(
    JobStatus,
    "job status",
    [Pending, Running, Completed, Failed, Cancelling, Cancelled]
);

/// Which API a job came through; it decides how its result is presented.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dialect {
    /// `/v1/audio/transcriptions` with our own fields.
    #[default]
    Native,
    /// The OpenAI-compatible endpoints.
    OpenAi,
    /// The ElevenLabs-compatible endpoints.
    ElevenLabs,
}

/// How fine the times in a transcript are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimestampGranularity {
    /// Text only.
    None,
    /// Times per segment.
    Segment,
    /// Times per word.
    #[default]
    Word,
}

/// How speakers are told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SpeakerDetection {
    /// Not at all.
    #[default]
    None,
    /// By voice.
    Diarize,
    /// One speaker a channel.
    PerChannel,
}

impl SpeakerDetection {
    /// The name used in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Diarize => "diarize",
            Self::PerChannel => "per_channel",
        }
    }
}

/// A recording of a speaker whose name is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeakerReference {
    /// The speaker's name.
    pub name: String,
    /// Object-store key of the recording.
    pub key: String,
}

/// One of several files that make one recording, with one speaker on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// Object-store key of the file.
    pub key: String,
    /// Where it begins on the recording's clock, in seconds, not negative.
    pub offset: f64,
    /// Length in seconds.
    pub duration: f64,
    /// Name of its speaker.
    pub name: Option<String>,
}

/// Whether the stages of a job are tasks of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PipelineMode {
    /// One task a stage, each on whichever worker takes it.
    #[default]
    Staged,
    /// One task transcribes, aligns and tells speakers apart, on a worker that has all the models.
    Integrated,
}

/// How long files are cut into chunks for several workers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chunking {
    /// Length of a chunk aimed at, seconds. Files of less than twice this stay whole; 0 never cuts.
    pub target_seconds: f64,
    /// Shortest chunk, seconds.
    pub minimum_seconds: f64,
}

impl Default for Chunking {
    /// Two minutes, at least half a one: a three-hour file keeps sixteen workers busy to the end.
    fn default() -> Self {
        Self {
            target_seconds: 120.0,
            minimum_seconds: 30.0,
        }
    }
}

impl Chunking {
    /// No cutting at all.
    pub const OFF: Self = Self {
        target_seconds: 0.0,
        minimum_seconds: 0.0,
    };

    /// Whether a file of this length, in seconds, is cut.
    #[must_use]
    pub fn applies_to(&self, seconds: f64) -> bool {
        self.target_seconds > 0.0 && seconds >= 2.0 * self.target_seconds
    }
}

/// What the user asked for. Stored as JSON with the job; a new field needs no migration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct JobParameters {
    /// API the job came through.
    pub dialect: Dialect,
    /// Model asked for: `auto`, a model id or an engine id.
    pub model: String,
    /// The same for the stage `align`; `None` is auto.
    pub model_align: Option<String>,
    /// The same for the stage `diarize`; `None` is auto.
    pub model_diarize: Option<String>,
    /// Language (ISO 639-1); `None` detects it.
    pub language: Option<String>,
    /// Translate to English instead of transcribing.
    pub translate: bool,
    /// Text that conditions style and spelling.
    pub prompt: Option<String>,
    /// Words to expect, at most 100.
    pub vocabulary: Vec<String>,
    /// Sampling temperature 0–1; `None` runs the fallback ladder from 0.
    pub temperature: Option<f32>,
    /// How fine the times are.
    pub timestamps: TimestampGranularity,
    /// How speakers are told apart.
    pub speaker_detection: SpeakerDetection,
    /// Exact number of speakers.
    pub num_speakers: Option<u32>,
    /// Fewest speakers.
    pub min_speakers: Option<u32>,
    /// Most speakers.
    pub max_speakers: Option<u32>,
    /// Names for speakers, in order of first speech.
    pub known_speaker_names: Vec<String>,
    /// Recordings of known speakers, at most 4, matched by voice.
    pub known_speaker_references: Vec<SpeakerReference>,
    /// The files of a recording in several files, the first being the job's upload; empty for one file.
    pub tracks: Vec<Track>,
    /// Whether the stages are tasks of their own.
    pub pipeline: PipelineMode,
    /// How a long file is cut; `None` is the server's setting, which `submit` fills in.
    pub chunking: Option<Chunking>,
    /// What the planner could not give, in words; ends in the transcript's warnings.
    pub planning_warnings: Vec<String>,
}

impl Default for JobParameters {
    fn default() -> Self {
        Self {
            dialect: Dialect::Native,
            model: "auto".to_owned(),
            model_align: None,
            model_diarize: None,
            language: None,
            translate: false,
            prompt: None,
            vocabulary: Vec::new(),
            temperature: None,
            timestamps: TimestampGranularity::Word,
            speaker_detection: SpeakerDetection::None,
            num_speakers: None,
            min_speakers: None,
            max_speakers: None,
            known_speaker_names: Vec::new(),
            known_speaker_references: Vec::new(),
            tracks: Vec::new(),
            pipeline: PipelineMode::Staged,
            chunking: None,
            planning_warnings: Vec::new(),
        }
    }
}

/// Facts about the upload that `submit` stores with the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UploadedAudio {
    /// Object-store key of the original.
    pub key: String,
    /// Container, for example `wav`.
    pub format: String,
    /// Length in seconds.
    pub duration: f64,
    /// Samples a second.
    pub sample_rate: u32,
    /// Channels.
    pub channels: u16,
    /// Bits a sample, where the codec has such a thing.
    pub bit_depth: Option<u16>,
    /// Size in bytes.
    pub size_bytes: u64,
}

/// Everything `submit` needs: one statement makes the job, its tasks and its edges.
#[derive(Clone, Debug, Serialize)]
pub struct NewJob {
    /// Its id; the audio was stored under it before.
    pub id: JobId,
    /// The tenant that pays for it.
    pub tenant_id: TenantId,
    /// The key it was submitted with.
    pub created_by: Option<ApiKeyId>,
    /// Name shown to people.
    pub display_name: String,
    /// What was asked for.
    pub parameters: JobParameters,
    /// The upload.
    pub audio: UploadedAudio,
    /// Lower runs first; 100 is normal.
    pub priority: i16,
    /// Days to keep the job (audio and transcript) after it ended; 0 purges within two minutes, −1 keeps for ever.
    pub retention_days: i32,
    /// The client's `Idempotency-Key`: a second submit with the same key and tenant answers the first job.
    pub idempotency_key: Option<String>,
    /// Fingerprint of the request, to refuse the same key with another request.
    pub idempotency_fingerprint: Option<String>,
    /// `X-Request-ID` of the request.
    pub request_id: Option<String>,
    /// The plan.
    pub tasks: Vec<NewTask>,
}

/// A job as the API reads it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Job {
    /// The job.
    pub id: JobId,
    /// The tenant that owns it.
    pub tenant_id: TenantId,
    /// The key it was submitted with.
    pub created_by_key_id: Option<ApiKeyId>,
    /// State.
    #[sqlx(try_from = "String")]
    pub status: JobStatus,
    /// Name shown to people.
    pub display_name: String,
    /// What was asked for.
    pub parameters: Json<JobParameters>,
    /// Object-store key of the original; `None` once purged.
    pub audio_key: Option<String>,
    /// Container of the original.
    pub audio_format: String,
    /// Length in seconds.
    pub audio_duration_seconds: f64,
    /// Samples a second of the original.
    pub audio_sample_rate: i32,
    /// Channels of the original.
    pub audio_channels: i32,
    /// Bits a sample of the original.
    pub audio_bit_depth: Option<i32>,
    /// Why it failed, in words for the user.
    pub error: Option<String>,
    /// Share of the work done, 0–1; only grows.
    pub progress: f64,
    /// Stage being worked on.
    pub current_stage: Option<String>,
    /// Seconds until it is expected to be done; `None` unless it is running and some audio is done.
    pub eta_seconds: Option<f64>,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When its first task was claimed.
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached a final state.
    pub completed_at: Option<DateTime<Utc>>,
    /// Days to keep it (audio and transcript) after its end; 0 purges within two minutes, −1 keeps for ever.
    pub retention_days: i32,
    /// When it will be purged.
    pub purge_after: Option<DateTime<Utc>>,
    /// When it was purged.
    pub purged_at: Option<DateTime<Utc>>,
    /// Language of the transcript.
    pub result_language_code: Option<String>,
    /// Words of the transcript.
    pub result_word_count: Option<i32>,
    /// Segments of the transcript.
    pub result_segment_count: Option<i32>,
    /// Speakers of the transcript.
    pub result_speaker_count: Option<i32>,
    /// Characters of the transcript.
    pub result_character_count: Option<i32>,
}
