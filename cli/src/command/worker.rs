//! `dalston worker`: claims tasks and runs them. Any number may run, on any machine that reaches database and audio.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use clap::builder::RangedU64ValueParser;
use dalston_engines::Device;
use dalston_schema::capability::CapabilityFilter;
use dalston_schema::{Stage, catalogue};
use dalston_worker::WorkerConfig;
use dalston_worker::config::ModelSource;
use dalston_worker::load_engine::{self, LoadEngineConfig};
use dalston_worker::model_store::HubSettings;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DeviceChoice};
use crate::database::Database;
use crate::{Usage, stop, storage};

/// Seconds between heartbeats: what users see of a job moves as often.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// Options of `dalston worker`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  DATABASE_URL=postgres://… DALSTON_S3_BUCKET=audio dalston worker
  dalston worker --concurrency 2 --capabilities transcribe,align
  dalston worker --capabilities transcribe/parakeet,diarize
  dalston worker --once                    # empty the queue, then exit

SIGTERM lets running tasks finish for DALSTON_SHUTDOWN_GRACE_SECONDS, then gives them back.")]
pub struct Worker {
    /// Tasks with a model to run at a time [env: DALSTON_WORKER_CONCURRENCY; default: 4]
    #[arg(long, value_parser = RangedU64ValueParser::<u32>::new().range(1..=256))]
    concurrency: Option<u32>,
    /// Do only these (comma-separated): STAGE, STAGE/ENGINE or STAGE/ENGINE/MODEL; default: all that the models allow
    #[arg(
        long,
        alias = "stages",
        value_delimiter = ',',
        value_name = "CAPABILITY"
    )]
    capabilities: Vec<String>,
    /// Exit when nothing is left to do
    #[arg(long)]
    once: bool,
    /// Leave maintenance (rescue, retention, sweeping) to other workers
    #[arg(long)]
    no_maintenance: bool,
    /// What stays the same when this worker is restarted; tasks of its earlier runs are then released at once
    #[arg(long, hide = true)]
    pub identity: Option<String>,
}

impl Worker {
    /// The settings these options set.
    pub fn settings(&self) -> [(&'static str, Option<String>); 1] {
        [(
            "DALSTON_WORKER_CONCURRENCY",
            self.concurrency.map(|count| count.to_string()),
        )]
    }
}

/// Works until asked to stop, or with `--once` until nothing is left to do.
pub async fn run(options: Worker, config: Config) -> anyhow::Result<()> {
    let database = Database::required(&config, "worker").await?;
    let worker = worker_config(&options, &config, &database)?;
    worker.check()?;
    let shutdown = CancellationToken::new();
    stop::on_signals(&shutdown)?;
    dalston_worker::run(worker, shutdown)
        .await
        .context("working")
}

fn worker_config(
    options: &Worker,
    config: &Config,
    database: &Database,
) -> anyhow::Result<WorkerConfig> {
    let capabilities = options.capabilities.iter().map(|name| {
        name.parse::<CapabilityFilter>()
            .and_then(|filter| offerable(filter, config.load_engine_factor.is_some()))
            .map_err(|error| Usage(format!("--capabilities: {error}")))
    });
    let defaults = WorkerConfig::new(
        database.connection(config, "dalston-worker"),
        storage::config(config),
        config.model_dir.clone(),
        config.data_dir.join("scratch"),
    );
    Ok(WorkerConfig {
        identity: options.identity.clone(),
        model_source: if config.share_models {
            ModelSource::ObjectStore
        } else {
            ModelSource::Hub
        },
        hub: HubSettings {
            endpoint: config.hf_endpoint.clone(),
            token: config.hf_token.clone(),
            offline: config.offline,
            ..HubSettings::default()
        },
        runtime_library: runtime_library(config),
        device: match config.device {
            DeviceChoice::Auto => Device::Auto,
            DeviceChoice::Cpu => Device::Cpu,
            DeviceChoice::Cuda => Device::Cuda,
        },
        concurrency: config.concurrency,
        threads_per_model: config.threads.unwrap_or(defaults.threads_per_model),
        model_memory_budget: config.model_memory_bytes,
        model_idle_timeout: config.model_ttl,
        lease: config.lease,
        // Of a short lease a sixth: two lost heartbeats cost nothing.
        heartbeat_interval: config
            .heartbeat
            .unwrap_or_else(|| HEARTBEAT.min(config.lease / 6)),
        rescue_interval: config.rescue_interval,
        shutdown_grace: config.shutdown_grace,
        maintenance: !options.no_maintenance,
        once: options.once,
        capabilities: capabilities.collect::<Result<_, _>>()?,
        load_engine: config
            .load_engine_factor
            .map(|realtime_factor| LoadEngineConfig {
                realtime_factor,
                faults: config.load_engine_faults,
            }),
        ..defaults
    })
}

/// Refuses what no worker of this version could ever offer: it would run for ever and do nothing.
fn offerable(filter: CapabilityFilter, load_engine: bool) -> Result<CapabilityFilter, String> {
    let Some(engine) = &filter.engine else {
        return Ok(filter);
    };
    let stage = filter.stage;
    let mut engines: Vec<&str> = catalogue::entries()
        .iter()
        .filter(|entry| entry.stage == stage && stage != Stage::Prepare && !entry.component)
        .map(|entry| entry.engine.as_str())
        .filter(|engine| catalogue::catalogue().serves(engine))
        .collect();
    if load_engine && stage == Stage::Transcribe {
        engines.push(load_engine::NAME);
    }
    engines.sort_unstable();
    engines.dedup();
    if engines.contains(&engine.as_str()) {
        return Ok(filter);
    }
    Err(match engines.as_slice() {
        [] => format!("{stage} has no engines; write {stage} alone"),
        known => format!(
            "there is no engine {engine} for {stage}; there is {}",
            known.join(", ")
        ),
    })
}

/// The library that the configuration names, or the one `make setup` fetched; without either the engine looks around.
fn runtime_library(config: &Config) -> Option<PathBuf> {
    let fetched =
        || Some(config.runtime_dir.join("libonnxruntime.so")).filter(|library| library.exists());
    config.ort_library.clone().or_else(fetched)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_that_no_worker_could_offer_is_refused() {
        let read = |text: &str, load_engine| {
            let filter = text.parse::<CapabilityFilter>();
            filter.and_then(|filter| offerable(filter, load_engine))
        };
        for text in [
            "transcribe",
            "transcribe/whisper",
            "align/wav2vec2/my/own-model",
            "diarize/pyannote",
        ] {
            assert!(read(text, false).is_ok(), "{text}");
        }
        assert!(read("transcribe/sleep", true).is_ok());
        for (text, said) in [
            (
                "transcribe/foo",
                "there is no engine foo for transcribe; there is parakeet, whisper",
            ),
            (
                "align/whisper",
                "there is no engine whisper for align; there is wav2vec2",
            ),
            ("merge/foo", "merge has no engines; write merge alone"),
            (
                "prepare/silero-vad",
                "prepare has no engines; write prepare alone",
            ),
            (
                "transcribe/sleep",
                "there is no engine sleep for transcribe; there is parakeet, whisper",
            ),
        ] {
            assert_eq!(read(text, false), Err(said.to_owned()));
        }
    }
}
