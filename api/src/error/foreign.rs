//! Errors of others (the database, the object store) as answers of ours.

use dalston_schema::db::DbError;
use dalston_schema::storage::StorageError;
use poem::http::{HeaderValue, StatusCode, header};

use super::ApiError;

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
            error if error.is_unstorable_text() => Self::standard(
                StatusCode::UNPROCESSABLE_ENTITY,
                "A text holds a NUL character, which cannot be stored. Send it without.",
            ),
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
