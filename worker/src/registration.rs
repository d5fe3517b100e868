//! What this worker says about itself: who it is, what it can run, that it is alive. Announced again whenever a model
//! comes or goes, and whenever the database has forgotten the worker.

use std::sync::Arc;
use std::time::Duration;

use dalston_engines::Device;
use dalston_schema::Stage;
use dalston_schema::WorkerId;
use dalston_schema::capability::{Capability, CapabilityFilter, OfferedCapability};
use dalston_schema::db::PgPool;
use dalston_schema::db::models::{self as registry, AnnouncedModel};
use dalston_schema::db::workers::{self, BeatAnswer, NewWorker, WorkerBeat};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::config::WorkerConfig;
use crate::lease::Leases;
use crate::load_engine;
use crate::measures::Measures;
use crate::model_store::ModelStore;
use crate::models::{self, Models, PresentModel, PresentModels};

/// Name of the bundled voice activity model.
pub const VAD_MODEL: &str = "silero-vad";

/// What this worker offers, as the database knows it.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    /// Capabilities with their row ids.
    pub capabilities: Vec<(OfferedCapability, i32)>,
    /// The models on disk.
    pub models: Arc<PresentModels>,
}

/// What was announced.
struct Announcement {
    offered: Vec<OfferedCapability>,
    on_disk: Vec<AnnouncedModel>,
}

/// Announces the worker and keeps the announcement true.
pub struct Registration {
    /// The database.
    pub pool: PgPool,
    /// This run of the worker.
    pub worker: WorkerId,
    /// Settings.
    pub config: WorkerConfig,
    /// Where models really run: the CPU or CUDA.
    pub device: Device,
    /// The models on disk.
    pub store: ModelStore,
    /// Receives every announcement that the database accepted.
    pub offer: watch::Sender<Offer>,
    /// Rung when the models on disk have changed, to look at once.
    pub changed: Arc<Notify>,
    /// For heartbeats: what runs.
    pub leases: Leases,
    /// For heartbeats: what is loaded.
    pub models: Models,
    /// Handed in with heartbeats.
    pub measures: Measures,
}

