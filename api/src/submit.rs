//! The only way a job is born: received audio and parameters become a plan, and the plan becomes rows in one
//! transaction.

use std::time::Duration;

use dalston_schema::db::jobs::{self, Submitted};
use dalston_schema::db::{DbError, workers};
use dalston_schema::job::{JobParameters, NewJob, UploadedAudio};
use dalston_schema::{JobId, TaskId};
use poem::http::StatusCode;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::auth::Caller;
use crate::error::ApiError;
use crate::form::Fields;
use crate::ingest::{Origin, Received};
use crate::plan::{AudioFacts, Plan, PlanError, PlanRefusal, plan};
use crate::state::App;

/// Priority of a job that does not say; lower runs first.
const NORMAL_PRIORITY: i16 = 100;
/// Time between two looks for a first worker.
const LOOK_FOR_WORKERS_EVERY: Duration = Duration::from_millis(100);

/// What is to be done with received audio.
#[derive(Clone, Debug)]
pub struct Order {
    /// What was asked for.
    pub parameters: JobParameters,
    /// Name shown to people.
    pub display_name: String,
    /// Days to keep the job (audio and transcript) after its end.
    pub retention_days: i32,
    /// The client's `Idempotency-Key` with the fingerprint of the request.
    pub idempotency: Option<Idempotency>,
}

/// A repeated submit with the same key and fingerprint is the same job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    key: String,
    fingerprint: String,
}

impl Idempotency {
    /// Reads an `Idempotency-Key`.
    ///
    /// # Errors
    /// 400 when it is longer than 255 characters or not printable.
    pub fn key(header: Option<&str>) -> Result<Option<String>, ApiError> {
        let Some(key) = header.map(str::trim).filter(|key| !key.is_empty()) else {
            return Ok(None);
        };
        if key.len() > 255
            || !key
                .bytes()
                .all(|byte| byte.is_ascii_graphic() || byte == b' ')
        {
            return Err(ApiError::bad_request(
                "Idempotency-Key must be at most 255 printable ASCII characters",
            ));
        }
        Ok(Some(key.to_owned()))
    }

    /// The key with a fingerprint over the endpoint, the texts of the form and the bytes (or URL) of the audio.
    #[must_use]
    pub fn of(key: String, endpoint: &str, fields: &Fields, origin: &Origin) -> Self {
        let seen = json!([endpoint, fields.sorted(), origin.fingerprint]);
        Self {
            key,
            fingerprint: hex::encode(Sha256::digest(seen.to_string())),
        }
    }
}

/// Why a job was not born.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// No model present can do it.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The database refused or failed.
    #[error(transparent)]
    Database(#[from] DbError),
}

impl SubmitError {
    /// The error in the standard shape.
    #[must_use]
    pub fn into_standard(self) -> ApiError {
        match self {
            Self::Database(error) => error.into(),
            Self::Plan(error) => match error.reason {
                PlanRefusal::UnknownModel => ApiError::not_found(format!(
                    "Model not found: {}. Use GET /v1/models to see available models.",
                    error.requested
                )),
                PlanRefusal::AbsentModel => ApiError::not_found(sentence(&error.message)),
                PlanRefusal::Unsuitable => ApiError::bad_request(sentence(&error.message)),
                PlanRefusal::NothingOffered => ApiError::standard(
                    StatusCode::SERVICE_UNAVAILABLE,
                    format!(
                        "No worker is ready: {}. Start one with `dalston worker`.",
                        error.message.trim_end_matches('.')
                    ),
                ),
            },
        }
    }

    /// The error in OpenAI's shape, with its code for models.
    #[must_use]
    pub fn into_openai(self) -> ApiError {
        let missing = match &self {
            Self::Plan(error) => matches!(
                error.reason,
                PlanRefusal::UnknownModel | PlanRefusal::AbsentModel
            ),
            Self::Database(_) => false,
        };
        let error = self.into_standard();
        if !missing {
            return error.into_openai();
        }
        ApiError::openai(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("model_not_found"),
            error.message(),
            Some("model"),
        )
    }
}

/// An explanation as a sentence of its own.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let mut sentence: String = letters
        .next()
        .map(|first| first.to_uppercase().collect())
        .unwrap_or_default();
    sentence.push_str(letters.as_str());
    if !sentence.ends_with(['.', '`']) {
        sentence.push('.');
    }
    sentence
}

/// Makes the job, or finds the one that the same `Idempotency-Key` made before. The received audio is the job's
/// afterwards, or deleted.
///
/// # Errors
/// [`SubmitError`]; the audio is deleted then.
pub async fn submit(
    app: &App,
    caller: &Caller,
    received: Received,
    audio: UploadedAudio,
    order: Order,
) -> Result<Submitted, SubmitError> {
    let submitted = insert(app, caller, received.job(), audio, order).await;
    match &submitted {
        Ok(Submitted::Created(id)) => {
            received.keep();
            metrics::counter!("dalston_gateway_jobs_created_total").increment(1);
            tracing::info!(job.id = %id, "accepted job {id}");
            caller
                .audit(app, "job.created", ("job", id.to_string()), None)
                .await;
        }
        Ok(Submitted::Existing(_)) | Err(_) => received.discard().await,
    }
    submitted
}

async fn insert(
    app: &App,
    caller: &Caller,
    id: JobId,
    audio: UploadedAudio,
    order: Order,
) -> Result<Submitted, SubmitError> {
    let facts = AudioFacts {
        channels: audio.channels,
        duration: audio.duration,
    };
    let mut parameters = order.parameters;
    parameters.chunking.get_or_insert(app.config.chunking);
    let Plan { tasks, warnings } = plan_now_or_soon(app, &parameters, &facts).await?;
    // What the form could not give is a warning as well as what the plan cannot.
    parameters.planning_warnings.extend(warnings);
    // Keys belong to their caller: what one sends must never find the job of another.
    let caller_id = caller.principal().key.id;
    let (idempotency_key, idempotency_fingerprint) = order
        .idempotency
        .map(|idempotency| {
            (
                format!("{caller_id}:{}", idempotency.key),
                idempotency.fingerprint,
            )
        })
        .unzip();
    let job = NewJob {
        id,
        tenant_id: caller.tenant(),
        created_by: caller.owner(),
        display_name: order.display_name,
        parameters,
        audio,
        priority: NORMAL_PRIORITY,
        retention_days: order.retention_days,
        idempotency_key,
        idempotency_fingerprint,
        request_id: Some(caller.request_id.clone()),
        tasks,
    };
    Ok(jobs::submit(&app.pool, &job, app.config.limits.concurrent_jobs).await?)
}

/// Plans with what the workers offer. Right after a start there may be no worker yet: then it waits a little for one.
async fn plan_now_or_soon(
    app: &App,
    parameters: &JobParameters,
    audio: &AudioFacts,
) -> Result<Plan, SubmitError> {
    let when_missing = app.config.when_missing;
    let deadline = tokio::time::Instant::now() + app.config.capability_wait;
    loop {
        let offered = workers::offered(&app.pool).await?;
        match plan(
            parameters,
            audio,
            &offered,
            when_missing,
            &mut TaskId::generate,
        ) {
            Ok(plan) => return Ok(plan),
            Err(error)
                if error.reason == PlanRefusal::NothingOffered
                    && tokio::time::Instant::now() < deadline =>
            {
                tokio::time::sleep(LOOK_FOR_WORKERS_EVERY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
