//! Ends a piece of work from outside: work that runs in its caller's thread, one model call after another, is stopped
//! in the middle of a call when its cancel flag is raised or its time is up.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::error::{EngineError, Result};
use crate::session::RunGuard;
use crate::transcriber::default_time_limit;
use crate::transcription::Control;

/// How often the cancel flag is looked at: well under the second a cancellation may take.
const CANCEL_POLL: Duration = Duration::from_millis(20);

/// Does `work` in this thread under a guard that is stopped as soon as `control` is cancelled or the time limit is
/// over; `None` derives the limit from the audio ([`default_time_limit`]). Every model call of the work must run under
/// the guard it is given, and loops of its own should ask [`RunGuard::check`].
///
/// # Errors
/// [`EngineError::Cancelled`] or [`EngineError::TimeLimit`] when the work was ended, else what it answers.
pub fn watched<T>(
    control: &Control,
    time_limit: Option<Duration>,
    audio_seconds: f64,
    work: impl FnOnce(&RunGuard) -> Result<T>,
) -> Result<T> {
    let limit = time_limit.unwrap_or_else(|| default_time_limit(audio_seconds));
    let deadline = Instant::now() + limit;
    let guard = RunGuard::new()?;
    if control.cancel.is_cancelled() {
        return Err(EngineError::Cancelled);
    }
    let (outcome, ended) = std::thread::scope(|scope| {
        let (done, wait) = channel::<()>();
        let watcher = {
            let guard = guard.clone();
            scope.spawn(move || {
                while wait.recv_timeout(CANCEL_POLL) == Err(RecvTimeoutError::Timeout) {
                    let why = if control.cancel.is_cancelled() {
                        EngineError::Cancelled
                    } else if Instant::now() >= deadline {
                        EngineError::TimeLimit {
                            limit_s: limit.as_secs_f64(),
                            audio_s: audio_seconds,
                        }
                    } else {
                        continue;
                    };
                    guard.stop();
                    return Some(why);
                }
                None
            })
        };
        let outcome = work(&guard);
        drop(done);
        (outcome, watcher.join().ok().flatten())
    });
    match (outcome, ended) {
        (Err(_), Some(why)) => Err(why),
        (outcome, _) => outcome,
    }
}
