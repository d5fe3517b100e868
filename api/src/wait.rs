//! Waiting for jobs: one loop per process watches every job that somebody waits for, in one statement a round.
//!
//! It looks when the database announces a change and five times a second besides, so it works behind a transaction
//! pooler too. While nobody waits there is no loop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dalston_schema::db::notify::Wakeups;
use dalston_schema::db::{DatabaseConfig, DbError, PgPool, events, jobs};
use dalston_schema::{JobId, JobStatus};
use tokio::sync::watch;

/// Longest time between two looks while somebody waits.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The watched jobs of this process.
#[derive(Clone)]
pub struct Watch {
    pool: PgPool,
    database: DatabaseConfig,
    watched: Arc<Mutex<Watched>>,
}

#[derive(Default)]
struct Watched {
    looking: bool,
    /// The newest id in each job's log, as last seen.
    jobs: HashMap<JobId, watch::Sender<i64>>,
}

/// Interest in one job; ends when dropped.
pub struct Watching {
    newest: watch::Receiver<i64>,
}

impl Watching {
    /// Waits until the job's log has grown since the last call (or since [`Watch::job`]).
    pub async fn changed(&mut self) {
        // The sender lives in the map as long as there is a receiver; should the runtime be stopping, wait for its end.
        if self.newest.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Watch {
    /// Watches jobs of a database.
    #[must_use]
    pub fn new(pool: PgPool, database: DatabaseConfig) -> Self {
        Self {
            pool,
            database,
            watched: Arc::default(),
        }
    }

    /// Starts to watch a job. Read its state afterwards: what happens from now on is told by [`Watching::changed`].
    #[must_use]
    pub fn job(&self, job: JobId) -> Watching {
        let mut watched = self.lock();
        let newest = watched
            .jobs
            .entry(job)
            .or_insert_with(|| watch::Sender::new(0))
            .subscribe();
        if !watched.looking {
            watched.looking = true;
            let watch = self.clone();
            tokio::spawn(async move { watch.look().await });
        }
        Watching { newest }
    }

    /// Waits until a job is in a final state; `None` when it was deleted meanwhile.
    ///
    /// # Errors
    /// Database trouble that lasts.
    pub async fn until_final(&self, job: JobId) -> Result<Option<JobStatus>, DbError> {
        let mut watching = self.job(job);
        loop {
            let found = jobs::statuses(&self.pool, &[job]).await?;
            match found.first() {
                None => return Ok(None),
                Some((_, status)) if status.is_final() => return Ok(Some(*status)),
                Some(_) => watching.changed().await,
            }
        }
    }

    async fn look(self) {
        let mut wakeups = Wakeups::for_jobs(&self.database);
        loop {
            let Some(ids) = self.still_watched() else {
                return;
            };
            match events::newest_many(&self.pool, &ids).await {
                Ok(newest) => self.tell(&ids, &newest),
                // The requests that wait see the same trouble themselves if it lasts.
                Err(error) => tracing::warn!(%error, "could not look at waited-for jobs"),
            }
            // Whatever woke it, the next look is at everything that is waited for.
            wakeups.wait(LOOK_EVERY).await;
        }
    }

    /// The jobs somebody still waits for, or `None`, which ends the loop.
    fn still_watched(&self) -> Option<Vec<JobId>> {
        let mut watched = self.lock();
        watched.jobs.retain(|_, newest| newest.receiver_count() > 0);
        if watched.jobs.is_empty() {
            watched.looking = false;
            return None;
        }
        Some(watched.jobs.keys().copied().collect())
    }

    fn tell(&self, asked: &[JobId], newest: &[(JobId, i64)]) {
        let newest: HashMap<_, _> = newest.iter().copied().collect();
        let watched = self.lock();
        for job in asked {
            // A job without any log entry was deleted.
            let id = newest.get(job).copied().unwrap_or(i64::MAX);
            if let Some(sender) = watched.jobs.get(job) {
                sender.send_if_modified(|seen| std::mem::replace(seen, id) != id);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
