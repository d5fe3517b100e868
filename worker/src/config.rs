//! What a worker must be told. A plain struct: the command line fills it from the environment, tests by hand.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use dalston_engines::Device;
use dalston_schema::capability::CapabilityFilter;
use dalston_schema::db::DatabaseConfig;
use dalston_schema::storage::StorageConfig;

use crate::load_engine::LoadEngineConfig;
use crate::model_store::HubSettings;

/// Where a worker gets models that it lacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ModelSource {
    /// Only those that are to be pulled, from the hub.
    #[default]
    Hub,
    /// All that other workers have put into the object store; what it pulls or imports it puts there too.
    ObjectStore,
}

/// Everything a worker process needs to run.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// How to reach PostgreSQL.
    pub database: DatabaseConfig,
    /// What stays the same when this very worker is restarted, for example its host and data folder with a number.
    /// Tasks that an earlier run still holds are then released at once, not when their leases run out. Two workers
    /// that run at the same time must never share it; `None` when in doubt.
    pub identity: Option<String>,
    /// Where audio lives. With a folder store, workers on other machines must see the same folder.
    pub storage: StorageConfig,
    /// Folder of model folders. Models added or removed while the worker runs are noticed within
    /// [`WorkerConfig::model_scan_interval`].
    pub model_dir: PathBuf,
    /// Where it gets models that it lacks.
    pub model_source: ModelSource,
    /// The hub that models are pulled from when somebody asks for it, or waiting tasks need them.
    pub hub: HubSettings,
    /// ONNX Runtime library to load; `None` searches the usual places.
    pub runtime_library: Option<PathBuf>,
    /// Where models run. `Cuda` fails the start when CUDA cannot be had.
    pub device: Device,
    /// Tasks that use a model and run at the same time. Their windows share one decode, so more than one costs memory
    /// for caches, not a second copy of the weights.
    pub concurrency: NonZeroUsize,
    /// `prepare` and `merge` tasks that run at the same time, so that a short file is not stuck behind a long model call.
    pub light_concurrency: NonZeroUsize,
    /// Threads of one model session; threads × sessions in use should not exceed the cores.
    pub threads_per_model: NonZeroUsize,
    /// Bytes of memory that loaded models may take together (estimated from their files).
    pub model_memory_budget: u64,
    /// A model not used for this long is unloaded; `None` keeps it until the memory is needed.
    pub model_idle_timeout: Option<Duration>,
    /// How often the model folder is looked at for added and removed models.
    pub model_scan_interval: Duration,
    /// How long a claim holds without being extended. A worker that dies loses its tasks after this time.
    pub lease: Duration,
    /// How often leases are extended; at most a third of [`WorkerConfig::lease`].
    pub heartbeat_interval: Duration,
    /// How often running tasks are checked for cancellation between heartbeats (one cheap read).
    pub cancel_check_interval: Duration,
    /// How often tasks are looked for when no notification came.
    pub poll_interval: Duration,
    /// How long running tasks may go on after a shutdown was asked for; then they are given back.
    pub shutdown_grace: Duration,
    /// Folder for files of running tasks. Leftovers of workers that died are removed at start.
    pub scratch_dir: PathBuf,
    /// Run the maintenance loops (rescue, purge, sweep …) in this process.
    pub maintenance: bool,
    /// How often expired leases are rescued and delayed retries are made ready.
    pub rescue_interval: Duration,
    /// How often finished jobs are purged by their retention and old logs are trimmed.
    pub retention_interval: Duration,
    /// How often the object store is swept for audio whose job was never recorded.
    pub sweep_interval: Duration,
    /// Exit once nothing is left that this worker can do.
    pub once: bool,
    /// Offer, and pull, only what one of these fits; empty offers all that the models allow.
    pub capabilities: Vec<CapabilityFilter>,
    /// Offer the engine for load tests beside the real ones; see [`crate::load_engine`].
    pub load_engine: Option<LoadEngineConfig>,
}

/// A setting that cannot work, with what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    /// The field at fault.
    pub setting: &'static str,
    /// What is wrong and what to set instead.
    pub problem: String,
}

