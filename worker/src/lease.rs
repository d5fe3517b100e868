//! The leases this worker holds. One loop keeps them: a heartbeat extends all in one statement and carries progress, a
//! cheap read between heartbeats notices cancellation, and a lease that could not be extended in time counts as lost.
//!
//! A lost lease is not a failure: the task is stopped and nothing is recorded, because somebody else has it or will.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dalston_schema::db::tasks::{self, LeaseState};
use dalston_schema::db::{DbError, PgPool};
use dalston_schema::task::{Lease, Progress};
use dalston_schema::{TaskId, WorkerId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::stop::{Stop, StopReason};

/// After a heartbeat that failed the next one comes this soon.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// How leases are kept.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    /// How long a lease holds without being extended.
    pub lease: Duration,
    /// How often leases are extended.
    pub heartbeat: Duration,
    /// How often cancellation is looked for in between.
    pub cancel_check: Duration,
}

/// All leases of this worker. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    held: Arc<Mutex<HashMap<TaskId, Held>>>,
}

#[derive(Clone, Debug)]
struct Held {
    lease: Lease,
    stop: Stop,
    progress: ProgressMeter,
    /// When the statement that last extended it was sent, so the database's own expiry is never earlier than
    /// this plus the lease.
    extended_at: Instant,
}

/// One lease of a running task; dropping it ends the keeping of it.
#[derive(Debug)]
pub struct HeldLease {
    /// The task and its fencing token.
    pub lease: Lease,
    /// Stops the task.
    pub stop: Stop,
    /// Where the task says how far it is.
    pub progress: ProgressMeter,
    leases: Leases,
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        let mut held = self.leases.held();
        // The same task may have been claimed again by this worker under a newer token.
        if held
            .get(&self.lease.task_id)
            .is_some_and(|held| held.lease == self.lease)
        {
            held.remove(&self.lease.task_id);
        }
    }
}

/// How far a task is; clones share it. Only grows.
#[derive(Clone, Debug, Default)]
pub struct ProgressMeter(Arc<Mutex<Progress>>);

impl ProgressMeter {
    /// Says how many seconds of audio are done, and of how many.
    pub fn report(&self, done_seconds: f64, total_seconds: f64) {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        progress.total_seconds = total_seconds;
        progress.done_seconds = progress
            .done_seconds
            .max(done_seconds.clamp(0.0, total_seconds.max(0.0)));
    }

