//! The life of a worker: start what it needs, register, claim and run tasks, and on shutdown finish or give back.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use dalston_engines::{Runtime, RuntimeOptions};
use dalston_schema::db::{queue, workers};
use dalston_schema::{Storage, WorkerId, db};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::claim::{Bell, Kind, Lane, listen};
use crate::config::WorkerConfig;
use crate::environment::Environment;
use crate::languages::Languages;
use crate::lease::{LeaseTimes, Leases};
use crate::maintenance;
use crate::measures::Measures;
use crate::model_registry::ModelRegistry;
use crate::model_store::ModelStore;
use crate::models::Models;
use crate::registration::{Offer, Registration, VAD_MODEL};
use crate::scratch::Scratch;
use crate::speech::SpeechFinder;
use crate::stop::StopReason;

/// Tasks that were told to stop get this long to record it.
const STOPPING_TIME: Duration = Duration::from_secs(15);
/// How often the registry of models is looked at, at least.
const REGISTRY_INTERVAL: Duration = Duration::from_secs(1);
/// How often `once` looks whether anything is left.
const ONCE_INTERVAL: Duration = Duration::from_millis(500);

/// Runs a worker until `shutdown`, until an operator drains it, or, with [`WorkerConfig::once`], until nothing is left
/// that it can do. Survives outages of the database.
///
/// On shutdown it stops claiming, lets running tasks finish for [`WorkerConfig::shutdown_grace`], gives the rest back,
/// and deregisters.
///
/// # Errors
/// When it cannot start: settings that cannot work, no ONNX Runtime, no CUDA where it was asked for by name, folders
/// that cannot be made.
pub async fn run(config: WorkerConfig, shutdown: CancellationToken) -> anyhow::Result<()> {
    let worker = Worker::start(config).await?;
    worker.run(shutdown).await;
    Ok(())
}

struct Worker {
    environment: Arc<Environment>,
    registry: ModelRegistry,
    registration: Registration,
}

impl Worker {
    async fn start(config: WorkerConfig) -> anyhow::Result<Self> {
        config.check()?;
        let runtime = load_runtime(&config).await?;
        let device = runtime.device();
        let store = ModelStore::open(&config.model_dir).context("opening the model folder")?;
        store
            .unpack_bundled()
            .await
            .context("unpacking the bundled models")?;
        let storage = Storage::open(&config.storage).context("opening the object store")?;
        let scratch = Scratch::open(&config.scratch_dir).with_context(|| {
            format!("making the scratch folder {}", config.scratch_dir.display())
        })?;
        let pool = db::connect(&config.database).context("reading the database URL")?;
        let (offer_sender, offer) = watch::channel(Offer::default());
        let leases = Leases::default();
        let measures = Measures::default();
        let models = Models::new(
            &runtime,
            config.threads_per_model.get(),
            config.model_memory_budget,
            offer.clone(),
            measures.clone(),
        );
        let worker = WorkerId::generate();
        let speech = SpeechFinder::new(runtime.clone(), store.root().join(VAD_MODEL));
        let changed = Arc::new(Notify::new());
        let registry = ModelRegistry {
            pool: pool.clone(),
            worker,
            store: store.clone(),
            storage: storage.clone(),
            hub: config.hub.clone(),
            interval: config.model_scan_interval.min(REGISTRY_INTERVAL),
            source: config.model_source,
            capabilities: config.capabilities.clone(),
            offer: offer.clone(),
            changed: Arc::clone(&changed),
        };
        let registration = Registration {
            pool: pool.clone(),
            worker,
            config: config.clone(),
            device,
            store,
            offer: offer_sender,
            changed,
            leases: leases.clone(),
            models: models.clone(),
            measures: measures.clone(),
        };
        let environment = Arc::new(Environment {
            config,
            worker,
            pool,
            storage,
            runtime,
            leases,
            scratch,
            offer,
            measures,
            models,
            languages: Languages::default(),
            speech,
        });
        Ok(Self {
            environment,
            registry,
            registration,
        })
    }

    async fn run(self, shutdown: CancellationToken) {
        let Self {
            environment,
            registry,
            registration,
        } = self;
        // Claiming ends first, what keeps running tasks alive ends last.
        let drain = shutdown.child_token();
        let end = CancellationToken::new();
        let (tasks, loops) = (TaskTracker::new(), TaskTracker::new());
        let bell = Bell::default();
        spawn_keeping(&loops, &environment, registration, &drain, &end);
        spawn_listening(&loops, &environment, &bell, &drain);
        let registry_end = drain.clone();
        loops.spawn(async move { registry.keep(&registry_end).await });
        if environment.config.maintenance {
            maintenance::spawn(&loops, &environment, &drain);
        }
        let lanes = [
            (Kind::Light, environment.config.light_concurrency),
            (Kind::Model, environment.config.concurrency),
        ]
        .map(|(kind, concurrency)| {
            let lane = Lane {
                kind,
                concurrency: concurrency.get(),
                bell: bell.clone(),
                tasks: tasks.clone(),
            };
            loops.spawn(lane.run(Arc::clone(&environment), drain.clone()))
        });
        if environment.config.once {
            until_nothing_is_left(&environment, &drain).await;
            drain.cancel();
        }
        drain.cancelled().await;
        for lane in lanes {
            if lane.await.is_err() {
                tracing::error!("a claim loop ended in a panic");
            }
        }
        finish(&environment, &tasks).await;
        end.cancel();
        loops.close();
        loops.wait().await;
        deregister(&environment).await;
    }
}

