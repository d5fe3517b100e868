//! The transcribers in memory: one handle per model, shared by all tasks that use it, so that their windows are decoded
//! in one batch.

use dalston_engines::registry::{self, LoadOptions};
use dalston_engines::{Device, Runtime, TranscriberHandle};

use crate::failure::{StageError, StageResult};
use crate::model_pool::ModelPool;
use crate::model_store::InstalledModel;

/// The pool of transcribers.
pub type TranscriberPool = ModelPool<TranscriberHandle>;

/// Whether this program has an engine of this id.
#[must_use]
pub fn has_engine(engine: &str) -> bool {
    registry::engine(engine).is_some()
}

/// Bytes that a model counts with in memory: its weights as far as the engine knows them before loading, else its files.
#[must_use]
pub fn memory_bytes(device: Device, model: &InstalledModel) -> u64 {
    registry::engine(&model.manifest.engine)
        .and_then(|engine| {
            let precision = LoadOptions::for_device(device).precision;
            (engine.describe)(&model.folder, precision, device).ok()
        })
        .map_or(model.size_bytes(), |description| description.weight_bytes)
}

/// Loads a model onto a thread of its own. Blocks.
///
/// # Errors
/// A failure fit for the task that asked for the model.
pub fn load(
    runtime: &Runtime,
    threads: usize,
    model: &InstalledModel,
) -> StageResult<TranscriberHandle> {
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
    let loaded = (engine.load)(runtime, &model.folder, &options)?;
    loaded.into_transcriber().ok_or_else(|| {
        StageError::permanent(format!("The model {} is no transcriber.", model.id()))
    })
}
