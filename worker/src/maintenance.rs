//! What must happen from time to time so that nothing is lost and nothing piles up. One loop each.
//!
//! Every worker runs them. They are safe side by side: the database lets processes pass over each other's rows,
//! deleting an object twice is harmless, and what is dear is done by one process at a time. While no worker is up
//! nothing is rescued or purged; there is also nobody to run what would be rescued, and the next worker catches up at
//! its start.

mod forget_workers;
mod purge_jobs;
mod rescue_tasks;
mod sweep_orphans;
mod trim_logs;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::{Backoff, jittered};
use crate::environment::Environment;

/// Runs every loop until `end`.
pub fn spawn(loops: &TaskTracker, environment: &Arc<Environment>, end: &CancellationToken) {
    let config = &environment.config;
    let (rescue, retention, sweep) = (
        config.rescue_interval,
        config.retention_interval,
        config.sweep_interval,
    );
    let start = |name, interval, first, round: Round| {
        let (environment, end) = (Arc::clone(environment), end.clone());
        loops.spawn(async move { repeat(name, interval, first, &environment, &end, round).await });
    };
    start("rescue_tasks", rescue, Duration::ZERO, |environment| {
        Box::pin(rescue_tasks::round(environment))
    });
    start("purge_jobs", retention, Duration::ZERO, |environment| {
        Box::pin(purge_jobs::round(environment))
    });
    start("forget_workers", retention, retention, |environment| {
        Box::pin(forget_workers::round(environment))
    });
    start("trim_logs", retention, retention, |environment| {
        Box::pin(trim_logs::round(environment))
    });
    start("sweep_orphans", sweep, sweep, |environment| {
        Box::pin(sweep_orphans::round(environment))
    });
}

/// One round of a loop; answers whether it did as much as one round may, so that the next should follow at once.
type Round =
    for<'a> fn(
        &'a Environment,
    ) -> std::pin::Pin<Box<dyn Future<Output = anyhow::Result<Rest>> + Send + 'a>>;

/// What one round left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nothing, as far as it knows.
    Done,
    /// More of the same.
    More,
}

async fn repeat(
    name: &'static str,
    interval: Duration,
    first: Duration,
    environment: &Environment,
    end: &CancellationToken,
    round: Round,
) {
    let mut backoff = Backoff::new(
        interval.min(Duration::from_secs(1)),
        Duration::from_secs(60),
    );
    let mut wait = jittered(first);
    while end
        .run_until_cancelled(tokio::time::sleep(wait))
        .await
        .is_some()
    {
        let Some(result) = end.run_until_cancelled(round(environment)).await else {
            return;
        };
        wait = match result {
            Ok(rest) => {
                backoff.reset();
                if rest == Rest::More {
                    Duration::ZERO
                } else {
                    jittered(interval)
                }
            }
            Err(error) => {
                if !backoff.is_failing() {
                    tracing::warn!(%error, "maintenance {name} failed; trying again");
                }
                interval.max(backoff.next_wait())
            }
        };
    }
}
