//! The models of this worker: what is on disk, what each can do, and those in memory. One pool serves the engines of
//! every stage; a task takes a model by its key and holds it while it works, and all tasks that use a model share one
//! copy of it, so that their windows are decoded in one batch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use dalston_engines::registry::{self, LoadOptions, LoadedModel, ModelDescription};
use dalston_engines::{Device, Runtime};
use dalston_schema::Stage;
use dalston_schema::capability::OfferedCapability;
use dalston_schema::db::models::AnnouncedModel;
use dalston_schema::measure::Measure;
use tokio::sync::watch;

use crate::failure::{StageError, StageResult};
use crate::measures::Measures;
use crate::model_pool::{ModelInMemory, ModelKey, ModelPool, PooledModel};
use crate::model_store::InstalledModel;
use crate::registration::Offer;

/// A model on disk, with what its engine says of it.
#[derive(Clone, Debug, PartialEq)]
pub struct PresentModel {
    /// Its folder and manifest.
    pub installed: InstalledModel,
    /// What it can do; `None` for a model that no registered engine runs (voice activity) or that its engine cannot
    /// read.
    pub description: Option<ModelDescription>,
}

/// The models on disk, by engine and id.
pub type PresentModels = BTreeMap<ModelKey, PresentModel>;

impl PresentModel {
    /// Looks at a model on disk; says in the log when its engine cannot read it.
    #[must_use]
    pub fn look(installed: InstalledModel, device: Device) -> Self {
        let precision = LoadOptions::for_device(device).precision;
        let described = registry::engine(&installed.manifest.engine)
            .map(|engine| (engine.describe)(&installed.folder, precision, device));
        if let Some(Err(error)) = &described {
            tracing::warn!(
                model = installed.id(),
                %error,
                "{} is not offered: its engine cannot read it",
                installed.id()
            );
        }
        Self {
            installed,
            description: described.and_then(Result::ok),
        }
    }

    /// The key under which it is loaded.
    #[must_use]
    pub fn key(&self) -> ModelKey {
        ModelKey {
            engine: self.installed.manifest.engine.clone(),
            model: self.installed.manifest.id.clone(),
        }
    }

    /// Whether it is a part that another model of its stage needs.
    #[must_use]
    pub fn is_component(&self) -> bool {
        self.description
            .as_ref()
            .is_some_and(|description| description.component)
    }

    /// Bytes it counts with in memory: its weights as its engine will load them.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.description
            .as_ref()
            .map_or(self.installed.size_bytes(), |description| {
                description.weight_bytes
            })
    }

    /// What the registry of models is told of it.
    #[must_use]
    pub fn announced(&self) -> AnnouncedModel {
        let manifest = &self.installed.manifest;
        AnnouncedModel {
            model: manifest.id.clone(),
            engine: manifest.engine.clone(),
            stage: manifest.stage.as_str().to_owned(),
            size_bytes: self.installed.size_bytes(),
            component: self.is_component(),
            folder: self.installed.folder.display().to_string(),
            since: manifest.imported_at,
        }
    }

    /// What a worker with this model offers; `None` when it runs no task by itself.
    #[must_use]
    pub fn offered(&self, device: Device) -> Option<OfferedCapability> {
        let description = self.description.as_ref()?;
        (!description.component).then(|| OfferedCapability {
            native_words: description.native_words,
            alignment_method: description.alignment_method.map(str::to_owned),
            streaming: description.streaming,
            memory_bytes: description.weight_bytes,
            execution_provider: execution_provider(device).to_owned(),
            vocabulary_method: description.vocabulary.to_owned(),
            ..self.installed.offered(device.as_str())
        })
    }
}

/// What can be offered with these models on a device: each model whose engine this program has and whose parts are
/// here. Speakers are told apart by two models, so the first is offered only beside the second.
#[must_use]
pub fn offered(models: &PresentModels, device: Device) -> Vec<OfferedCapability> {
    let has_component = |stage| {
        models
            .values()
            .any(|model| model.is_component() && model.installed.manifest.stage == stage)
    };
    models
        .values()
        .filter_map(|model| model.offered(device))
        .filter(|offer| {
            let stage = offer.capability.stage;
            stage != Stage::Diarize || has_component(stage)
        })
        .collect()
}

