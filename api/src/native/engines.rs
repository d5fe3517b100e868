//! `/v1/engines`: what runs here, from what the workers announced. A busy engine is running, not unhealthy.

use std::collections::BTreeMap;

use dalston_schema::capability::OfferedCapability;
use dalston_schema::catalogue;
use dalston_schema::db::workers::{self, Worker};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use crate::auth::{Caller, Permission};
use crate::document::Tag;
use crate::error::ApiError;
use crate::state::App;

/// What an engine can do.
#[derive(Debug, Default, Object)]
pub struct EngineCapabilities {
    /// It gives words with times.
    supports_word_timestamps: bool,
    /// It can transcribe live.
    supports_native_streaming: bool,
    /// It can be told the language.
    supports_language_forcing: bool,
    /// Longest audio in seconds; null for the general limit.
    max_audio_duration_s: Option<f64>,
    /// Tasks at a time, over all workers.
    max_concurrency: Option<i32>,
}

/// What an engine needs.
#[derive(Debug, Object)]
pub struct EngineHardware {
    /// It cannot run without a GPU.
    gpu_required: bool,
    /// Memory on a GPU.
    min_vram_gb: Option<f64>,
    /// It runs on a CPU.
    supports_cpu: bool,
    /// Memory on a CPU.
    min_ram_gb: Option<f64>,
    /// Where it really runs: `cpu`, `cuda`.
    devices: Vec<String>,
}

/// How fast an engine is, in seconds of work per second of audio.
#[derive(Debug, Default, Object)]
pub struct EnginePerformance {
    /// On a GPU.
    rtf_gpu: Option<f64>,
    /// On a CPU.
    rtf_cpu: Option<f64>,
}

/// An engine.
#[derive(Debug, Object)]
#[oai(rename = "Engine")]
pub struct EngineObject {
    /// Its id.
    id: String,
    /// Name for people.
    name: Option<String>,
    /// Stage it serves.
    stage: String,
    /// Version of the program that runs it.
    version: String,
    /// Always `inproc`: engines are part of the worker.
    execution_profile: String,
    /// `running`, `available` (no worker has it) or `unhealthy` (its workers are silent).
    status: String,
    /// A model in memory.
    loaded_model: Option<String>,
    /// Models that are present.
    available_models: Option<Vec<String>>,
    /// What it can do.
    capabilities: EngineCapabilities,
    /// What it needs.
    hardware: EngineHardware,
    /// How fast it is.
    performance: EnginePerformance,
}

/// Engines.
#[derive(Debug, Object)]
pub struct EngineList {
    /// The engines.
    engines: Vec<EngineObject>,
    /// How many.
    total: usize,
}

/// What can be done at a stage.
#[derive(Debug, Default, Object)]
pub struct StageCapabilities {
    /// Engines that run it.
    engines: Vec<String>,
    /// Some engine gives words with times.
    supports_word_timestamps: bool,
    /// Some engine can transcribe live.
    supports_native_streaming: bool,
}

/// What can be done here now.
#[derive(Debug, Object)]
pub struct Capabilities {
    /// By stage.
    stages: std::collections::HashMap<String, StageCapabilities>,
    /// Longest audio in seconds.
    max_audio_duration_s: Option<f64>,
    /// Formats that are read.
    supported_formats: Vec<String>,
}

/// The engine endpoints.
pub struct EnginesApi(pub App);

#[OpenApi(tag = "Tag::Models")]
impl EnginesApi {
    /// List engines.
    #[oai(path = "/v1/engines", method = "get")]
    async fn list(&self, caller: Caller) -> Result<Json<EngineList>, ApiError> {
        caller.require(Permission::ModelRead)?;
        let engines = engines(&workers::list(&self.0.pool).await?);
        Ok(Json(EngineList {
            total: engines.len(),
            engines,
        }))
    }

