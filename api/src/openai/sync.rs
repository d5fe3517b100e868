//! Waits for a job on behalf of a caller that wants the text and nothing else.

use dalston_schema::db::jobs;
use dalston_schema::{JobId, JobStatus, Transcript};
use poem::Response;
use poem::http::{HeaderName, HeaderValue, StatusCode};

use super::request::{Endpoint, OpenAiRequest};
use super::{response, stream};
use crate::auth::RequestBudget;
use crate::error::ApiError;
use crate::state::App;

/// Tells the official clients that asking again would only do the same work again.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Answers a request whose job was submitted: with events at once, or with the body when the job is done.
///
/// # Errors
/// In OpenAI's shape: 500 when the job failed, 400 when it was cancelled, 408 when it takes too long.
pub async fn answer(
    app: &App,
    job: JobId,
    request: OpenAiRequest,
    budget: RequestBudget,
) -> Result<Response, ApiError> {
    let mut response = if request.stream {
        stream::answer(app.clone(), job, request)
    } else {
        let transcript = transcript_of(app, job, request.endpoint).await?;
        response::answer(&request, &transcript)
    };
    response.headers_mut().extend(budget.headers());
    Ok(response)
}

/// Waits for the transcript of a job.
///
/// # Errors
/// As [`answer`].
pub async fn transcript_of(
    app: &App,
    job: JobId,
    endpoint: Endpoint,
) -> Result<Transcript, ApiError> {
    let noun = endpoint.noun();
    let waiting = tokio::time::timeout(app.config.sync_timeout, app.watch.until_final(job));
    let waited = tokio::select! {
        waited = waiting => waited,
        () = app.stopping.cancelled() => return Err(stopping(noun, job)),
    };
    let status = match waited {
        Ok(status) => status.map_err(|error| ApiError::from(error).into_openai())?,
        Err(_) => {
            let message = format!(
                "{noun} timed out after {} s. It goes on as job {job}: see GET /v1/audio/transcriptions/{job}.",
                app.config.sync_timeout.as_secs()
            );
            let error = ApiError::openai(
                StatusCode::REQUEST_TIMEOUT,
                "timeout_error",
                Some("timeout"),
                message,
                None,
            );
            return Err(final_word(error));
        }
    };
    match status {
        Some(JobStatus::Completed) => match jobs::transcript(&app.pool, job).await {
            Ok(Some(transcript)) => Ok(transcript),
            Ok(None) => Err(failed(noun, "the transcript was purged")),
            Err(error) => Err(ApiError::from(error).into_openai()),
        },
        Some(JobStatus::Cancelled) | None => {
            let error = ApiError::openai(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                Some("cancelled"),
                format!("{noun} was cancelled"),
                None,
            );
            Err(final_word(error))
        }
        Some(_) => {
            let job = jobs::get_unscoped(&app.pool, job).await;
            let why = job.ok().flatten().and_then(|job| job.error);
            Err(failed(noun, why.as_deref().unwrap_or("unknown error")))
        }
    }
}

fn stopping(noun: &str, job: JobId) -> ApiError {
    let message = format!(
        "The server is stopping. {noun} goes on as job {job}: see GET /v1/audio/transcriptions/{job}."
    );
    let status = StatusCode::SERVICE_UNAVAILABLE;
    final_word(ApiError::standard(status, message).into_openai())
}

fn failed(noun: &str, why: &str) -> ApiError {
    let error = ApiError::openai(
        StatusCode::INTERNAL_SERVER_ERROR,
        "server_error",
        Some("processing_failed"),
        format!("{noun} failed: {why}"),
        None,
    );
    final_word(error)
}

fn final_word(error: ApiError) -> ApiError {
    error.with_header(SHOULD_RETRY, &HeaderValue::from_static("false"))
}
