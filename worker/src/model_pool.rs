//! Loaded models, shared by the tasks of this worker. A model is loaded when the first task needs it, once however many
//! ask, kept warm, and unloaded when it was idle for long or when another needs its memory; never while in use.
//!
//! Memory is a budget, not a measurement: each model counts with the bytes its caller states. A task that needs memory
//! held by models in use waits for it, and later tasks wait behind it, so a busy model cannot starve another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::failure::{StageError, StageResult, TaskFailure};

/// Names a model: engine id and model id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelKey {
    /// Engine id, for example `whisper`.
    pub engine: String,
    /// Model id, for example `whisper-nano`.
    pub model: String,
}

/// A loaded model as heartbeats report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInMemory {
    /// Which.
    pub key: ModelKey,
    /// Bytes it counts with.
    pub bytes: u64,
    /// Tasks that use it now.
    pub users: usize,
}

type Load<M> = dyn Fn(&ModelKey) -> StageResult<M> + Send + Sync;

/// The pool. Clones share it. `M` is a handle that is cheap to clone; dropping the last clone unloads the model.
pub struct ModelPool<M> {
    shared: Arc<Shared<M>>,
}

struct Shared<M> {
    load: Box<Load<M>>,
    budget: u64,
    entries: Mutex<HashMap<ModelKey, Entry<M>>>,
    /// Something was loaded, released or unloaded.
    changed: Notify,
    /// Whoever waits for memory holds it; fair, so nobody overtakes.
    turn: tokio::sync::Mutex<()>,
}

struct Entry<M> {
    /// `None` while it is being loaded.
    model: Option<M>,
    bytes: u64,
    users: usize,
    last_used: Instant,
}

enum Admission<M> {
    Ready(PooledModel<M>),
    LoadIt,
    BeingLoaded,
    WaitForMemory,
}

impl<M> Clone for ModelPool<M> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<M> std::fmt::Debug for ModelPool<M> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ModelPool")
            .field("budget", &self.shared.budget)
            .field("models", &self.shared.entries().len())
            .finish_non_exhaustive()
    }
}

