//! `/v1/engines`: what runs here, from what the workers announced. A busy engine is running, not unhealthy.

mod missing;

use std::collections::BTreeMap;

use dalston_schema::Stage;
use dalston_schema::capability::OfferedCapability;
use dalston_schema::catalogue;
use dalston_schema::db::workers::{self, Worker};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use self::missing::MissingCapability;
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
    /// Tasks at a time, over all workers; null for stages without a model, which are never what is waited for.
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
    /// The runtime's execution providers that really run it, for example `CPUExecutionProvider`.
    execution_providers: Vec<String>,
}

/// A model of an engine.
#[derive(Debug, Object)]
pub struct EngineModel {
    /// Its id.
    id: String,
    /// Bytes of its files.
    size_bytes: u64,
    /// Memory its weights take when loaded; null when not known.
    memory_bytes: Option<u64>,
    /// Workers that have it.
    workers: usize,
    /// Workers that have it in memory.
    loaded: usize,
}

/// A worker that runs an engine.
#[derive(Debug, Object)]
pub struct EngineWorker {
    /// This run of the process.
    id: String,
    /// Host it runs on.
    host: String,
    /// `idle`, `busy` (all slots taken), `working`, `draining` (takes nothing new) or `silent`.
    status: String,
    /// Where it runs models.
    device: String,
    /// Tasks with a model that it runs at a time, over all engines; `prepare` and `merge` run beside them.
    slots: i32,
    /// Tasks it runs now.
    active_tasks: i32,
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
    /// `running`, `available` (no worker has it) or `unhealthy` (its workers are silent). A busy one is running.
    status: String,
    /// Every worker that has it is draining: it finishes what it does and takes nothing new.
    draining: bool,
    /// A model in memory.
    loaded_model: Option<String>,
    /// Models that are present.
    available_models: Option<Vec<String>>,
    /// The same with their memory.
    models: Vec<EngineModel>,
    /// The workers that have it.
    workers: Vec<EngineWorker>,
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

/// One thing that live workers can do.
#[derive(Debug, Object)]
pub struct CapabilityObject {
    /// Stage.
    stage: String,
    /// Engine; null for a stage without a model.
    engine_id: Option<String>,
    /// Model; null for a stage without a model.
    model_id: Option<String>,
    /// Languages; null when multilingual.
    languages: Option<Vec<String>>,
    /// It gives words with times.
    word_timestamps: bool,
    /// How it times them: `attention`, `tdt`, `rnnt`, `ctc`, `phoneme_wav2vec`.
    alignment_method: Option<String>,
    /// How it uses a vocabulary: `prompt_conditioning`, `phrase_boosting` or `none`.
    vocabulary_method: String,
    /// It can translate to English.
    translates: bool,
    /// It gives results while audio still arrives.
    native_streaming: bool,
    /// Longest audio of one task in seconds; null when only the general limit holds.
    max_audio_duration_s: Option<f64>,
    /// Where it really runs.
    device: String,
    /// The execution provider that really runs it.
    execution_provider: Option<String>,
}

/// What can be done here now.
#[derive(Debug, Object)]
pub struct Capabilities {
    /// Everything that live workers can do.
    capabilities: Vec<CapabilityObject>,
    /// What tasks wait for and nobody can do.
    missing: Vec<MissingCapability>,
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
            stage.supports_native_streaming |= offer.streaming;
        }
        let formats = ["wav", "flac", "mp3", "m4a", "ogg", "webm"];
        Ok(Json(Capabilities {
            capabilities: offered.iter().map(capability).collect(),
            missing: missing::read(&self.0.pool, self.0.config.hub.offline).await?,
            stages: stages.into_iter().collect(),
            max_audio_duration_s: Some(dalston_audio::AudioLimits::default().max_duration),
            supported_formats: formats.map(str::to_owned).to_vec(),
        }))
    }
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn capability(offer: &OfferedCapability) -> CapabilityObject {
    CapabilityObject {
        stage: offer.capability.stage.as_str().to_owned(),
        engine_id: some(&offer.capability.engine),
        model_id: some(&offer.capability.model),
        languages: offer.languages.clone(),
        word_timestamps: offer.native_words,
        alignment_method: offer.alignment_method.clone(),
        vocabulary_method: offer.vocabulary_method.clone(),
        translates: offer.translates,
        native_streaming: offer.streaming,
        max_audio_duration_s: offer.max_audio_seconds,
        device: offer.device.clone(),
        execution_provider: some(&offer.execution_provider),
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
        draining: false,
        available_models: None,
        models: Vec::new(),
        workers: Vec::new(),
        capabilities: EngineCapabilities::default(),
        hardware: EngineHardware {
            gpu_required: false,
            min_vram_gb: None,
            supports_cpu: true,
            min_ram_gb: None,
            devices: Vec::new(),
            execution_providers: Vec::new(),
        },
        performance: EnginePerformance::default(),
    }
}

