//! The stages this worker runs. Each is given its task's surroundings and answers what its dependants read.

mod align;
mod diarize;
mod merge;
mod portion;
mod prepare;
mod transcribe;

use std::path::PathBuf;

use dalston_engines::LoadedModel;
use dalston_schema::db::tasks::{self, Completion};
use dalston_schema::job::Job;
use dalston_schema::task::{ClaimedTask, FinishedTask, PrepareResponse, PreparedAudio};
use dalston_schema::{ArtifactKey, Stage};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::environment::Environment;
use crate::failure::{StageError, StageResult, TaskFailure};
use crate::lease::ProgressMeter;
use crate::model_pool::{ModelKey, PooledModel};
use crate::outage::wait_out;
use crate::scratch::TaskScratch;
use crate::stop::Stop;

/// What a stage may use.
#[derive(Debug)]
pub struct TaskContext<'a> {
    /// What all tasks share.
    pub environment: &'a Environment,
    /// The task.
    pub task: &'a ClaimedTask,
    /// Its job.
    pub job: &'a Job,
    /// Says when to stop.
    pub stop: &'a Stop,
    /// Where to say how far it is.
    pub progress: &'a ProgressMeter,
    /// Room for files.
    pub scratch: &'a TaskScratch,
}

/// Runs the stage of a task.
///
/// # Errors
/// [`StageError::Stopped`] when it was stopped, else why it failed.
pub async fn run(context: &TaskContext<'_>) -> StageResult<Completion> {
    match context.task.stage {
        Stage::Prepare => prepare::run(context).await,
        Stage::Transcribe => transcribe::run(context).await,
        Stage::Align => align::run(context).await,
        Stage::Diarize => diarize::run(context).await,
        Stage::Merge => merge::run(context).await,
    }
}

impl TaskContext<'_> {
    /// What the planner put in.
    fn request<T: DeserializeOwned>(&self) -> StageResult<T> {
        serde_json::from_value(self.task.request.clone()).map_err(|error| {
            TaskFailure::permanent("The task's request has a shape this version does not know.")
                .with_detail(error)
                .into()
        })
    }

    /// The engine and model of the task.
    fn model_key(&self) -> ModelKey {
        ModelKey {
            engine: self.task.engine.clone(),
            model: self.task.model.clone(),
        }
    }

    /// Where models run: `cpu` or `cuda`.
    fn device(&self) -> String {
        self.environment.runtime.device().as_str().to_owned()
    }

    /// Takes a model for use, unless the task is stopped while it waits.
    async fn acquire(&self, key: &ModelKey) -> StageResult<PooledModel<LoadedModel>> {
        tokio::select! {
            model = self.environment.models.acquire(key) => model,
            () = self.stop.stopped() => Err(StageError::Stopped),
        }
    }

    /// A local path of a prepared file.
    async fn fetch_prepared(&self, audio: &PreparedAudio) -> StageResult<PathBuf> {
        let path = self.scratch.file("prepared.wav");
        if path.is_file() {
            return Ok(path);
        }
        let key = ArtifactKey::from_stored(&audio.key);
        let storage = &self.environment.storage;
        self.scratch.fetch(storage, &key, "prepared.wav").await
    }

    /// The tasks of the job that have ended: those of these names, or all.
    async fn finished(&self, names: Option<&[&str]>) -> StageResult<Vec<FinishedTask>> {
        let pool = &self.environment.pool;
        wait_out(self.stop, || tasks::finished(pool, self.task.job_id, names)).await
    }

    /// What `prepare` answered.
    async fn prepared(&self) -> StageResult<PrepareResponse> {
        let finished = self.finished(Some(&[Stage::Prepare.as_str()])).await?;
        prepared(&finished)
    }
}

/// The prepared file of a channel, or of the mix.
fn channel_file(prepare: &PrepareResponse, channel: Option<u16>) -> StageResult<&PreparedAudio> {
    prepare
        .channel_files
        .iter()
        .find(|file| file.channel == channel)
        .ok_or_else(|| {
            StageError::permanent(match channel {
                Some(channel) => format!("The audio has no channel {channel}."),
                None => "The audio was prepared channel by channel; there is no mix.".to_owned(),
            })
        })
}

/// What `prepare` answered, among the finished tasks.
fn prepared(finished: &[FinishedTask]) -> StageResult<PrepareResponse> {
    let task = finished
        .iter()
        .find(|task| task.stage == Stage::Prepare && task.response.is_some())
        .ok_or_else(|| StageError::permanent("The prepared audio of this job is gone."))?;
    response(task)
}

/// A finished task's answer.
fn response<T: DeserializeOwned>(task: &FinishedTask) -> StageResult<T> {
    let json = task.response.as_ref().map_or("null", |json| json.get());
    serde_json::from_str(json).map_err(|error| {
        TaskFailure::permanent(format!(
            "The answer of {} has a shape this version does not know.",
            task.name
        ))
        .with_detail(error)
        .into()
    })
}

/// The completion of a stage that only answers.
fn answer<T: Serialize>(response: &T) -> StageResult<Completion> {
    Completion::answering(response).map_err(|error| {
        TaskFailure::permanent("The task's answer could not be written as JSON.")
            .with_detail(error)
            .into()
    })
}

/// Runs blocking work on its own thread; a panic there becomes a failure of the task.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> StageResult<T> + Send + 'static,
) -> StageResult<T> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => Err(TaskFailure::retryable(
            "The task crashed; this is a fault in the program.",
        )
        .with_detail(error)
        .into()),
    }
}
