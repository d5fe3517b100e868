//! Wake-up: NOTIFY after commit, debounced per process, and LISTEN with reconnect. Never relied on for correctness:
//! whoever waits also looks again after a while.
//!
//! A NOTIFY inside a transaction takes a lock that serialises all commits, so the verbs never send one. The functions
//! of this crate that make tasks ready announce it after their commit; callers have nothing to do.

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::{DatabaseConfig, PgPool, statement};
use crate::ids::JobId;

/// Channel for capabilities whose tasks became ready; the payload is their ids, joined by commas.
const TASKS: &str = "dalston_tasks";
/// Channel for jobs that changed; the payload is their ids, joined by commas.
const JOBS: &str = "dalston_jobs";
/// Payload that stands for "too many to name".
const EVERYTHING: &str = "*";
/// Time in which announcements of one process are gathered.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Ids in one payload: a payload is shorter than 8,000 bytes, a job id has 36.
const IDS_PER_PAYLOAD: usize = 200;
/// Above this many jobs at once, listeners are told to look at everything.
const MOST_JOBS: usize = 2_000;
/// Wait between attempts to listen.
const RECONNECT: Duration = Duration::from_millis(500);

/// Why a waiter woke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wakeup<T> {
    /// These things changed.
    Changed(Vec<T>),
    /// Something may have been missed (a reconnect, or too much at once): look at everything.
    Rescan,
    /// Nothing happened in the time given.
    Timeout,
}

/// Listens for tasks becoming ready or jobs changing, on a connection of its own.
#[derive(Debug)]
pub struct Wakeups<T> {
    news: Arc<News<T>>,
    listener: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct News<T> {
    gathered: Mutex<(BTreeSet<T>, bool)>,
    arrived: Notify,
}

impl Wakeups<i32> {
    /// Listens for tasks becoming ready; wakes with capability ids. Listen before the first claim, so that nothing
    /// between claim and wait is lost. Behind a transaction pooler it only ever times out. Call within a runtime.
    #[must_use]
    pub fn for_tasks(config: &DatabaseConfig) -> Self {
        Self::listen(config, TASKS)
    }
}

impl Wakeups<JobId> {
    /// Listens for jobs that changed state or finished a task; wakes with job ids. Behind a transaction pooler it only
    /// ever times out. Call within a runtime.
    #[must_use]
    pub fn for_jobs(config: &DatabaseConfig) -> Self {
        Self::listen(config, JOBS)
    }
}

impl<T: Ord + FromStr + Send + 'static> Wakeups<T> {
    fn listen(config: &DatabaseConfig, channel: &'static str) -> Self {
        let news = Arc::new(News {
            gathered: Mutex::new((BTreeSet::new(), false)),
            arrived: Notify::new(),
        });
        let listener = (!config.transaction_pooler).then(|| {
            let config = DatabaseConfig {
                max_connections: 1,
                ..config.clone()
            };
            tokio::spawn(keep_listening(config, channel, Arc::clone(&news)))
        });
        Self { news, listener }
    }

    /// Waits for news, at most `timeout`. Cancel-safe: news that arrives while nobody waits is kept for the next call.
    pub async fn wait(&mut self, timeout: Duration) -> Wakeup<T> {
        let arrived = async {
            loop {
                let next = self.news.arrived.notified();
                if let Some(wakeup) = self.news.take() {
                    return wakeup;
                }
                next.await;
            }
        };
        tokio::time::timeout(timeout, arrived)
            .await
            .unwrap_or(Wakeup::Timeout)
    }
}

impl<T> Drop for Wakeups<T> {
    fn drop(&mut self) {
        if let Some(listener) = &self.listener {
            listener.abort();
        }
    }
}

impl<T: Ord + FromStr> News<T> {
    fn take(&self) -> Option<Wakeup<T>> {
        let mut gathered = lock(&self.gathered);
        let changed = std::mem::take(&mut gathered.0);
        if std::mem::take(&mut gathered.1) {
            Some(Wakeup::Rescan)
        } else if changed.is_empty() {
            None
        } else {
            Some(Wakeup::Changed(changed.into_iter().collect()))
        }
    }

    fn add(&self, payload: &str) {
        let mut gathered = lock(&self.gathered);
        for id in payload.split(',').filter(|id| !id.is_empty()) {
            match id.parse() {
                Ok(id) => {
                    gathered.0.insert(id);
                }
                Err(_) => gathered.1 = true,
            }
        }
        drop(gathered);
        self.arrived.notify_one();
    }
}

/// Listens for ever; after every (re)connection the waiter is told to look at everything.
async fn keep_listening<T: Ord + FromStr>(
    config: DatabaseConfig,
    channel: &'static str,
    news: Arc<News<T>>,
) {
    loop {
        if let Ok(mut listener) = start_listening(&config, channel).await {
            news.add(EVERYTHING);
            // `None` and errors both mean that the connection is gone.
            while let Ok(Some(notification)) = listener.try_recv().await {
                news.add(notification.payload());
            }
        }
        tokio::time::sleep(RECONNECT).await;
    }
}

