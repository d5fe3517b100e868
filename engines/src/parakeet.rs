//! NVIDIA's Parakeet and other FastConformer models (Rekesh et al., 2023) in their published ONNX layouts, with a TDT,
//! RNNT or CTC decoder. Equality with onnx-asr and NeMo is tested token for token.
//!
//! The order to read in: [`pipeline`] (audio to transcription), `windows` (what is decoded together), [`features`] and
//! [`encoder`] (audio to states), `transducer` and `ctc` (states to tokens), `words` (tokens to segments), `boosting`
//! (words to listen for), [`folder`] and [`vocabulary`] (files).

mod boosting;
mod ctc;
pub mod encoder;
pub mod features;
pub mod folder;
pub mod pipeline;
mod token;
mod transducer;
pub mod vocabulary;
mod windows;
mod words;

use std::path::Path;

use crate::error::Result;
use crate::model_folder::Precision;
use crate::registry::{EngineSpec, LoadOptions, LoadedModel, ModelDescription, Stage};
use crate::session::{Device, Runtime};
use crate::transcriber::TranscriberHandle;
use encoder::Encoder;
use folder::{Graphs, ParakeetFolder};
use pipeline::{Decoder, Parakeet, PipelineOptions};
use transducer::network::Network;

/// Feature frames in one call of the encoder on a CPU: 30 s. Short utterances share the cost of a call; long windows gain
/// nothing together, and the attention of a few would take memory by the hundreds of megabytes.
const CPU_FRAMES: usize = 3_000;

/// The engine as the registry lists it.
pub const SPEC: EngineSpec = EngineSpec {
    id: "parakeet",
    stage: Stage::Transcribe,
    recognizes: folder::recognizes,
    describe,
    load: |runtime, folder, options| load(runtime, folder, options).map(LoadedModel::Transcriber),
};

fn describe(folder: &Path, precision: Precision, device: Device) -> Result<ModelDescription> {
    let folder = ParakeetFolder::read(folder, precision, device)?;
    Ok(ModelDescription {
        engine: SPEC.id,
        stage: SPEC.stage,
        translates: false,
        native_words: true,
        alignment_method: Some(folder.alignment_method()?),
        vocabulary: "phrase_boosting",
        component: false,
        streaming: false,
        precision: folder.precision,
        weight_bytes: folder.bytes(),
        languages: folder.languages,
    })
}

/// Loads a model folder onto a thread of its own.
///
/// # Errors
/// What is missing or wrong in the folder, or what ONNX Runtime says of its graphs.
pub fn load(runtime: &Runtime, folder: &Path, options: &LoadOptions) -> Result<TranscriberHandle> {
    let folder = ParakeetFolder::read(folder, options.precision, runtime.device())?;
    let name = folder.path.file_name().map_or_else(
        || SPEC.id.into(),
        |name| name.to_string_lossy().into_owned(),
    );
    let options = PipelineOptions {
        threads: options.threads,
        batch_size: options.batch_size,
        frames_at_once: match runtime.device() {
            Device::Cuda => usize::MAX,
            Device::Auto | Device::Cpu => CPU_FRAMES,
        },
        longest_s: windows::LONGEST,
    };
    TranscriberHandle::spawn(&name, open(runtime, folder, options)?)
}

/// Loads a folder's graphs.
///
/// # Errors
/// As [`load`].
pub fn open(
    runtime: &Runtime,
    folder: ParakeetFolder,
    options: PipelineOptions,
) -> Result<Parakeet> {
    let encoder = Encoder::load(runtime, &folder, options.threads)?;
    let decoder = match &folder.graphs {
        Graphs::Ctc(_) => Decoder::Ctc,
        Graphs::Transducer { network, .. } => {
            let network = Network::read(network, folder.vocabulary.blank() + 1)?;
            Decoder::Transducer(Box::new(network))
        }
    };
    Ok(Parakeet::new(encoder, decoder, folder, options))
}