    /// The last report.
    #[must_use]
    pub fn get(&self) -> Progress {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leases {
    fn held(&self) -> MutexGuard<'_, HashMap<TaskId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts keeping a lease; `claimed_at` is when the claim was sent.
    #[must_use]
    pub fn hold(&self, lease: Lease, claimed_at: Instant) -> HeldLease {
        let stop = Stop::default();
        let progress = ProgressMeter::default();
        let former = self.held().insert(
            lease.task_id,
            Held {
                lease,
                stop: stop.clone(),
                progress: progress.clone(),
                extended_at: claimed_at,
            },
        );
        if let Some(former) = former {
            former.stop.stop(StopReason::LeaseLost);
        }
        HeldLease {
            lease,
            stop,
            progress,
            leases: self.clone(),
        }
    }

    /// How many tasks are running.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held().len()
    }

    /// Stops every running task.
    pub fn stop_all(&self, reason: StopReason) {
        for held in self.held().values() {
            held.stop.stop(reason);
        }
    }

    /// Keeps all leases until `end`.
    pub async fn keep(
        &self,
        pool: &PgPool,
        worker: WorkerId,
        times: LeaseTimes,
        end: &CancellationToken,
    ) {
        let mut next_beat = Instant::now() + times.heartbeat;
        let mut reachable = true;
        loop {
            let tick = next_beat.min(Instant::now() + times.cancel_check);
            tokio::select! {
                () = tokio::time::sleep_until(tick) => {}
                () = end.cancelled() => return,
            }
            let result = if Instant::now() >= next_beat {
                let result = self.extend(pool, worker, times).await;
                next_beat = Instant::now()
                    + match result {
                        Ok(()) => times.heartbeat,
                        Err(_) => RETRY_INTERVAL.min(times.heartbeat),
                    };
                result
            } else {
                self.check(pool, times).await
            };
            match (&result, reachable) {
                (Err(error), true) => {
                    tracing::warn!(%error, "leases could not be kept; trying again until they run out");
                }
                (Ok(()), false) => tracing::info!("leases are being kept again"),
                (Ok(()), true) | (Err(_), false) => {}
            }
            reachable = result.is_ok();
            self.expire(times.lease);
        }
    }

    /// One heartbeat for all leases.
    async fn extend(
        &self,
        pool: &PgPool,
        worker: WorkerId,
        times: LeaseTimes,
    ) -> Result<(), KeepError> {
        let leases: Vec<(Lease, Progress)> = self
            .held()
            .values()
            .map(|held| (held.lease, held.progress.get()))
            .collect();
        if leases.is_empty() {
            return Ok(());
        }
        let sent_at = Instant::now();
        let states = in_time(
            times,
            tasks::extend(pool, worker, &leases, times.lease.as_secs_f64()),
        )
        .await?;
        self.apply(
            leases.iter().map(|(lease, _)| *lease),
            &states,
            Some(sent_at),
        );
        Ok(())
    }

    /// One look for cancelled jobs and lost leases.
    async fn check(&self, pool: &PgPool, times: LeaseTimes) -> Result<(), KeepError> {
        let leases: Vec<Lease> = self.held().values().map(|held| held.lease).collect();
        if leases.is_empty() {
            return Ok(());
        }
        let states = in_time(times, tasks::check(pool, &leases)).await?;
        self.apply(leases.iter().copied(), &states, None);
        Ok(())
    }

    fn apply(
        &self,
        leases: impl Iterator<Item = Lease>,
        states: &[LeaseState],
        sent_at: Option<Instant>,
    ) {
        let mut all = self.held();
        for (lease, state) in leases.zip(states) {
            // Released or claimed anew while the statement ran.
            let Some(held) = all
                .get_mut(&lease.task_id)
                .filter(|held| held.lease == lease)
            else {
                continue;
            };
            match state {
                LeaseState::Held => held.extended_at = sent_at.unwrap_or(held.extended_at),
                LeaseState::Lost => held.stop.stop(StopReason::LeaseLost),
                LeaseState::Cancelled => held.stop.stop(StopReason::JobCancelled),
            }
        }
    }

    /// Takes every lease for lost that the database may have let run out.
    fn expire(&self, lease: Duration) {
        for held in self.held().values() {
            if held.extended_at.elapsed() >= lease && held.stop.reason().is_none() {
                tracing::warn!(
                    task.id = %held.lease.task_id,
                    "task {} is stopped: its lease could not be extended in time",
                    held.lease.task_id
                );
                held.stop.stop(StopReason::LeaseLost);
            }
        }
    }
}

/// Bounds a statement, so that a connection that hangs does not keep the loop from noticing that leases ran out.
async fn in_time<T>(
    times: LeaseTimes,
    statement: impl Future<Output = Result<T, DbError>>,
) -> Result<T, KeepError> {
    let limit = times.lease / 4;
    match tokio::time::timeout(limit, statement).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(KeepError::TimedOut(limit)),
    }
}

/// Why leases could not be kept this time.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Database(#[from] DbError),
    #[error("the database did not answer within {0:?}")]
    TimedOut(Duration),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn lease(token: i64) -> Lease {
        Lease {
            task_id: TaskId(Default::default()),
            token,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_extended_in_time_counts_as_lost() {
        let leases = Leases::default();
        let held = leases.hold(lease(1), Instant::now());
        let limit = Duration::from_secs(30);
        tokio::time::advance(Duration::from_secs(29)).await;
        leases.expire(limit);
        assert_eq!(held.stop.reason(), None);
        leases.apply(
            [held.lease].into_iter(),
            &[LeaseState::Held],
            Some(Instant::now()),
        );
        tokio::time::advance(Duration::from_secs(29)).await;
        leases.expire(limit);
        assert_eq!(held.stop.reason(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        leases.expire(limit);
        assert_eq!(held.stop.reason(), Some(StopReason::LeaseLost));
    }

    #[tokio::test]
    async fn answers_stop_exactly_the_tasks_they_are_about() {
        let leases = Leases::default();
        let held = leases.hold(lease(2), Instant::now());
        // An answer about an earlier claim of the same task says nothing about this one.
        leases.apply([lease(1)].into_iter(), &[LeaseState::Lost], None);
        assert_eq!(held.stop.reason(), None);
        leases.apply([lease(2)].into_iter(), &[LeaseState::Cancelled], None);
        assert_eq!(held.stop.reason(), Some(StopReason::JobCancelled));
    }

    #[tokio::test]
    async fn a_task_claimed_again_stops_its_former_self_and_outlives_it() {
        let leases = Leases::default();
        let former = leases.hold(lease(1), Instant::now());
        let current = leases.hold(lease(2), Instant::now());
        assert_eq!(former.stop.reason(), Some(StopReason::LeaseLost));
        drop(former);
        assert_eq!(leases.count(), 1);
        drop(current);
        assert_eq!(leases.count(), 0);
    }

    #[test]
    fn progress_only_grows_and_stays_within_its_total() {
        let meter = ProgressMeter::default();
        meter.report(5.0, 10.0);
        meter.report(3.0, 10.0);
        assert_eq!(meter.get().done_seconds, 5.0);
        meter.report(99.0, 10.0);
        assert_eq!(meter.get().done_seconds, 10.0);
    }
}
