//! Errors of others (the database, the object store, the web framework) as answers of ours.

use dalston_schema::db::DbError;
use dalston_schema::storage::StorageError;
use poem::http::{HeaderValue, StatusCode, header};
use serde_json::Value;

use super::{ApiError, InvalidValue};

impl From<DbError> for ApiError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::IdempotencyMismatch => Self::standard(
                StatusCode::UNPROCESSABLE_ENTITY,
                "This Idempotency-Key was used with a different request. Use a new key for a new request.",
            ),
            DbError::JobLimit { limit } => Self::standard(
                StatusCode::TOO_MANY_REQUESTS,
                format!("Concurrent job limit exceeded ({limit} max)"),
            ),
            error if error.is_transient() => {
                tracing::warn!(%error, "the database did not answer");
                Self::standard(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "The database is not available at the moment. Try again shortly.",
                )
                .with_header(header::RETRY_AFTER, &HeaderValue::from_static("2"))
            }
            error => Self::internal(&error),
        }
    }
}

impl From<StorageError> for ApiError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Full => Self::storage_full(),
            error => Self::internal(&error),
        }
    }
}

/// Turns an error of the web framework (routing, parameters, bodies) into one of our shapes.
#[must_use]
pub fn from_framework(error: &poem::Error, path: &str) -> ApiError {
    use poem_openapi::error::{
        ContentTypeError, ParseMultipartError, ParseParamError, ParsePathError,
        ParseRequestPayloadError,
    };
    let one = |place, name: &str, message: String| {
        ApiError::invalid(vec![InvalidValue {
            place,
            name: name.to_owned(),
            message,
            input: Value::Null,
        }])
    };
    if let Some(error) = error.downcast_ref::<ApiError>() {
        return error.clone();
    }
    if let Some(error) = error.downcast_ref::<ParsePathError>() {
        return one(
            "path",
            path_parameter(error.name, path),
            error.reason.clone(),
        );
    }
    if let Some(error) = error.downcast_ref::<ParseParamError>() {
        return one("query", error.name, error.reason.clone());
    }
    if let Some(error) = error.downcast_ref::<ParseRequestPayloadError>() {
        return one("body", "", error.reason.clone());
    }
    if let Some(error) = error.downcast_ref::<ParseMultipartError>() {
        return one("body", "", error.reason.clone());
    }
    if let Some(error) = error.downcast_ref::<ContentTypeError>() {
        return one("header", "content-type", error.to_string());
    }
    match error.status() {
        StatusCode::NOT_FOUND => ApiError::detail(StatusCode::NOT_FOUND, "Not Found"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ApiError::detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed")
        }
        status if status.is_client_error() => ApiError::standard(status, error.to_string()),
        status if status.is_server_error() => {
            tracing::error!(%error, "request failed inside the server");
            ApiError::standard(
                StatusCode::INTERNAL_SERVER_ERROR,
                "An internal error occurred",
            )
        }
        status => ApiError::standard(status, error.to_string()),
    }
}

/// The framework counts path parameters; clients know them by name. Only ids can fail to parse.
fn path_parameter<'a>(counted: &'a str, path: &str) -> &'a str {
    match counted {
        "param0" if path.starts_with("/auth/keys/") => "key_id",
        "param0" => "job_id",
        "param1" => "task_id",
        name => name,
    }
}
