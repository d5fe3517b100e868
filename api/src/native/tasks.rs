//! `GET …/{job_id}/tasks` and what each task was given and answered.

use dalston_schema::db::jobs::Retried;
use dalston_schema::db::tasks;
use dalston_schema::task::Task;
use dalston_schema::{JobId, TaskId, TaskStatus};
use poem::http::StatusCode;
use poem_openapi::param::Path;
use poem_openapi::payload::Json;
use poem_openapi::types::Any;
use poem_openapi::{Object, OpenApi};
use serde_json::json;
use uuid::Uuid;

use super::job_object::{engine_id, milliseconds};
use super::task_artifacts;
use super::transcriptions::{readable, refuse_without_audio};
use crate::auth::{Caller, Permission};
use crate::document::{FreeObject, Tag};
use crate::error::ApiError;
use crate::state::App;
use crate::timestamp::Timestamp;

/// A task.
#[derive(Debug, Object)]
#[oai(rename = "Task")]
pub struct TaskObject {
    /// The task.
    task_id: Uuid,
    /// Name of the step.
    stage: String,
    /// Engine that runs it.
    engine_id: String,
    /// Model that runs it.
    model_id: Option<String>,
    /// Why this engine and model were chosen.
    chosen_because: Option<String>,
    /// State.
    status: String,
    /// False when its failure only leaves a warning.
    required: bool,
    /// Tasks that must be done first.
    dependencies: Vec<Uuid>,
    /// When it began.
    started_at: Option<Timestamp>,
    /// When it ended.
    completed_at: Option<Timestamp>,
    /// Milliseconds between begin and end.
    duration_ms: Option<i64>,
    /// Failed attempts.
    retries: i32,
    /// Why it failed.
    error: Option<String>,
}

/// The tasks of a job, each after those it depends on.
#[derive(Debug, Object)]
pub struct TaskList {
    /// The job.
    job_id: Uuid,
    /// Its tasks.
    tasks: Vec<TaskObject>,
}

/// What a task was given and answered.
#[derive(Debug, Object)]
pub struct TaskArtifacts {
    /// The task.
    task_id: Uuid,
    /// Its job.
    job_id: Uuid,
    /// Name of the step.
    stage: String,
    /// Engine that runs it.
    engine_id: String,
    /// State.
    status: String,
    /// What it was given.
    request: Option<FreeObject>,
    /// What it answered; null until it is completed.
    response: Option<FreeObject>,
}

/// The task endpoints.
pub struct TasksApi(pub App);

#[OpenApi(tag = "Tag::Transcriptions")]
impl TasksApi {
    /// List the tasks of a job.
    #[oai(path = "/v1/audio/transcriptions/:job_id/tasks", method = "get")]
    async fn list(&self, caller: Caller, job_id: Path<Uuid>) -> Result<Json<TaskList>, ApiError> {
        let job = readable(&self.0, &caller, job_id.0).await?;
        let tasks = tasks::list(&self.0.pool, job.id).await?;
        Ok(Json(TaskList {
            job_id: job.id.0,
            tasks: tasks.into_iter().map(TaskObject::from).collect(),
        }))
    }

    /// Read what a task was given and answered.
    #[oai(
        path = "/v1/audio/transcriptions/:job_id/tasks/:task_id/artifacts",
        method = "get"
    )]
    async fn artifacts(
        &self,
        caller: Caller,
        job_id: Path<Uuid>,
        task_id: Path<Uuid>,
    ) -> Result<Json<TaskArtifacts>, ApiError> {
        let job = readable(&self.0, &caller, job_id.0)
            .await
            .map_err(|error| {
                if error.status_code() == StatusCode::NOT_FOUND {
                    missing("job_not_found", "Job not found")
                } else {
                    error
                }
            })?;
        let unknown = || missing("task_not_found", "Task not found");
        let tasks = tasks::list(&self.0.pool, job.id).await?;
        let task = tasks
            .iter()
            .find(|task| task.id.0 == task_id.0)
            .ok_or_else(unknown)?;
        if matches!(task.status, TaskStatus::Pending | TaskStatus::Ready) {
            return Err(ApiError::structured(
                StatusCode::BAD_REQUEST,
                json!({"code": "no_artifacts", "message": "Task has not started yet"}),
            ));
        }
        let payload = tasks::payload(&self.0.pool, job.id, task.id).await?;
        let before = task_artifacts::before(task, &tasks);
        let ids = before.iter().map(|task| task.id).collect();
        let answers = tasks::responses(&self.0.pool, job.id, ids).await?;
        let earlier = task_artifacts::earlier(before, answers);
        let (request, response) = payload.map_or((None, None), |payload| {
            let answer = payload.response.as_ref();
            (
                Some(task_artifacts::request(
                    &job,
                    task,
                    &payload.request,
                    &earlier,
                )),
                answer.map(|answer| task_artifacts::response(task, answer, &earlier)),
            )
        });
        Ok(Json(TaskArtifacts {
            task_id: task.id.0,
            job_id: job.id.0,
            stage: task.name.clone(),
            engine_id: engine_id(task),
            status: task.status.as_str().to_owned(),
            request: request.map(Any),
            response: response.map(Any),
        }))
    }

    /// Run a failed or skipped task of a finished job again, and everything that depends on it.
    #[oai(
        path = "/v1/audio/transcriptions/:job_id/tasks/:task_id/retry",
        method = "post"
    )]
    async fn retry(
        &self,
        caller: Caller,
        job_id: Path<Uuid>,
        task_id: Path<Uuid>,
    ) -> Result<Json<TaskList>, ApiError> {
        caller.require(Permission::JobUpdateOwn)?;
        let (job, task) = (JobId(job_id.0), TaskId(task_id.0));
        caller.take_request(&self.0).await?;
        let limit = self.0.config.limits.concurrent_jobs;
        match tasks::retry(&self.0.pool, caller.scope(), job, task, limit).await? {
            Retried::Done => {}
            Retried::Refused(status) => {
                refuse_without_audio(&self.0, &caller, job).await?;
                return Err(ApiError::conflict(format!(
                    "Cannot retry this task: its job is in '{status}' state, and only failed or skipped tasks of \
                     finished jobs can be retried."
                )));
            }
            Retried::NotFound => return Err(ApiError::not_found("Task not found")),
        }
        caller
            .audit(&self.0, "task.retried", ("task", task.to_string()), None)
            .await;
        let tasks = tasks::list(&self.0.pool, job).await?;
        Ok(Json(TaskList {
            job_id: job.0,
            tasks: tasks.into_iter().map(TaskObject::from).collect(),
        }))
    }
}

fn missing(code: &str, message: &str) -> ApiError {
    ApiError::structured(
        StatusCode::NOT_FOUND,
        json!({"code": code, "message": message}),
    )
}

impl From<Task> for TaskObject {
    fn from(task: Task) -> Self {
        Self {
            task_id: task.id.0,
            stage: task.name.clone(),
            engine_id: engine_id(&task),
            model_id: Some(task.model.clone()).filter(|model| !model.is_empty()),
            status: task.status.as_str().to_owned(),
            required: task.required,
            dependencies: task.dependencies.iter().map(|id| id.0).collect(),
            started_at: task.started_at.map(Into::into),
            completed_at: task.completed_at.map(Into::into),
            duration_ms: milliseconds(task.started_at, task.completed_at),
            retries: task.retries,
            error: task.error,
            chosen_because: task.chosen_because,
        }
    }
}