impl Registration {
    /// Announces until `end`. Raises `drain` when an operator asked the worker to stop.
    pub async fn keep(&self, drain: &CancellationToken, end: &CancellationToken) {
        let mut announced: Option<Announcement> = None;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut next_scan = Instant::now();
        let mut next_beat = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(next_scan.min(next_beat)) => {}
                () = self.changed.notified() => next_scan = Instant::now(),
                () = end.cancelled() => return,
            }
            let now = Instant::now();
            if now >= next_scan {
                next_scan = now + self.config.model_scan_interval;
                match self.announce_changes(&mut announced).await {
                    Ok(()) => backoff.reset(),
                    Err(error) => {
                        if !backoff.is_failing() {
                            tracing::warn!(%error, "the worker could not be registered; trying again");
                        }
                        next_scan = now + backoff.next_wait();
                    }
                }
            }
            if now >= next_beat {
                next_beat = now + self.config.heartbeat_interval;
                match self.beat().await {
                    Ok(BeatAnswer::Live) => {}
                    Ok(BeatAnswer::Draining) => drain.cancel(),
                    Ok(BeatAnswer::Unknown) => {
                        if announced.take().is_some() {
                            tracing::warn!(
                                "the database has forgotten this worker; registering again"
                            );
                        }
                        next_scan = now;
                    }
                    Err(error) => tracing::debug!(%error, "a worker heartbeat failed"),
                }
                if let Err(error) = self.measures.hand_in(&self.pool).await {
                    tracing::debug!(%error, "measures could not be handed in");
                }
            }
        }
    }

    /// Looks at the models on disk and says what differs from what was announced.
    async fn announce_changes(&self, announced: &mut Option<Announcement>) -> anyhow::Result<()> {
        let models = self.look_at_models().await?;
        let offered = capabilities(&models, self.device, &self.config);
        let on_disk: Vec<AnnouncedModel> = models.values().map(PresentModel::announced).collect();
        let same_offer = announced
            .as_ref()
            .is_some_and(|before| before.offered == offered);
        let same_models = announced
            .as_ref()
            .is_some_and(|before| before.on_disk == on_disk);
        let ids = if same_offer {
            None
        } else {
            Some(self.register(&offered).await?)
        };
        let changed = !same_offer || !same_models;
        if changed && !registry::announce(&self.pool, self.worker, &on_disk).await? {
            anyhow::bail!("the database has forgotten this worker");
        }
        self.models.unload_removed(&models);
        self.offer.send_if_modified(|offer| {
            let changed = ids.is_some() || *offer.models != models;
            if let Some(ids) = ids {
                offer.capabilities = offered.iter().cloned().zip(ids).collect();
            }
            offer.models = Arc::new(models);
            changed
        });
        *announced = Some(Announcement { offered, on_disk });
        Ok(())
    }

    async fn register(&self, offered: &[OfferedCapability]) -> anyhow::Result<Vec<i32>> {
        let ids = workers::register(&self.pool, &self.introduction(), offered).await?;
        let names: Vec<String> = offered
            .iter()
            .map(|offer| name(&offer.capability))
            .collect();
        tracing::info!(
            worker.id = %self.worker,
            capabilities = names.join(" "),
            device = self.device.as_str(),
            "worker {} offers {}",
            self.worker,
            names.join(", "),
        );
        Ok(ids)
    }

    /// The models on disk. Those that have not changed since the last look are not read again.
    async fn look_at_models(&self) -> anyhow::Result<PresentModels> {
        let known = Arc::clone(&self.offer.borrow().models);
        let (installed, device) = (self.store.list().await?, self.device);
        let looking = tokio::task::spawn_blocking(move || {
            let models = installed.into_iter().map(|installed| {
                let unchanged = known.values().find(|model| model.installed == installed);
                let model = match unchanged {
                    Some(model) => model.clone(),
                    None => PresentModel::look(installed, device),
                };
                (model.key(), model)
            });
            models.collect()
        });
        Ok(looking.await?)
    }

    async fn beat(&self) -> Result<BeatAnswer, dalston_schema::db::DbError> {
        let beat = WorkerBeat {
            loaded_models: self
                .models
                .in_memory()
                .into_iter()
                .map(|loaded| (loaded.key.model, Some(loaded.bytes)))
                .collect(),
            active_tasks: i32::try_from(self.leases.count()).unwrap_or(i32::MAX),
        };
        workers::heartbeat(&self.pool, self.worker, &beat).await
    }

    fn introduction(&self) -> NewWorker {
        // `prepare` and `merge` run beside the tasks that have a model, and are not what capacity is about.
        let slots = self.config.concurrency.get();
        NewWorker {
            id: self.worker,
            hostname: hostname(),
            identity: self.config.identity.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            device: self.device.as_str().to_owned(),
            slots: i32::try_from(slots).unwrap_or(i32::MAX),
        }
    }
}

/// What can be offered with these models: `prepare` when voice activity can be detected, `merge` always, and each
/// model whose engine this program has.
fn capabilities(
    models: &PresentModels,
    device: Device,
    config: &WorkerConfig,
) -> Vec<OfferedCapability> {
    let mut offered = vec![plain(Stage::Merge)];
    if models.keys().any(|key| key.model == VAD_MODEL) {
        offered.push(plain(Stage::Prepare));
    }
    offered.extend(models::offered(models, device));
    if config.load_engine.is_some() {
        offered.push(load_engine::capability());
    }
    offered.retain(|offer| CapabilityFilter::among(&config.capabilities, &offer.capability));
    offered
}

fn plain(stage: Stage) -> OfferedCapability {
    OfferedCapability::new(Capability::without_model(stage))
}

/// A capability in one word, for logs: `prepare` or `transcribe/whisper/whisper-nano`.
fn name(capability: &Capability) -> String {
    if capability.engine.is_empty() {
        return capability.stage.to_string();
    }
    format!(
        "{}/{}/{}",
        capability.stage, capability.engine, capability.model
    )
}

/// The host's name, from the kernel.
fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}
