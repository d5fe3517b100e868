//! Keeps the models on this worker's disk in line with the registry in the database: takes pulls that were asked for,
//! deletes what was removed, and, where models are shared through the object store, fetches what it has and copies to it
//! what it lacks.
//!
//! A pull is a row under a lease, like a task: one worker has it at a time, a worker that dies loses it to another, and
//! whoever is told that it is no longer its own stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dalston_schema::capability::CapabilityFilter;
use dalston_schema::catalogue;
use dalston_schema::db::PgPool;
use dalston_schema::db::audit::{self, NewAuditEvent};
use dalston_schema::db::models::{self, ClaimedPull, PulledModel};
use dalston_schema::{Storage, WorkerId};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::ModelSource;
use crate::model_store::{
    HubSettings, InstalledModel, Manifest, ModelStore, ModelStoreError, Source, Transfer,
};
use crate::models::PresentModel;
use crate::registration::Offer;

/// How long a pull stays this worker's without a word.
const LEASE_SECONDS: f64 = 30.0;
/// A model that was pulled is announced well within this time; later it is called ready all the same.
const ANNOUNCEMENT: Duration = Duration::from_secs(20);

/// The registry's hand on one worker.
pub struct ModelRegistry {
    /// The database.
    pub pool: PgPool,
    /// This run of the worker.
    pub worker: WorkerId,
    /// The models on disk.
    pub store: ModelStore,
    /// The object store.
    pub storage: Storage,
    /// The hub.
    pub hub: HubSettings,
    /// How often the registry is looked at, and told how far a pull is.
    pub interval: Duration,
    /// Where models come from.
    pub source: ModelSource,
    /// What this worker may offer; empty for everything. It pulls nothing else.
    pub capabilities: Vec<CapabilityFilter>,
    /// What this worker offers, to see when a pulled model is announced.
    pub offer: watch::Receiver<Offer>,
    /// Rung when the models on disk have changed.
    pub changed: Arc<Notify>,
}

impl ModelRegistry {
    /// Works until `end`; a pull under way is given back then, and what has arrived is kept.
    pub async fn keep(&self, end: &CancellationToken) {
        tokio::join!(self.keep_pulling(end), self.keep_tidy(end));
    }

    async fn keep_pulling(&self, end: &CancellationToken) {
        let wanted = with_components(&self.capabilities);
        while end
            .run_until_cancelled(tokio::time::sleep(self.interval))
            .await
            .is_some()
        {
            match models::claim_pull(&self.pool, self.worker, &wanted, LEASE_SECONDS).await {
                Ok(Some(pull)) => self.pull(&pull, end).await,
                Ok(None) => {}
                Err(error) => tracing::debug!(%error, "the model registry could not be read"),
            }
        }
    }

