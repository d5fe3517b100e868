//! Tasks: the stages a job expands into, what each is given and what each answers.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ids::{JobId, TaskId, TenantId};
use crate::transcript::Segment;

/// One step of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Decodes the upload to 16 kHz mono, finds speech and draws the waveform.
    Prepare,
    /// Turns speech into segments of text.
    Transcribe,
    /// Gives words their times when the transcriber has none.
    Align,
    /// Tells speakers apart.
    Diarize,
    /// Assembles the transcript; the last task of every job.
    Merge,
}

impl Stage {
    /// Every stage in pipeline order.
    pub const ALL: [Self; 5] = [
        Self::Prepare,
        Self::Transcribe,
        Self::Align,
        Self::Diarize,
        Self::Merge,
    ];

    /// The name used in JSON, SQL and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Transcribe => "transcribe",
            Self::Align => "align",
            Self::Diarize => "diarize",
            Self::Merge => "merge",
        }
    }
}

/// What a user sees of a task's state. Inside the database a pending task may also be `scheduled` (waiting for its
/// next attempt) or `held` (its tenant is at its cap); both show as pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskStatus {
    /// Waits for other tasks, for its next attempt, or for its tenant's turn.
    Pending,
    /// May be claimed.
    Ready,
    /// Held by a worker under a lease.
    Running,
    /// Done, with a response.
    Completed,
    /// Gave up after its last attempt.
    Failed,
    /// Not needed any more, or optional and failed.
    Skipped,
    /// Its job was cancelled.
    Cancelled,
}

impl TaskStatus {
    /// The name used in JSON, SQL and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

/// A name that is not one of an enumeration's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {kind}: {name:?}")]
pub struct UnknownName {
    /// What was being named, for example `stage`.
    pub kind: &'static str,
    /// The name that is not known.
    pub name: String,
}

macro_rules! text_enum {
    ($name:ident, $kind:literal, [$($variant:ident),+ $(,)?]) => {
        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = $crate::task::UnknownName;

            fn from_str(name: &str) -> Result<Self, Self::Err> {
                [$(Self::$variant),+]
                    .into_iter()
                    .find(|value| value.as_str() == name)
                    .ok_or_else(|| $crate::task::UnknownName { kind: $kind, name: name.to_owned() })
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::task::UnknownName;

            fn try_from(name: String) -> Result<Self, Self::Error> {
                name.parse()
            }
        }
    };
}
pub(crate) use text_enum;

text_enum!(Stage, "stage", [Prepare, Transcribe, Align, Diarize, Merge]);
text_enum!(
    TaskStatus,
    "task status",
    [
        Pending, Ready, Running, Completed, Failed, Skipped, Cancelled
    ]
);

/// A task as `GET …/tasks` shows it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Task {
    /// The task.
    pub id: TaskId,
    /// Its job.
    pub job_id: JobId,
    /// Its stage.
    #[sqlx(try_from = "String")]
    pub stage: Stage,
    /// Name within the job, unique there: the stage, or the stage with a channel or chunk (`transcribe_c000`).
    pub name: String,
    /// Engine that runs it; empty for stages without a model.
    pub engine: String,
    /// Model that runs it; empty for stages without a model.
    pub model: String,
    /// State as a user sees it.
    #[sqlx(try_from = "String")]
    pub status: TaskStatus,
    /// False when its failure only leaves a warning.
    pub required: bool,
    /// Tasks that must be done first.
    pub dependencies: Vec<TaskId>,
    /// Attempts that failed so far (a task handed back by a stopping worker does not count).
    pub retries: i32,
    /// Attempts allowed in all.
    pub max_attempts: i32,
    /// When all its dependencies were done.
    pub ready_at: Option<DateTime<Utc>>,
    /// When the current or last attempt began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached a final state.
    pub completed_at: Option<DateTime<Utc>>,
    /// Why it failed, in words for the user.
    pub error: Option<String>,
    /// Why this engine and model were chosen.
    pub chosen_because: Option<String>,
}

/// A task that a worker has just claimed. `lease` is the fencing token: it grows with every claim, and complete, fail
/// and extend change nothing when it is no longer current.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct ClaimedTask {
    /// The task.
    pub id: TaskId,
    /// Its job.
    pub job_id: JobId,
    /// The tenant that owns the job.
    pub tenant_id: TenantId,
    /// Its stage.
    #[sqlx(try_from = "String")]
    pub stage: Stage,
    /// Name within the job.
    pub name: String,
    /// Engine that must run it; empty for stages without a model.
    pub engine: String,
    /// Model that must run it; empty for stages without a model.
    pub model: String,
    /// Fencing token.
    pub lease: i64,
    /// Number of this attempt, from 1.
    pub attempt: i32,
    /// What the planner put in: a [`PrepareRequest`], [`TranscribeRequest`] or [`MergeRequest`] as JSON.
    pub request: serde_json::Value,
}

/// A worker's hold on one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The task.
    pub task_id: TaskId,
    /// The fencing token it was claimed with.
    pub token: i64,
}

