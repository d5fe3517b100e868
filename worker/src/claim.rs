//! Takes tasks: permits first, then at most as many tasks as there are permits, so a worker never holds a task it
//! cannot run. Woken by notifications and by its own finished tasks; looks again after the poll interval anyway.
//!
//! There are two lanes with permits of their own: tasks that use a model, and the short ones that do not. Otherwise a
//! three-hour transcription would hold up the merge of a ten-second one.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use dalston_schema::Stage;
use dalston_schema::db::notify::{Wakeup, Wakeups};
use dalston_schema::db::tasks::{self, Wanted};
use dalston_schema::task::ClaimedTask;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::{Backoff, jittered};
use crate::environment::Environment;
use crate::execute::execute;
use crate::registration::Offer;

/// Which tasks a lane takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `prepare` and `merge`.
    Light,
    /// Everything that runs a model.
    Model,
}

impl Kind {
    fn takes(self, stage: Stage) -> bool {
        let light = matches!(stage, Stage::Prepare | Stage::Merge);
        (self == Self::Light) == light
    }
}

/// Wakes every lane of a worker.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<[Notify; 2]>);

impl Bell {
    /// Makes every lane look for tasks now, or right after what it is doing.
    pub fn ring(&self) {
        for lane in self.0.iter() {
            lane.notify_one();
        }
    }

    fn of(&self, kind: Kind) -> &Notify {
        &self.0[kind as usize]
    }
}

/// Rings the bell when tasks that this worker can run become ready, and when what it offers changes. Until `end`.
pub async fn listen(environment: &Environment, bell: &Bell, end: &CancellationToken) {
    let mut wakeups = Wakeups::for_tasks(&environment.config.database);
    let mut offer = environment.offer.clone();
    loop {
        tokio::select! {
            wakeup = wakeups.wait(Duration::from_secs(60)) => match wakeup {
                Wakeup::Changed(ready) => {
                    let offer = environment.offer.borrow();
                    if offer.capabilities.iter().any(|(_, id)| ready.contains(id)) {
                        bell.ring();
                    }
                }
                Wakeup::Rescan => bell.ring(),
                Wakeup::Timeout => {}
            },
            changed = offer.changed() => {
                if changed.is_err() {
                    return;
                }
                bell.ring();
            }
            () = end.cancelled() => return,
        }
    }
}

/// One lane of a worker.
pub struct Lane {
    /// Which tasks it takes.
    pub kind: Kind,
    /// How many at a time.
    pub concurrency: usize,
    /// What wakes it.
    pub bell: Bell,
    /// Who waits for the tasks.
    pub tasks: TaskTracker,
}

impl Lane {
    /// Claims and spawns tasks until `end`; what was spawned goes on.
    pub async fn run(self, environment: Arc<Environment>, end: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.concurrency));
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let mut free = tokio::select! {
                free = take_permits(&permits) => free,
                () = end.cancelled() => return,
            };
            // The bell keeps a ring that comes between this claim and the wait below.
            let wait = match self.claim(&environment, &mut free).await {
                Ok(Claimed::AsManyAsAsked) => {
                    backoff.reset();
                    continue;
                }
                Ok(Claimed::Fewer) => {
                    if backoff.is_failing() {
                        tracing::info!("tasks are being claimed again");
                    }
                    backoff.reset();
                    jittered(environment.config.poll_interval)
                }
                Err(error) => {
                    if !backoff.is_failing() {
                        tracing::warn!(%error, "tasks could not be claimed; trying again");
                    }
                    backoff.next_wait()
                }
            };
            drop(free);
            tokio::select! {
                () = self.bell.of(self.kind).notified(), if !backoff.is_failing() => {}
                () = tokio::time::sleep(wait) => {}
                () = end.cancelled() => return,
            }
        }
    }

    /// One claim with the permits in hand; each claimed task takes one of them along.
    async fn claim(
        &self,
        environment: &Arc<Environment>,
        free: &mut Vec<OwnedSemaphorePermit>,
    ) -> Result<Claimed, dalston_schema::db::DbError> {
        let wanted = self.wanted(environment);
        if wanted.is_empty() {
            return Ok(Claimed::Fewer);
        }
        let asked = free.len();
        let claimed_at = Instant::now();
        let claimed = tasks::claim(
            &environment.pool,
            environment.worker,
            &wanted,
            i32::try_from(asked).unwrap_or(i32::MAX),
            environment.config.lease.as_secs_f64(),
        )
        .await?;
        let count = claimed.len();
        for task in claimed {
            self.spawn(environment, task, claimed_at, free.pop());
        }
        Ok(if count >= asked {
            Claimed::AsManyAsAsked
        } else {
            Claimed::Fewer
        })
    }

    /// What to ask for. Later stages first: of a job, what was begun is finished before more is begun.
    fn wanted(&self, environment: &Environment) -> Vec<Wanted> {
        let loaded = environment.models.in_memory();
        let Offer { capabilities, .. } = &*environment.offer.borrow();
        let mut offers: Vec<_> = capabilities
            .iter()
            .filter(|(offer, _)| self.kind.takes(offer.capability.stage))
            .collect();
        offers.sort_by_key(|(offer, _)| Reverse(offer.capability.stage));
        offers
            .into_iter()
            .map(|(offer, id)| Wanted {
                capability_id: *id,
                loaded: offer.capability.engine.is_empty()
                    || loaded.iter().any(|loaded| {
                        loaded.key.engine == offer.capability.engine
                            && loaded.key.model == offer.capability.model
                    }),
            })
            .collect()
    }

    fn spawn(
        &self,
        environment: &Arc<Environment>,
        task: ClaimedTask,
        claimed_at: Instant,
        permit: Option<OwnedSemaphorePermit>,
    ) {
        let held = environment.leases.hold(task.lease(), claimed_at);
        let (environment, bell) = (Arc::clone(environment), self.bell.clone());
        self.tasks.spawn(async move {
            execute(&environment, task, held).await;
            drop(permit);
            // Its completion may have made tasks ready, and there is room for one.
            bell.ring();
        });
    }
}

enum Claimed {
    AsManyAsAsked,
    Fewer,
}

/// Waits for one permit and takes all others that are free.
async fn take_permits(permits: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    let mut taken = Vec::new();
    // The semaphore is never closed.
    taken.extend(Arc::clone(permits).acquire_owned().await);
    while let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
        taken.push(permit);
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_exactly_one_lane() {
        for stage in Stage::ALL {
            let takers = [Kind::Light, Kind::Model]
                .into_iter()
                .filter(|kind| kind.takes(stage))
                .count();
            assert_eq!(takers, 1, "{stage}");
        }
    }

    #[tokio::test]
    async fn all_free_permits_are_taken_and_no_more() {
        let permits = Arc::new(Semaphore::new(3));
        let first = take_permits(&permits).await;
        assert_eq!(first.len(), 3);
        let waiting = tokio::spawn({
            let permits = Arc::clone(&permits);
            async move { take_permits(&permits).await.len() }
        });
        drop(first);
        assert!((1..=3).contains(&waiting.await.unwrap_or(0)));
    }

    #[tokio::test]
    async fn a_ring_before_the_wait_is_not_lost() {
        let bell = Bell::default();
        bell.ring();
        bell.of(Kind::Light).notified().await;
        bell.of(Kind::Model).notified().await;
    }
}
