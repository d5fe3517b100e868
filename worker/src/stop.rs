//! The hand that stops one running task. Async code awaits it, model calls see its flag, and whoever stopped it first
//! decides why: the reason says what is recorded afterwards.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use dalston_engines::CancelFlag;
use tokio_util::sync::CancellationToken;

/// Why a task was stopped before it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The lease belongs to somebody else, or must be taken to: nothing is recorded.
    LeaseLost,
    /// The job is being cancelled: the task is given back, which records the cancellation.
    JobCancelled,
    /// The worker is shutting down: the task is given back and does not count as an attempt.
    Shutdown,
    /// The task ran longer than its audio allows: it fails, and may be tried again.
    TimeLimit,
}

/// Stops one task; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    token: CancellationToken,
    flag: CancelFlag,
    raised: Arc<AtomicBool>,
    reason: Arc<OnceLock<StopReason>>,
}

impl Stop {
    /// Stops the task. The first reason stays.
    pub fn stop(&self, reason: StopReason) {
        self.reason.get_or_init(|| reason);
        self.raised.store(true, Ordering::SeqCst);
        self.flag.cancel();
        self.token.cancel();
    }

    /// Why it was stopped, if it was.
    #[must_use]
    pub fn reason(&self) -> Option<StopReason> {
        self.reason.get().copied()
    }

    /// Waits until it is stopped.
    pub async fn stopped(&self) {
        self.token.cancelled().await;
    }

    /// The flag that model calls look at.
    #[must_use]
    pub fn flag(&self) -> &CancelFlag {
        &self.flag
    }

    /// The flag that audio decoding looks at.
    #[must_use]
    pub fn raised(&self) -> &AtomicBool {
        &self.raised
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_and_every_flag_is_up() {
        let stop = Stop::default();
        assert_eq!(stop.reason(), None);
        let clone = stop.clone();
        clone.stop(StopReason::JobCancelled);
        stop.stop(StopReason::LeaseLost);
        assert_eq!(stop.reason(), Some(StopReason::JobCancelled));
        assert!(stop.flag().is_cancelled());
        assert!(stop.raised().load(Ordering::SeqCst));
    }
}