impl WorkerConfig {
    /// The defaults, given the places that have none.
    #[must_use]
    pub fn new(
        database: DatabaseConfig,
        storage: StorageConfig,
        model_dir: PathBuf,
        scratch_dir: PathBuf,
    ) -> Self {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self {
            database,
            identity: None,
            storage,
            model_dir,
            model_source: ModelSource::default(),
            hub: HubSettings::default(),
            runtime_library: None,
            device: Device::Auto,
            concurrency: DEFAULT_CONCURRENCY,
            light_concurrency: DEFAULT_LIGHT_CONCURRENCY,
            threads_per_model: cores,
            model_memory_budget: 8 << 30,
            model_idle_timeout: Some(Duration::from_secs(30 * 60)),
            model_scan_interval: Duration::from_secs(5),
            lease: Duration::from_secs(30),
            heartbeat_interval: Duration::from_secs(2),
            cancel_check_interval: Duration::from_millis(500),
            poll_interval: Duration::from_secs(1),
            shutdown_grace: Duration::from_secs(20),
            scratch_dir,
            maintenance: true,
            rescue_interval: Duration::from_secs(2),
            retention_interval: Duration::from_secs(60),
            sweep_interval: Duration::from_secs(3600),
            once: false,
            capabilities: Vec::new(),
            load_engine: None,
        }
    }

    /// Refuses settings that cannot work.
    ///
    /// # Errors
    /// The first setting at fault, with what to change.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |setting, problem: &str| {
            Err(ConfigError {
                setting,
                problem: problem.to_owned(),
            })
        };
        if self.lease < Duration::from_millis(300) {
            return refuse("lease", "must be at least 0.3 seconds");
        }
        if self.heartbeat_interval.is_zero() || self.heartbeat_interval * 3 > self.lease {
            return refuse(
                "heartbeat_interval",
                "must be more than 0 and at most a third of the lease, so that two lost heartbeats cost nothing",
            );
        }
        for (setting, interval) in [
            ("cancel_check_interval", self.cancel_check_interval),
            ("poll_interval", self.poll_interval),
            ("model_scan_interval", self.model_scan_interval),
            ("rescue_interval", self.rescue_interval),
            ("retention_interval", self.retention_interval),
            ("sweep_interval", self.sweep_interval),
        ] {
            if interval.is_zero() {
                return refuse(setting, "must be more than 0 seconds");
            }
        }
        if let Some(engine) = &self.load_engine
            && !(engine.realtime_factor.is_finite() && engine.realtime_factor >= 0.0)
        {
            return refuse("load_engine", "its realtime factor must be 0 or more");
        }
        Ok(())
    }
}

const DEFAULT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(4).expect("4 is not 0");
const DEFAULT_LIGHT_CONCURRENCY: NonZeroUsize = NonZeroUsize::new(2).expect("2 is not 0");

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> WorkerConfig {
        WorkerConfig::new(
            DatabaseConfig {
                url: "postgres://localhost/dalston".to_owned().into(),
                max_connections: 4,
                transaction_pooler: false,
                application_name: "test".to_owned(),
            },
            StorageConfig::Memory,
            "models".into(),
            "scratch".into(),
        )
    }

    #[test]
    fn the_defaults_are_accepted() {
        assert_eq!(config().check(), Ok(()));
    }

    #[test]
    fn a_heartbeat_that_two_losses_would_break_is_refused_with_the_remedy() {
        let slow = WorkerConfig {
            heartbeat_interval: Duration::from_secs(11),
            ..config()
        };
        let error = slow.check().expect_err("11 s of 30 s is too slow");
        assert_eq!(error.setting, "heartbeat_interval");
        assert!(error.problem.contains("a third of the lease"));
    }

    #[test]
    fn a_zero_interval_is_refused_by_name() {
        let zero = WorkerConfig {
            poll_interval: Duration::ZERO,
            ..config()
        };
        assert_eq!(
            zero.check().map_err(|error| error.setting),
            Err("poll_interval")
        );
    }
}