async fn start_listening(
    config: &DatabaseConfig,
    channel: &str,
) -> Result<PgListener, super::DbError> {
    let pool = super::connect(config)?;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(channel).await?;
    Ok(listener)
}

/// What is debounced by itself: the tasks of one capability must not wait for news of jobs or of another capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Topic {
    Capability(i32),
    Jobs,
}

type Announcements = HashMap<(String, Topic), Arc<Mutex<Unsent>>>;

/// What this process has yet to announce, per database and topic.
static ANNOUNCEMENTS: LazyLock<Mutex<Announcements>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Unsent {
    /// There is something to say.
    due: bool,
    /// What, for [`Topic::Jobs`].
    jobs: BTreeSet<JobId>,
    being_sent: bool,
}

/// Tells other processes that tasks of these capabilities became ready and these jobs changed. The first call is sent
/// at once; those of the next 50 ms about the same capability, or about jobs, together. Errors are dropped: waiters
/// also poll.
pub(crate) fn announce(pool: &PgPool, ready: &[i32], jobs: &[JobId]) {
    for &capability in ready {
        announce_topic(pool, Topic::Capability(capability), &[]);
    }
    if !jobs.is_empty() {
        announce_topic(pool, Topic::Jobs, jobs);
    }
}

fn announce_topic(pool: &PgPool, topic: Topic, jobs: &[JobId]) {
    let unsent = Arc::clone(
        lock(&ANNOUNCEMENTS)
            .entry((database_of(pool), topic))
            .or_default(),
    );
    let mut state = lock(&unsent);
    state.due = true;
    state.jobs.extend(jobs);
    if !std::mem::replace(&mut state.being_sent, true) {
        let sender = Sender(Arc::clone(&unsent));
        tokio::spawn(sender.run(pool.clone(), topic));
    }
}

/// Sends until there is nothing left. Resets the flag when it ends in whatever way, a runtime that shuts down included.
struct Sender(Arc<Mutex<Unsent>>);

impl Sender {
    async fn run(self, pool: PgPool, topic: Topic) {
        loop {
            let (channel, payloads) = {
                let mut state = lock(&self.0);
                if !std::mem::take(&mut state.due) {
                    state.being_sent = false;
                    return;
                }
                match topic {
                    Topic::Capability(id) => (TASKS, vec![id.to_string()]),
                    Topic::Jobs => (JOBS, job_payloads(std::mem::take(&mut state.jobs))),
                }
            };
            let send = statement::plain("select pg_notify($1, p) from unnest($2::text[]) as n (p)")
                .bind(channel)
                .bind(payloads);
            let sent = statement::run(send, &pool).await;
            if let Err(error) = sent {
                tracing::debug!(%error, "a wake-up was not sent; waiters will poll");
            }
            tokio::time::sleep(DEBOUNCE).await;
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        lock(&self.0).being_sent = false;
    }
}

fn job_payloads(jobs: BTreeSet<JobId>) -> Vec<String> {
    if jobs.len() > MOST_JOBS {
        return vec![EVERYTHING.to_owned()];
    }
    let ids: Vec<String> = jobs.iter().map(JobId::to_string).collect();
    ids.chunks(IDS_PER_PAYLOAD)
        .map(|chunk| chunk.join(","))
        .collect()
}

/// What tells two databases apart; a process rarely has more than one.
fn database_of(pool: &PgPool) -> String {
    let options = pool.connect_options();
    format!(
        "{}:{}:{:?}/{}",
        options.get_host(),
        options.get_port(),
        options.get_socket(),
        options.get_database().unwrap_or_default()
    )
}

/// Takes a lock whose data stays valid even if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn payloads_stay_below_the_limit_of_the_server() {
        let jobs: BTreeSet<JobId> = (0..1_000).map(|_| JobId::generate()).collect();
        let texts = job_payloads(jobs);
        assert_eq!(texts.len(), 5);
        assert!(texts.iter().all(|text| text.len() < 8_000));
    }

    #[test]
    fn too_many_jobs_are_announced_as_everything() {
        let jobs: BTreeSet<JobId> = (0..=MOST_JOBS).map(|_| JobId::generate()).collect();
        assert_eq!(job_payloads(jobs), ["*"]);
    }

    #[test]
    fn a_payload_that_cannot_be_read_means_look_at_everything() {
        let news: News<i32> = News {
            gathered: Mutex::default(),
            arrived: Notify::new(),
        };
        news.add("3,1,3");
        assert_eq!(news.take(), Some(Wakeup::Changed(vec![1, 3])));
        news.add("*");
        assert_eq!(news.take(), Some(Wakeup::Rescan));
        assert_eq!(news.take(), None);
    }
}