/// Adds what one worker says of an engine. A worker offers an engine once per model; its slots count once.
fn add(engine: &mut EngineObject, worker: &Worker, offer: &OfferedCapability) {
    let id = worker.id.to_string();
    let first = engine.workers.iter().all(|known| known.id != id);
    if first {
        engine.workers.push(EngineWorker {
            id,
            host: worker.hostname.clone(),
            status: status_of(worker).to_owned(),
            device: worker.device.clone(),
            slots: worker.slots,
            active_tasks: worker.active_tasks,
        });
    }
    if worker.status == "silent" {
        if engine.status == "available" {
            "unhealthy".clone_into(&mut engine.status);
        }
        return;
    }
    "running".clone_into(&mut engine.status);
    engine.version.clone_from(&worker.version);
    let mut live = engine
        .workers
        .iter()
        .filter(|known| known.status != "silent");
    engine.draining = live.all(|known| known.status == "draining");
    if !offer.capability.model.is_empty() {
        add_model(engine, worker, offer);
        engine.capabilities.supports_language_forcing |=
            offer.capability.stage == Stage::Transcribe;
    }
    engine.capabilities.supports_word_timestamps |= offer.native_words;
    engine.capabilities.supports_native_streaming |= offer.streaming;
    if let Some(limit) = offer.max_audio_seconds {
        let longest = engine.capabilities.max_audio_duration_s.unwrap_or(limit);
        engine.capabilities.max_audio_duration_s = Some(longest.max(limit));
    }
    if !engine.hardware.devices.contains(&offer.device) {
        engine.hardware.devices.push(offer.device.clone());
    }
    if let Some(provider) = some(&offer.execution_provider)
        && !engine.hardware.execution_providers.contains(&provider)
    {
        engine.hardware.execution_providers.push(provider);
    }
    if first && worker.status == "live" && !offer.capability.model.is_empty() {
        let slots = engine.capabilities.max_concurrency.unwrap_or(0) + worker.slots;
        engine.capabilities.max_concurrency = Some(slots);
    }
}

fn status_of(worker: &Worker) -> &str {
    match worker.status.as_str() {
        "live" if worker.active_tasks == 0 => "idle",
        "live" if worker.active_tasks >= worker.slots => "busy",
        "live" => "working",
        other => other,
    }
}

fn add_model(engine: &mut EngineObject, worker: &Worker, offer: &OfferedCapability) {
    let id = &offer.capability.model;
    let at = worker.loaded_models.iter().position(|loaded| loaded == id);
    if at.is_some() && engine.loaded_model.is_none() {
        engine.loaded_model = Some(id.clone());
    }
    let names = engine.available_models.get_or_insert_default();
    if !names.contains(id) {
        names.push(id.clone());
        engine.models.push(EngineModel {
            id: id.clone(),
            size_bytes: offer.size_bytes,
            memory_bytes: (offer.memory_bytes > 0).then_some(offer.memory_bytes),
            workers: 0,
            loaded: 0,
        });
    }
    if let Some(model) = engine.models.iter_mut().find(|model| model.id == *id) {
        model.workers += 1;
        model.loaded += usize::from(at.is_some());
        // What it takes where it is loaded goes before what it would take.
        let measured = at.and_then(|at| worker.model_bytes.get(at).copied().flatten());
        if let Some(bytes) = measured.and_then(|bytes| u64::try_from(bytes).ok()) {
            model.memory_bytes = Some(bytes);
        }
    }
}
