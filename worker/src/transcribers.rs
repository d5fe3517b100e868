//! The transcribers in memory: one handle per model, shared by all tasks that use it, so that their windows are decoded
//! in one batch.

use std::sync::Arc;

use dalston_engines::{
    AudioSource, Control, EngineError, Runtime, TranscribeOptions, Transcription,
};

use crate::failure::{StageError, StageResult};
use crate::model_pool::ModelPool;
use crate::model_store::InstalledModel;

/// A loaded transcriber; cheap to clone.
#[derive(Clone)]
pub struct Transcriber(Arc<Call>);

type Call = dyn Fn(Arc<dyn AudioSource>, TranscribeOptions, Control) -> Result<Transcription, EngineError>
    + Send
    + Sync;

impl Transcriber {
    /// Transcribes; blocks until done, stopped or failed.
    ///
    /// # Errors
    /// As the engine says; [`EngineError::Cancelled`] when stopped.
    pub fn transcribe(
        &self,
        audio: Arc<dyn AudioSource>,
        options: TranscribeOptions,
        control: Control,
    ) -> Result<Transcription, EngineError> {
        (self.0)(audio, options, control)
    }
}

/// The pool of transcribers.
pub type TranscriberPool = ModelPool<Transcriber>;

/// Whether this program has an engine of this id.
#[must_use]
pub fn has_engine(engine: &str) -> bool {
    let _ = engine;
    false
}

/// Loads a model; blocks.
///
/// # Errors
/// A failure fit for the task that asked for the model.
pub fn load(runtime: &Runtime, threads: usize, model: &InstalledModel) -> StageResult<Transcriber> {
    let _ = (runtime, threads);
    Err(StageError::permanent(format!(
        "no engine for {}",
        model.id()
    )))
}