impl ClaimedTask {
    /// The hold that this claim gave.
    #[must_use]
    pub fn lease(&self) -> Lease {
        Lease {
            task_id: self.id,
            token: self.lease,
        }
    }
}

/// A task to be inserted, by submit or by a running task that fans out. `key` names it among its siblings and in
/// `needs`; ids are made by the caller so that edges can be written in the same statement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// Its stage.
    pub stage: Stage,
    /// Name within the job, unique there.
    pub name: String,
    /// Engine that must run it; empty for stages without a model.
    pub engine: String,
    /// Model that must run it; empty for stages without a model.
    pub model: String,
    /// Tasks that must be done first.
    pub needs: Vec<TaskId>,
    /// False when its failure only leaves a warning.
    pub required: bool,
    /// Attempts allowed in all.
    pub max_attempts: i32,
    /// Why this engine and model were chosen, in words.
    pub chosen_because: Option<String>,
    /// What it is given, as JSON.
    pub request: serde_json::Value,
}

/// What `prepare` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PrepareRequest {
    /// Write one prepared file per channel instead of a mono mix.
    pub split_channels: bool,
}

/// What `transcribe` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TranscribeRequest {
    /// Language (ISO 639-1), or `None` to detect it.
    pub language: Option<String>,
    /// Translate to English instead of transcribing.
    pub translate: bool,
    /// Text that conditions the model's style and spelling.
    pub prompt: Option<String>,
    /// Words the model should expect.
    pub vocabulary: Vec<String>,
    /// Sampling temperature 0–1; `None` runs the fallback ladder from 0.
    pub temperature: Option<f32>,
    /// Beams; 1 is greedy.
    pub beam_size: u32,
    /// Ask for word times.
    pub word_timestamps: bool,
    /// Channel to read when `prepare` split them.
    pub channel: Option<u16>,
    /// Part of the file, in seconds, when a long file was cut into chunks.
    pub chunk: Option<Chunk>,
}

/// A part of the prepared audio, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chunk {
    /// Position among its siblings, from 0.
    pub index: u32,
    /// Start, in seconds from the beginning of the file.
    pub start: f64,
    /// End, in seconds.
    pub end: f64,
}

/// What `merge` is given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MergeRequest {}

/// One prepared 16 kHz mono file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreparedAudio {
    /// Object-store key of the WAV.
    pub key: String,
    /// Channel of the original, or `None` for a mono mix.
    pub channel: Option<u16>,
    /// Length in seconds.
    pub duration: f64,
    /// Level over the whole file, dBFS.
    pub rms_dbfs: f64,
    /// Speech found by voice activity detection, `[start, end]` in seconds.
    pub speech_regions: Vec<(f64, f64)>,
    /// Lowest and highest sample per bucket over the file, −1 to 1, at most 2,000 buckets.
    pub peaks: Vec<(f32, f32)>,
}

/// What `prepare` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PrepareResponse {
    /// Facts of the original.
    pub source: SourceAudio,
    /// The prepared files: one, or one per channel.
    pub channel_files: Vec<PreparedAudio>,
    /// Share of the audio that is speech, 0–1.
    pub speech_ratio: f64,
    /// Things a user should know.
    pub warnings: Vec<String>,
}

/// Facts of an upload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceAudio {
    /// Container, for example `wav` or `mp4`.
    pub format: String,
    /// Codec, for example `pcm_s16le` or `aac`.
    pub codec: String,
    /// Length in seconds.
    pub duration: f64,
    /// Samples a second.
    pub sample_rate: u32,
    /// Channels.
    pub channels: u16,
    /// Bits a sample, where the codec has such a thing.
    pub bit_depth: Option<u16>,
}

/// What `transcribe` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TranscribeResponse {
    /// The whole text.
    pub text: String,
    /// Segments in order, times in seconds of the prepared file.
    pub segments: Vec<Segment>,
    /// Language of the text (ISO 639-1).
    pub language: String,
    /// Probability of that language, 0–1, when it was detected.
    pub language_confidence: Option<f64>,
    /// `requested` or `detected`.
    pub language_source: String,
    /// Engine that ran.
    pub engine: String,
    /// Model that ran.
    pub model: String,
    /// Where it ran: `cpu` or `cuda`.
    pub device: String,
    /// How word times were made, for example `attention`; `None` without words.
    pub alignment_method: Option<String>,
    /// Channel, when the file was split.
    pub channel: Option<u16>,
    /// Things a user should know.
    pub warnings: Vec<String>,
}

/// A done task of the same job, as its dependants read it.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct FinishedTask {
    /// The task.
    pub id: TaskId,
    /// Its stage.
    #[sqlx(try_from = "String")]
    pub stage: Stage,
    /// Name within the job.
    pub name: String,
    /// State: completed, or skipped when it was optional and failed.
    #[sqlx(try_from = "String")]
    pub status: TaskStatus,
    /// Why it failed, when it did.
    pub error: Option<String>,
    /// What it answered.
    pub response: Option<serde_json::Value>,
}

/// How far a running task is, in seconds of audio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Seconds done.
    pub done_seconds: f64,
    /// Seconds in all.
    pub total_seconds: f64,
}
