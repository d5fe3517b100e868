//! The stages this worker runs. Each is given its task's surroundings and answers what its dependants read.

mod merge;
mod prepare;
mod transcribe;

use dalston_schema::Stage;
use dalston_schema::db::tasks::{self, Completion};
use dalston_schema::job::Job;
use dalston_schema::task::{ClaimedTask, FinishedTask, PrepareResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::environment::Environment;
use crate::failure::{StageError, StageResult, TaskFailure};
use crate::lease::ProgressMeter;
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
        Stage::Merge => merge::run(context).await,
        stage @ (Stage::Align | Stage::Diarize) => Err(StageError::permanent(format!(
            "This worker has no engine for the stage {stage}."
        ))),
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

    /// The tasks of the job that have ended.
    async fn finished(&self) -> StageResult<Vec<FinishedTask>> {
        let pool = &self.environment.pool;
        wait_out(self.stop, || tasks::finished(pool, self.task.job_id)).await
    }
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
    let value = task.response.clone().unwrap_or_default();
    serde_json::from_value(value).map_err(|error| {
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
    Ok(Completion {
        response: serde_json::to_value(response).map_err(|error| {
            StageError::from(
                TaskFailure::permanent("The task's answer could not be written as JSON.")
                    .with_detail(error),
            )
        })?,
        fan_out: Vec::new(),
        before: Vec::new(),
        transcript: None,
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
