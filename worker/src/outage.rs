//! Reads of a running task that wait out an outage of the database, so that an outage shorter than the lease costs no
//! attempt.

use std::time::Duration;

use dalston_schema::db::DbError;

use crate::backoff::Backoff;
use crate::failure::{StageError, StageResult};
use crate::stop::Stop;

/// Asks until the database answers.
///
/// # Errors
/// [`StageError::Stopped`] when the task is stopped meanwhile, else an error that asking again would not change.
pub async fn wait_out<T, F>(stop: &Stop, ask: impl Fn() -> F) -> StageResult<T>
where
    F: Future<Output = Result<T, DbError>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) if error.is_transient() => {
                if !backoff.is_failing() {
                    tracing::warn!(%error, "the database could not be read; trying again while the lease holds");
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            () = stop.stopped() => return Err(StageError::Stopped),
        }
    }
}
