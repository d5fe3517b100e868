//! Tasks: the stages a job expands into, what each is given and what each answers.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ids::{JobId, TaskId};

mod payload;

pub use crate::transcript::SpeakerTurn;
pub use payload::{
    AlignRequest, AlignResponse, Bleed, Branch, Chunk, DiarizeRequest, DiarizeResponse, FanOut,
    IntegratedStages, MergeRequest, PrepareRequest, PrepareResponse, PreparedAudio, SourceAudio,
    TrackSource, TranscribeRequest, TranscribeResponse,
};

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
    /// What the planner put in: the request of its stage, for example a [`TranscribeRequest`], as JSON.
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
    /// What it answered, as JSON.
    pub response: Option<Box<RawValue>>,
}

/// How far a running task is, in seconds of audio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Seconds done.
    pub done_seconds: f64,
    /// Seconds in all.
    pub total_seconds: f64,
}