/// ONNX Runtime's name of what runs on a device.
#[must_use]
pub fn execution_provider(device: Device) -> &'static str {
    match device {
        Device::Cuda => "CUDAExecutionProvider",
        Device::Cpu | Device::Auto => "CPUExecutionProvider",
    }
}

/// The models that tasks of this worker take. Clones share it.
#[derive(Clone)]
pub struct Models {
    pool: ModelPool<LoadedModel>,
    offer: watch::Receiver<Offer>,
}

impl std::fmt::Debug for Models {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Models")
            .field("pool", &self.pool)
            .finish_non_exhaustive()
    }
}

impl Models {
    /// Loads what `offer` has on disk, each with `threads` threads, into `budget` bytes.
    #[must_use]
    pub fn new(
        runtime: &Runtime,
        threads: usize,
        budget: u64,
        offer: watch::Receiver<Offer>,
        measures: Measures,
    ) -> Self {
        let (runtime, on_disk) = (runtime.clone(), offer.clone());
        let pool = ModelPool::new(budget, move |key| {
            let model = present(&on_disk, key)?;
            let started = Instant::now();
            let loaded = load(&runtime, threads, &model.installed)?;
            let seconds = started.elapsed().as_secs_f64();
            measures.observe(Measure::ModelLoad, &[("model", &key.model)], seconds);
            Ok(loaded)
        });
        Self { pool, offer }
    }

    /// Takes a model for use, loading it when needed. It stays in memory while the answer lives.
    ///
    /// # Errors
    /// A failure fit for the task that asked: the model was removed, or what loading said.
    pub async fn acquire(&self, key: &ModelKey) -> StageResult<PooledModel<LoadedModel>> {
        let bytes = present(&self.offer, key)?.memory_bytes();
        self.pool.acquire(key, bytes).await
    }

    /// The component of a stage to use (for `diarize`, the speaker embedding): the one `named`, else the largest here.
    ///
    /// # Errors
    /// A failure that another worker may not have, naming what is missing.
    pub fn component(&self, stage: Stage, named: Option<&str>) -> StageResult<ModelKey> {
        let models = Arc::clone(&self.offer.borrow().models);
        models
            .values()
            .filter(|model| model.is_component() && model.installed.manifest.stage == stage)
            .filter(|model| named.is_none_or(|id| model.installed.id() == id))
            .max_by_key(|model| model.installed.size_bytes())
            .map(PresentModel::key)
            .ok_or_else(|| {
                StageError::retryable(match named {
                    Some(id) => format!("The model {id} is not on this worker."),
                    None => format!("This worker has lost a model that the stage {stage} needs."),
                })
            })
    }

    /// Whether a model is on disk here, whatever its stage.
    #[must_use]
    pub fn has(&self, key: &ModelKey) -> bool {
        self.offer.borrow().models.contains_key(key)
    }

    /// What is loaded now.
    #[must_use]
    pub fn in_memory(&self) -> Vec<ModelInMemory> {
        self.pool.loaded()
    }

    /// Unloads models that nobody used for `idle`, and answers how many.
    pub fn unload_idle(&self, idle: std::time::Duration) -> usize {
        self.pool.unload_idle(idle)
    }

    /// Unloads models that are not in use and not in `models` any more.
    pub fn unload_removed(&self, models: &PresentModels) {
        self.pool.unload_unknown(|key| models.contains_key(key));
    }
}

/// A model on disk.
fn present(offer: &watch::Receiver<Offer>, key: &ModelKey) -> StageResult<PresentModel> {
    offer.borrow().models.get(key).cloned().ok_or_else(|| {
        // Another worker may still have it.
        StageError::retryable(format!(
            "The model {} was removed from this worker.",
            key.model
        ))
    })
}

/// Loads a model. Blocks.
fn load(runtime: &Runtime, threads: usize, model: &InstalledModel) -> StageResult<LoadedModel> {
    let engine = registry::engine(&model.manifest.engine).ok_or_else(|| {
        StageError::permanent(format!(
            "This version has no engine {} for the model {}.",
            model.manifest.engine,
            model.id()
        ))
    })?;
    let options = LoadOptions {
        threads,
        ..LoadOptions::for_device(runtime.device())
    };
    Ok((engine.load)(runtime, &model.folder, &options)?)
}