async fn load_runtime(config: &WorkerConfig) -> anyhow::Result<Runtime> {
    let options = RuntimeOptions {
        device: config.device,
        library: config.runtime_library.clone(),
    };
    Ok(tokio::task::spawn_blocking(move || Runtime::load(&options)).await??)
}

/// What keeps running tasks and the worker's row alive; ends when the last task has.
fn spawn_keeping(
    loops: &TaskTracker,
    environment: &Arc<Environment>,
    registration: Registration,
    drain: &CancellationToken,
    end: &CancellationToken,
) {
    let times = LeaseTimes {
        lease: environment.config.lease,
        heartbeat: environment.config.heartbeat_interval,
        cancel_check: environment.config.cancel_check_interval,
    };
    let (keeper, lease_end) = (Arc::clone(environment), end.clone());
    loops.spawn(async move {
        keeper
            .leases
            .keep(&keeper.pool, keeper.worker, times, &lease_end)
            .await;
    });
    let (drain, registration_end) = (drain.clone(), end.clone());
    loops.spawn(async move { registration.keep(&drain, &registration_end).await });
}

/// What wakes the claim loops, and what unloads idle models; ends when claiming does.
fn spawn_listening(
    loops: &TaskTracker,
    environment: &Arc<Environment>,
    bell: &Bell,
    drain: &CancellationToken,
) {
    let (listener, listener_bell, listener_end) =
        (Arc::clone(environment), bell.clone(), drain.clone());
    loops.spawn(async move { listen(&listener, &listener_bell, &listener_end).await });
    if let Some(timeout) = environment.config.model_idle_timeout {
        let (environment, end) = (Arc::clone(environment), drain.clone());
        loops.spawn(async move {
            let interval = (timeout / 4).clamp(Duration::from_millis(50), Duration::from_secs(60));
            while end
                .run_until_cancelled(tokio::time::sleep(interval))
                .await
                .is_some()
            {
                environment.models.unload_idle(timeout);
            }
        });
    }
}

/// Lets running tasks finish, then stops the rest, which gives them back.
async fn finish(environment: &Environment, tasks: &TaskTracker) {
    tasks.close();
    let grace = environment.config.shutdown_grace;
    if !tasks.is_empty() {
        tracing::info!(
            tasks = tasks.len(),
            "waiting up to {} s for {} running tasks",
            grace.as_secs(),
            tasks.len()
        );
    }
    if tokio::time::timeout(grace, tasks.wait()).await.is_ok() {
        return;
    }
    environment.leases.stop_all(StopReason::Shutdown);
    if tokio::time::timeout(STOPPING_TIME, tasks.wait())
        .await
        .is_err()
    {
        tracing::error!(
            tasks = tasks.len(),
            "{} tasks did not stop; their leases will run out",
            tasks.len()
        );
    }
}

/// Hands in the last measures and forgets this worker, if the database answers; otherwise the maintenance of another
/// forgets it.
async fn deregister(environment: &Environment) {
    let Environment { pool, worker, .. } = environment;
    let leaving = async {
        environment.measures.hand_in(pool).await?;
        workers::deregister(pool, *worker).await
    };
    let deregistered = tokio::time::timeout(Duration::from_secs(5), leaving).await;
    match deregistered {
        Ok(Ok(())) => tracing::info!(worker.id = %worker, "worker {worker} has stopped"),
        Ok(Err(error)) => tracing::warn!(%error, "the worker could not be deregistered"),
        Err(_) => tracing::warn!("the worker could not be deregistered in time"),
    }
}

/// Waits until no task of this worker's capabilities is waiting, here or in its backoff, and none is running here.
async fn until_nothing_is_left(environment: &Environment, drain: &CancellationToken) {
    while drain
        .run_until_cancelled(tokio::time::sleep(ONCE_INTERVAL))
        .await
        .is_some()
    {
        let offered: Vec<i32> = environment
            .offer
            .borrow()
            .capabilities
            .iter()
            .map(|(_, id)| *id)
            .collect();
        if offered.is_empty() || environment.leases.count() > 0 {
            continue;
        }
        let Ok(depths) = queue::depths(&environment.pool).await else {
            continue;
        };
        let waiting: i64 = depths
            .iter()
            .filter(|depth| offered.contains(&depth.capability_id))
            .map(|depth| depth.ready + depth.scheduled + depth.held)
            .sum();
        if waiting == 0 && environment.leases.count() == 0 {
            return;
        }
    }
}