    /// What can be done here now, by stage.
    #[oai(path = "/v1/engines/capabilities", method = "get")]
    async fn capabilities(&self, caller: Caller) -> Result<Json<Capabilities>, ApiError> {
        caller.require(Permission::ModelRead)?;
        let offered = workers::offered(&self.0.pool).await?;
        let mut stages: BTreeMap<String, StageCapabilities> = BTreeMap::new();
        for offer in &offered {
            let stage = stages
                .entry(offer.capability.stage.as_str().to_owned())
                .or_default();
            let engine = engine_of(offer);
            if !stage.engines.contains(&engine) {
                stage.engines.push(engine);
            }
            stage.supports_word_timestamps |= offer.native_words;
        }
        let formats = ["wav", "flac", "mp3", "m4a", "ogg", "webm"];
        Ok(Json(Capabilities {
            stages: stages.into_iter().collect(),
            max_audio_duration_s: Some(dalston_audio::AudioLimits::default().max_duration),
            supported_formats: formats.map(str::to_owned).to_vec(),
        }))
    }
}

/// The engine of an offer; a stage without a model is its own engine.
fn engine_of(offer: &OfferedCapability) -> String {
    if offer.capability.engine.is_empty() {
        offer.capability.stage.as_str().to_owned()
    } else {
        offer.capability.engine.clone()
    }
}

/// One entry for each engine and stage, from every worker that has it, and one for each engine that no worker has.
fn engines(workers: &[Worker]) -> Vec<EngineObject> {
    let mut found: BTreeMap<(String, String), EngineObject> = BTreeMap::new();
    for worker in workers {
        for offer in &worker.capabilities {
            let id = engine_of(offer);
            let stage = offer.capability.stage.as_str().to_owned();
            let engine = found
                .entry((stage.clone(), id.clone()))
                .or_insert_with(|| absent(&id, &stage));
            add(engine, worker, offer);
        }
    }
    for entry in catalogue::entries() {
        let stage = entry.stage.as_str().to_owned();
        if catalogue::catalogue().serves(&entry.engine) {
            found
                .entry((stage.clone(), entry.engine.clone()))
                .or_insert_with(|| absent(&entry.engine, &stage));
        }
    }
    found.into_values().collect()
}

fn absent(id: &str, stage: &str) -> EngineObject {
    EngineObject {
        id: id.to_owned(),
        name: None,
        stage: stage.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        execution_profile: "inproc".to_owned(),
        status: "available".to_owned(),
        loaded_model: None,
        available_models: None,
        capabilities: EngineCapabilities::default(),
        hardware: EngineHardware {
            gpu_required: false,
            min_vram_gb: None,
            supports_cpu: true,
            min_ram_gb: None,
            devices: Vec::new(),
        },
        performance: EnginePerformance::default(),
    }
}

fn add(engine: &mut EngineObject, worker: &Worker, offer: &OfferedCapability) {
    if worker.status == "silent" {
        if engine.status == "available" {
            "unhealthy".clone_into(&mut engine.status);
        }
        return;
    }
    let first = engine.status != "running";
    "running".clone_into(&mut engine.status);
    engine.version.clone_from(&worker.version);
    let model = &offer.capability.model;
    if !model.is_empty() {
        let models = engine.available_models.get_or_insert_default();
        if !models.contains(model) {
            models.push(model.clone());
        }
        if engine.loaded_model.is_none() && worker.loaded_models.contains(model) {
            engine.loaded_model = Some(model.clone());
        }
        engine.capabilities.supports_language_forcing = true;
    }
    engine.capabilities.supports_word_timestamps |= offer.native_words;
    if !engine.hardware.devices.contains(&offer.device) {
        engine.hardware.devices.push(offer.device.clone());
    }
    // A worker offers an engine once per model; its slots count once.
    let counts = first
        || worker
            .capabilities
            .iter()
            .find(|other| engine_of(other) == engine_of(offer))
            == Some(offer);
    if counts {
        let slots = engine.capabilities.max_concurrency.unwrap_or(0) + worker.slots;
        engine.capabilities.max_concurrency = Some(slots);
    }
}