    async fn keep_tidy(&self, end: &CancellationToken) {
        let mut backoff = Backoff::new(self.interval, Duration::from_secs(60));
        let mut mirror_at = Instant::now();
        while end
            .run_until_cancelled(tokio::time::sleep(self.interval))
            .await
            .is_some()
        {
            if let Err(error) = self.remove_removed().await {
                tracing::debug!(%error, "the model registry could not be read");
            }
            if self.source != ModelSource::ObjectStore || Instant::now() < mirror_at {
                continue;
            }
            match self.mirror(end).await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    tracing::warn!(
                        "models could not be exchanged with the object store: {error:#}"
                    );
                    mirror_at = Instant::now() + backoff.next_wait();
                }
            }
        }
    }

    /// Runs one pull to its end.
    async fn pull(&self, pull: &ClaimedPull, end: &CancellationToken) {
        tracing::info!(model = pull.id, "pulling {}", pull.id);
        let arrived = Arc::new((AtomicU64::new(0), AtomicU64::new(0)));
        let heard = Arc::clone(&arrived);
        let transfer = Transfer {
            progress: Some(Arc::new(move |step| {
                heard.0.store(step.done_bytes, Ordering::Relaxed);
                heard.1.store(step.total_bytes, Ordering::Relaxed);
            })),
            cancel: end.child_token(),
        };
        let work = self.fetch_and_announce(pull, &transfer);
        tokio::pin!(work);
        let result = loop {
            tokio::select! {
                result = &mut work => break result,
                () = tokio::time::sleep(self.interval) => {
                    let (done, total) = (arrived.0.load(Ordering::Relaxed), arrived.1.load(Ordering::Relaxed));
                    let extended = models::extend_pull(&self.pool, pull, done, total, LEASE_SECONDS).await;
                    if matches!(extended, Ok(false)) {
                        transfer.cancel.cancel();
                    }
                }
            }
        };
        let ended = match result {
            Ok(model) => {
                let pulled = PulledModel {
                    engine: model.manifest.engine.clone(),
                    stage: model.manifest.stage.as_str().to_owned(),
                    size_bytes: model.size_bytes(),
                };
                let detail = json!({ "size_bytes": pulled.size_bytes });
                self.audit("model.downloaded", &pull.id, detail).await;
                models::end_pull(&self.pool, pull, Ok(&pulled)).await
            }
            Err(ModelStoreError::Cancelled) if end.is_cancelled() => {
                models::give_back_pull(&self.pool, pull).await
            }
            Err(ModelStoreError::Cancelled) => {
                tracing::info!(
                    model = pull.id,
                    "the pull of {} is not wanted any more",
                    pull.id
                );
                // Half a model that nobody wants.
                if self.store.get(&pull.id).await.is_err() {
                    let _ = self.store.remove(&pull.id).await;
                }
                Ok(true)
            }
            Err(error) => {
                tracing::warn!(model = pull.id, %error, "{} could not be pulled", pull.id);
                let error = error.to_string();
                let detail = json!({ "error": error });
                self.audit("model.download_failed", &pull.id, detail).await;
                models::end_pull(&self.pool, pull, Err(&error)).await
            }
        };
        if let Err(error) = ended {
            tracing::warn!(model = pull.id, %error, "the end of a pull could not be recorded; it will be pulled again");
        }
    }

    /// Writes a line of the audit log; trouble with it is logged.
    async fn audit(&self, action: &str, model: &str, detail: Value) {
        let resource = ("model", model);
        let event = NewAuditEvent::by_the_system(self.worker.to_string(), action, resource, detail);
        if let Err(error) = audit::append(&self.pool, &event).await {
            tracing::error!(%error, action, "the audit log could not be written");
        }
    }

    /// From the object store where it has the model, else from the hub; then waits until this worker has announced it,
    /// so that nobody is told of a model that no worker offers.
    async fn fetch_and_announce(
        &self,
        pull: &ClaimedPull,
        transfer: &Transfer,
    ) -> Result<InstalledModel, ModelStoreError> {
        let stored = pull.stored.as_ref().filter(|_| !pull.force);
        let manifest = stored.and_then(|stored| serde_json::from_value(stored.0.clone()).ok());
        let model = match manifest {
            Some(manifest) => {
                let shared = self.store.fetch_shared(&self.storage, manifest, transfer);
                shared.await?
            }
            None => {
                let hub = HubSettings {
                    force: pull.force,
                    ..self.hub.clone()
                };
                self.store.pull(&pull.id, &hub, transfer).await?
            }
        };
        self.changed.notify_one();
        let mut offer = self.offer.clone();
        let announced = offer.wait_for(|offer| {
            let mut present = offer.models.values();
            present.any(|present| present.installed.manifest == model.manifest)
        });
        let _ = tokio::time::timeout(ANNOUNCEMENT, announced).await;
        Ok(model)
    }

    /// Deletes what was removed from the registry.
    async fn remove_removed(&self) -> anyhow::Result<()> {
        for id in models::to_remove(&self.pool).await? {
            if self.store.get(&id).await.is_err() {
                continue;
            }
            match self.store.remove(&id).await {
                Ok(()) => {
                    tracing::info!(model = id, "{id} is removed");
                    self.changed.notify_one();
                }
                Err(error) => tracing::warn!(model = id, %error, "{id} could not be removed"),
            }
        }
        Ok(())
    }

    /// Fetches the models that the object store has and this worker lacks, and copies to it what it lacks.
    async fn mirror(&self, end: &CancellationToken) -> anyhow::Result<()> {
        let transfer = Transfer {
            progress: None,
            cancel: end.child_token(),
        };
        let shared = models::in_object_store(&self.pool).await?;
        let wanted = with_components(&self.capabilities);
        // One model that cannot be exchanged keeps no other from it.
        let mut failed = None;
        for (id, manifest) in &shared {
            if self.store.get(id).await.is_ok() {
                continue;
            }
            if let Err(error) = self.fetch(manifest, &wanted, &transfer).await {
                failed = Some(error.context(id.clone()));
            }
        }
        let present: Vec<PresentModel> = self.offer.borrow().models.values().cloned().collect();
        let lacking = present.iter().filter(|model| {
            model.installed.manifest.source != Source::Bundled
                && shared.iter().all(|(id, _)| id != model.installed.id())
        });
        for model in lacking {
            if let Err(error) = self.share(model, &transfer).await {
                failed = Some(error.context(model.installed.id().to_owned()));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Fetches one model from the object store, if it is wanted here.
    async fn fetch(
        &self,
        manifest: &Value,
        wanted: &[CapabilityFilter],
        transfer: &Transfer,
    ) -> anyhow::Result<()> {
        let manifest: Manifest = serde_json::from_value(manifest.clone())?;
        if CapabilityFilter::among(wanted, &manifest.capability()) {
            self.store
                .fetch_shared(&self.storage, manifest, transfer)
                .await?;
            self.changed.notify_one();
        }
        Ok(())
    }

    /// Copies one model to the object store, unless another worker is at it.
    async fn share(&self, model: &PresentModel, transfer: &Transfer) -> anyhow::Result<()> {
        let announced = model.announced();
        let lease = LEASE_SECONDS + model.installed.size_bytes() as f64 / 1e6;
        let claimed = models::claim_copy(&self.pool, self.worker, &announced, lease).await?;
        let Some(token) = claimed else {
            return Ok(());
        };
        let copied = self
            .store
            .share(&self.storage, &model.installed, transfer)
            .await;
        let manifest = match &copied {
            Ok(()) => Some(serde_json::to_value(&model.installed.manifest)?),
            Err(_) => None,
        };
        models::end_copy(&self.pool, &announced.model, token, manifest.as_ref()).await?;
        Ok(copied?)
    }
}

/// What is pulled for a worker that may offer only these: what they mean, and the parts that models of their stages need.
fn with_components(capabilities: &[CapabilityFilter]) -> Vec<CapabilityFilter> {
    let parts = catalogue::entries().iter().filter(|entry| {
        let mut stages = capabilities.iter().map(|filter| filter.stage);
        entry.component && stages.any(|stage| stage == entry.stage)
    });
    let parts = parts.map(|entry| CapabilityFilter {
        stage: entry.stage,
        engine: Some(entry.engine.clone()),
        model: None,
    });
    capabilities.iter().cloned().chain(parts).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_worker_for_speakers_pulls_the_parts_its_models_need_too() {
        assert_eq!(with_components(&[]), []);
        let only = ["diarize/pyannote".parse::<CapabilityFilter>().unwrap()];
        let wanted = with_components(&only);
        let fits = |id: &str| {
            let offer = catalogue::entry(id).unwrap().offered("cpu", 0);
            wanted.iter().any(|filter| filter.fits(&offer.capability))
        };
        assert!(fits("pyannote-segmentation-nano") && fits("wespeaker-nano"));
        assert!(!fits("whisper-nano"));
    }
}
