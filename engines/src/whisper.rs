//! Whisper (Radford et al., 2022): log-mel windows of 30 s in, text with time tokens out. File and function names follow
//! openai/whisper, so that both can be read side by side; equality with the transformers implementation is tested
//! token for token.
//!
//! The order to read in: [`pipeline`] (audio to transcription), `longform` (which windows), `decoding` (window to
//! tokens), [`backend`] (what decoding asks of a network), [`optimized`] (rewritten graphs), [`model`] (the published
//! ones), [`timing`] (words).

pub mod backend;
mod decoding;
mod language;
mod longform;
pub mod model;
pub mod optimized;
pub mod pipeline;
mod prompt;
mod segments;
pub mod timing;
pub mod tokenizer;

pub(crate) use decoding::compression_ratio;

use std::path::Path;

use crate::error::Result;
use crate::model_folder::{ModelFolder, Precision};
use crate::registry::{EngineSpec, LoadOptions, LoadedModel, ModelDescription, Stage};
use crate::session::{Device, Runtime};
use crate::transcriber::TranscriberHandle;
use model::PublishedModel;
use optimized::OptimizedModel;
use pipeline::{PipelineOptions, Whisper};

/// The engine as the registry lists it.
pub const SPEC: EngineSpec = EngineSpec {
    id: "whisper",
    stage: Stage::Transcribe,
    recognizes,
    describe,
    load,
};

/// A folder whose `config.json` names the model type.
fn recognizes(folder: &Path) -> bool {
    std::fs::read(folder.join("config.json"))
        .ok()
        .and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok())
        .is_some_and(|config| {
            config
                .get("model_type")
                .is_some_and(|kind| kind == "whisper")
        })
}

fn describe(folder: &Path, precision: Precision, device: Device) -> Result<ModelDescription> {
    let model = ModelFolder::read(folder, precision, device)?;
    let languages = if model.is_multilingual() {
        model
            .tokens
            .languages
            .iter()
            .map(|(code, _)| code.clone())
            .collect()
    } else {
        vec!["en".to_owned()]
    };
    Ok(ModelDescription {
        engine: SPEC.id,
        stage: SPEC.stage,
        languages,
        translates: model.tokens.translate.is_some(),
        native_words: model.has_cross_attention(),
        alignment_method: model.has_cross_attention().then_some("attention"),
        vocabulary: if model.tokens.sot_prev.is_some() {
            "prompt_conditioning"
        } else {
            "none"
        },
        component: false,
        streaming: false,
        precision: model.graphs.precision,
        weight_bytes: model.graphs.bytes(),
    })
}

/// Loads a model folder onto a thread of its own.
///
/// # Errors
/// What is missing or wrong in the folder, or what ONNX Runtime says of its graphs.
pub fn load(runtime: &Runtime, folder: &Path, options: &LoadOptions) -> Result<LoadedModel> {
    let folder = ModelFolder::read(folder, options.precision, runtime.device())?;
    let name = folder.path.file_name().map_or_else(
        || "whisper".into(),
        |name| name.to_string_lossy().into_owned(),
    );
    let pipeline = PipelineOptions {
        threads: options.threads,
        batch_size: options.batch_size,
    };
    let handle = match OptimizedModel::load(runtime, &folder, options.threads) {
        Ok(backend) => TranscriberHandle::spawn(&name, Whisper::new(backend, folder, pipeline)?),
        Err(reason) => {
            tracing::info!(model = %name, %reason, "the model runs from its published graphs");
            let backend = PublishedModel::load(runtime, &folder, options.threads)?;
            TranscriberHandle::spawn(&name, Whisper::new(backend, folder, pipeline)?)
        }
    };
    handle.map(LoadedModel::Transcriber)
}