impl<M: Clone + Send + Sync + 'static> ModelPool<M> {
    /// Makes an empty pool. `load` is called on a blocking thread; `budget` is in bytes.
    pub fn new(
        budget: u64,
        load: impl Fn(&ModelKey) -> StageResult<M> + Send + Sync + 'static,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                load: Box::new(load),
                budget,
                entries: Mutex::default(),
                changed: Notify::new(),
                turn: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Takes a model for use, loading it when needed. `bytes` is what it counts with. A model larger than the whole
    /// budget is loaded when nothing else is.
    ///
    /// # Errors
    /// What loading said; the next call tries again.
    pub async fn acquire(&self, key: &ModelKey, bytes: u64) -> StageResult<PooledModel<M>> {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            let turn = self.shared.turn.lock().await;
            let admission = loop {
                changed.as_mut().enable();
                match self.admit(key, bytes) {
                    Admission::WaitForMemory => {
                        changed.as_mut().await;
                        changed.set(self.shared.changed.notified());
                    }
                    settled => break settled,
                }
            };
            drop(turn);
            match admission {
                Admission::Ready(model) => return Ok(model),
                Admission::LoadIt => return self.load(key).await,
                Admission::BeingLoaded | Admission::WaitForMemory => changed.await,
            }
        }
    }

    /// One look at the pool: takes the model, or reserves its place, or says what to wait for.
    fn admit(&self, key: &ModelKey, bytes: u64) -> Admission<M> {
        let mut entries = self.shared.entries();
        if let Some(entry) = entries.get_mut(key) {
            return match entry.model.clone() {
                None => Admission::BeingLoaded,
                Some(model) => {
                    entry.users += 1;
                    Admission::Ready(self.guard(key, model))
                }
            };
        }
        let mut unloaded = Vec::new();
        loop {
            let taken: u64 = entries.values().map(|entry| entry.bytes).sum();
            if taken == 0 || taken.saturating_add(bytes) <= self.shared.budget {
                break;
            }
            let idlest = entries
                .iter()
                .filter(|(_, entry)| entry.model.is_some() && entry.users == 0)
                .min_by_key(|(_, entry)| entry.last_used)
                .map(|(key, _)| key.clone());
            match idlest {
                Some(idlest) => unloaded.extend(entries.remove(&idlest)),
                None => {
                    drop(entries);
                    drop_elsewhere(unloaded);
                    return Admission::WaitForMemory;
                }
            }
        }
        if bytes > self.shared.budget {
            tracing::warn!(
                model = key.model,
                bytes,
                budget_bytes = self.shared.budget,
                "model {} needs more memory than the budget allows; it is loaded alone",
                key.model,
            );
        }
        entries.insert(
            key.clone(),
            Entry {
                model: None,
                bytes: bytes.max(1),
                users: 0,
                last_used: Instant::now(),
            },
        );
        drop(entries);
        drop_elsewhere(unloaded);
        Admission::LoadIt
    }

    /// Loads a model whose place [`Self::admit`] has reserved. Goes on when the caller gives up, so that the place
    /// never stays reserved.
    async fn load(&self, key: &ModelKey) -> StageResult<PooledModel<M>> {
        let (pool, owned_key) = (self.clone(), key.clone());
        let loading = tokio::task::spawn_blocking(move || {
            let started = Instant::now();
            // The place must be freed even when a loader panics.
            let reserved = Reservation {
                pool: &pool,
                key: &owned_key,
            };
            let model = (pool.shared.load)(&owned_key).map_err(|error| match error {
                StageError::Failed(failure) => failure.of_model(&owned_key.model).into(),
                StageError::Stopped => StageError::Stopped,
            })?;
            let seconds = started.elapsed().as_secs_f64();
            tracing::info!(
                model = owned_key.model,
                engine = owned_key.engine,
                duration_ms = (seconds * 1000.0) as u64,
                "loaded model {}",
                owned_key.model
            );
            Ok(reserved.fill(model))
        });
        match loading.await {
            Ok(loaded) => loaded,
            Err(panic) => Err(TaskFailure::retryable(format!(
                "The model {} could not be loaded.",
                key.model
            ))
            .with_detail(panic)
            .into()),
        }
    }

    fn guard(&self, key: &ModelKey, model: M) -> PooledModel<M> {
        PooledModel {
            model,
            key: key.clone(),
            pool: self.clone(),
        }
    }

    /// What is loaded now, in order of key.
    #[must_use]
    pub fn loaded(&self) -> Vec<ModelInMemory> {
        let entries = self.shared.entries();
        let mut loaded: Vec<ModelInMemory> = entries
            .iter()
            .filter(|(_, entry)| entry.model.is_some())
            .map(|(key, entry)| ModelInMemory {
                key: key.clone(),
                bytes: entry.bytes,
                users: entry.users,
            })
            .collect();
        loaded.sort_by(|a, b| a.key.cmp(&b.key));
        loaded
    }

    /// Unloads models that nobody used for `idle`, and answers how many.
    pub fn unload_idle(&self, idle: Duration) -> usize {
        self.unload(|_, last_used| last_used.elapsed() >= idle)
    }

    /// Unloads models that are not in use and that `keep` does not know any more.
    pub fn unload_unknown(&self, keep: impl Fn(&ModelKey) -> bool) -> usize {
        self.unload(|key, _| !keep(key))
    }

    fn unload(&self, unwanted: impl Fn(&ModelKey, Instant) -> bool) -> usize {
        let mut entries = self.shared.entries();
        let keys: Vec<ModelKey> = entries
            .iter()
            .filter(|(key, entry)| {
                entry.model.is_some() && entry.users == 0 && unwanted(key, entry.last_used)
            })
            .map(|(key, _)| key.clone())
            .collect();
        let unloaded: Vec<Entry<M>> = keys.iter().filter_map(|key| entries.remove(key)).collect();
        drop(entries);
        for key in &keys {
            tracing::info!(model = key.model, "unloaded model {}", key.model);
        }
        let count = unloaded.len();
        drop_elsewhere(unloaded);
        if count > 0 {
            self.shared.changed.notify_waiters();
        }
        count
    }
}

impl<M> Shared<M> {
    fn entries(&self) -> MutexGuard<'_, HashMap<ModelKey, Entry<M>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Unloading may join a model's thread, which must not hold up the async runtime.
fn drop_elsewhere<M: Send + 'static>(entries: Vec<Entry<M>>) {
    if entries.is_empty() {
        return;
    }
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(move || drop(entries))),
        Err(_) => drop(entries),
    }
}

/// A place in the pool for a model that is being loaded; gives the place up when dropped unfilled.
struct Reservation<'a, M: Clone + Send + Sync + 'static> {
    pool: &'a ModelPool<M>,
    key: &'a ModelKey,
}

impl<M: Clone + Send + Sync + 'static> Reservation<'_, M> {
    fn fill(self, model: M) -> PooledModel<M> {
        if let Some(entry) = self.pool.shared.entries().get_mut(self.key) {
            entry.model = Some(model.clone());
            entry.users = 1;
        }
        self.pool.guard(self.key, model)
    }
}

impl<M: Clone + Send + Sync + 'static> Drop for Reservation<'_, M> {
    fn drop(&mut self) {
        let mut entries = self.pool.shared.entries();
        if entries
            .get(self.key)
            .is_some_and(|entry| entry.model.is_none())
        {
            entries.remove(self.key);
        }
        drop(entries);
        self.pool.shared.changed.notify_waiters();
    }
}

/// A model in use; dropping it gives it back to the pool.
pub struct PooledModel<M> {
    model: M,
    key: ModelKey,
    pool: ModelPool<M>,
}

impl<M> std::fmt::Debug for PooledModel<M> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_tuple("PooledModel")
            .field(&self.key)
            .finish()
    }
}

impl<M> std::ops::Deref for PooledModel<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.model
    }
}

impl<M> Drop for PooledModel<M> {
    fn drop(&mut self) {
        if let Some(entry) = self.pool.shared.entries().get_mut(&self.key) {
            entry.users = entry.users.saturating_sub(1);
            entry.last_used = Instant::now();
        }
        self.pool.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
