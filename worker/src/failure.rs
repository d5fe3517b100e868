//! Why a task did not end well: whether another attempt may help, and words a user can act on.

use std::io;

use dalston_audio::AudioError;
use dalston_engines::EngineError;
use dalston_schema::db::DbError;
use dalston_schema::storage::StorageError;

/// Whether another attempt may end differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Trouble around the task: a network, a disk, a process. Another attempt may help.
    Worthwhile,
    /// The input or the installation is at fault. Another attempt ends the same way.
    Pointless,
}

/// A failed attempt.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct TaskFailure {
    /// For the user: what went wrong and what to change.
    pub message: String,
    /// Whether to try again.
    pub retry: Retry,
    /// For the log: what was behind it, when the message does not say.
    pub detail: Option<String>,
}

/// How a stage ended without a response.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The task was stopped from outside; [`crate::stop::Stop::reason`] says why.
    #[error("stopped")]
    Stopped,
    /// The attempt failed.
    #[error(transparent)]
    Failed(#[from] TaskFailure),
}

/// What a stage gives.
pub type StageResult<T> = Result<T, StageError>;

impl TaskFailure {
    /// A failure that another attempt may cure.
    #[must_use]
    pub fn retryable(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            retry: Retry::Worthwhile,
            detail: None,
        }
    }

    /// A failure that another attempt cannot cure.
    #[must_use]
    pub fn permanent(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            retry: Retry::Pointless,
            detail: None,
        }
    }

    /// Adds what only the log should say.
    #[must_use]
    pub fn with_detail(mut self, detail: impl ToString) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// Names the model that it is about.
    #[must_use]
    pub fn of_model(mut self, id: &str) -> Self {
        self.message = format!("The model {id} cannot be used: {}", self.message);
        self
    }
}

impl StageError {
    /// A failure that another attempt may cure.
    #[must_use]
    pub fn retryable(message: impl Into<String>) -> Self {
        TaskFailure::retryable(message).into()
    }

    /// A failure that another attempt cannot cure.
    #[must_use]
    pub fn permanent(message: impl Into<String>) -> Self {
        TaskFailure::permanent(message).into()
    }
}

/// Trouble with the worker's own scratch folder.
pub fn scratch_failed(error: &io::Error) -> StageError {
    if matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    ) {
        return StageError::retryable(
            "The worker's disk is full. Free space in its scratch folder; the task is tried again.",
        );
    }
    TaskFailure::retryable("The worker could not use its scratch folder.")
        .with_detail(error)
        .into()
}

impl From<StorageError> for StageError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::NotFound(key) => TaskFailure::permanent(
                "The audio is no longer in the object store; submit the file again.",
            )
            .with_detail(key)
            .into(),
            StorageError::Full => Self::retryable(
                "The object store is full. Free space there; the task is tried again.",
            ),
            StorageError::Source(error) => scratch_failed(&error),
            other @ (StorageError::TooLarge { .. }
            | StorageError::Store(_)
            | StorageError::Config(_)) => {
                TaskFailure::retryable("The object store did not answer as it should.")
                    .with_detail(chain(&other))
                    .into()
            }
        }
    }
}

impl From<DbError> for StageError {
    fn from(error: DbError) -> Self {
        let failure = if error.is_transient() {
            TaskFailure::retryable("The database could not be reached.")
        } else {
            TaskFailure::permanent("The task could not be read from the database.")
        };
        failure.with_detail(error).into()
    }
}

impl From<AudioError> for StageError {
    fn from(error: AudioError) -> Self {
        match error {
            AudioError::Cancelled => Self::Stopped,
            AudioError::Io(error) => scratch_failed(&error),
            other => Self::permanent(other.to_string()),
        }
    }
}

impl From<EngineError> for StageError {
    fn from(error: EngineError) -> Self {
        let text = error.to_string();
        match error {
            EngineError::Cancelled => Self::Stopped,
            EngineError::InvalidRequest(_) => Self::permanent(text),
            // Another worker, or this one after a restart, may have what is missing here.
            EngineError::Audio(_) => {
                TaskFailure::retryable("The prepared audio could not be read.")
                    .with_detail(text)
                    .into()
            }
            EngineError::TimeLimit { .. } | EngineError::Unloaded => Self::retryable(text),
            // Paths of the server and what the runtime says of them are for the log.
            EngineError::Graph { .. } => {
                TaskFailure::retryable("ONNX Runtime could not load or run one of its graphs.")
                    .with_detail(text)
                    .into()
            }
            EngineError::RuntimeMissing { .. }
            | EngineError::RuntimeUnusable { .. }
            | EngineError::CudaUnavailable { .. } => TaskFailure::permanent(
                "ONNX Runtime cannot be used on the worker; its log says why.",
            )
            .with_detail(text)
            .into(),
            EngineError::ModelFileMissing { file, .. } => TaskFailure::permanent(format!(
                "It has no {file}; its worker's log says what to do."
            ))
            .with_detail(text)
            .into(),
            EngineError::ModelInvalid { path, .. } => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                TaskFailure::permanent(format!("{name} is damaged or of an unknown kind."))
                    .with_detail(text)
                    .into()
            }
        }
    }
}

/// An error with its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(current) = cause {
        text.push_str(": ");
        text.push_str(&current.to_string());
        cause = current.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retry(error: StageError) -> Option<Retry> {
        match error {
            StageError::Stopped => None,
            StageError::Failed(failure) => Some(failure.retry),
        }
    }

    #[test]
    fn each_kind_of_trouble_is_retried_only_when_that_can_help() {
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        for (error, expected) in [
            (StorageError::Full.into(), Some(Retry::Worthwhile)),
            (StorageError::Source(full()).into(), Some(Retry::Worthwhile)),
            (
                StorageError::NotFound("jobs/x".into()).into(),
                Some(Retry::Pointless),
            ),
            (AudioError::Io(full()).into(), Some(Retry::Worthwhile)),
            (
                AudioError::unreadable("it is text").into(),
                Some(Retry::Pointless),
            ),
            (AudioError::Cancelled.into(), None),
            (EngineError::Cancelled.into(), None),
            (EngineError::Unloaded.into(), Some(Retry::Worthwhile)),
            (
                EngineError::InvalidRequest("no such language".into()).into(),
                Some(Retry::Pointless),
            ),
        ] {
            let text = format!("{error:?}");
            assert_eq!(retry(error), expected, "{text}");
        }
    }

    #[test]
    fn a_broken_model_is_named_and_its_place_on_the_server_is_not() {
        let error = StageError::from(EngineError::ModelInvalid {
            path: "/srv/models/voice/model.onnx".into(),
            message: "no graph".to_owned(),
        });
        let StageError::Failed(failure) = error else {
            panic!("{error:?}");
        };
        let failure = failure.of_model("voice");
        assert_eq!(
            failure.message,
            "The model voice cannot be used: model.onnx is damaged or of an unknown kind."
        );
        assert!(
            failure
                .detail
                .is_some_and(|detail| detail.contains("/srv/models"))
        );
    }

    #[test]
    fn a_full_disk_says_what_to_do_about_it() {
        let error = StageError::from(StorageError::Full);
        assert!(error.to_string().contains("Free space"));
    }
}
