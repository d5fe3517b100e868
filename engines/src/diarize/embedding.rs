//! The engine `wespeaker`: a network (a residual network or x-vector) that turns the filter bank of one voice into a
//! vector whose direction is the speaker. Exports of `WeSpeaker` read `feats` `[batch, frames, mels]` and give `embs`
//! `[batch, size]`. It runs no task by itself: diarization needs it beside a segmentation model.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::{Array2, ArrayView3};
use ort::session::Session;
use ort::value::TensorRef;

use super::fbank::Fbank;
use super::one_graph::{OneGraph, description};
use crate::audio_source::SAMPLE_RATE;
use crate::error::{EngineError, Result};
use crate::graph::interface::{Interface, Port};
use crate::model_folder::Precision;
use crate::registry::{EngineSpec, LoadOptions, LoadedModel, ModelDescription, Stage};
use crate::session::{Device, RunGuard, Runtime};

/// The engine as the registry lists it.
pub const SPEC: EngineSpec = EngineSpec {
    id: "wespeaker",
    stage: Stage::Diarize,
    recognizes,
    describe,
    load,
};

/// Mel bands, where the export does not say.
const N_MELS: usize = 80;
/// What `WeSpeaker`'s exports call features and embeddings.
const PORTS: (&str, &str) = ("feats", "embs");
/// Samples are 16-bit values in training, unless the export says that they are normalised.
const SAMPLE_SCALE: f32 = 32_768.0;

fn recognizes(folder: &Path) -> bool {
    OneGraph::open(folder, Precision::Auto).is_ok_and(|graph| {
        let named = |ports: &[Port], name: &str| ports.iter().any(|port| port.name == name);
        named(&graph.interface.inputs, PORTS.0) && named(&graph.interface.outputs, PORTS.1)
    })
}

fn describe(folder: &Path, precision: Precision, _device: Device) -> Result<ModelDescription> {
    description(&SPEC, folder, precision, true)
}

fn load(runtime: &Runtime, folder: &Path, options: &LoadOptions) -> Result<LoadedModel> {
    SpeakerEmbedding::load(runtime, folder, options).map(LoadedModel::SpeakerEmbedding)
}

/// A loaded speaker embedding model. Clones share it.
#[derive(Clone)]
pub struct SpeakerEmbedding(Arc<Model>);

struct Model {
    session: Mutex<Session>,
    fbank: Fbank,
    weight_bytes: u64,
}

impl SpeakerEmbedding {
    /// Loads the model in a folder.
    ///
    /// # Errors
    /// [`EngineError::ModelFileMissing`], [`EngineError::ModelInvalid`] for features this program does not compute,
    /// [`EngineError::Graph`].
    pub fn load(runtime: &Runtime, folder: &Path, options: &LoadOptions) -> Result<Self> {
        let graph = OneGraph::open(folder, options.precision)?;
        let fbank = features(&graph.interface).map_err(|message| graph.invalid(message))?;
        Ok(Self(Arc::new(Model {
            session: Mutex::new(graph.session(runtime, options)?),
            fbank,
            weight_bytes: graph.weight_bytes(),
        })))
    }

    /// Bytes of weights held.
    pub fn weight_bytes(&self) -> u64 {
        self.0.weight_bytes
    }

    /// The filter bank the model is trained on. Its features must be centred before they are embedded.
    pub fn fbank(&self) -> &Fbank {
        &self.0.fbank
    }

    /// Embeds voices of equal length: `[voices, frames, mels]` to `[voices, size]`, as the network gives them; only the
    /// direction has a meaning.
    ///
    /// # Errors
    /// [`EngineError::Graph`], [`EngineError::Cancelled`].
    pub fn embed(&self, features: ArrayView3<'_, f32>, run: &RunGuard) -> Result<Array2<f32>> {
        const DOING: &str = "embedding voices";
        let failed = |error: ort::Error| run.error(DOING, error);
        let mut session = self
            .0
            .session
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let input = session.inputs()[0].name().to_owned();
        let voices = features.dim().0;
        let features = TensorRef::from_array_view(features).map_err(failed)?;
        let outputs = session
            .run_with_options(ort::inputs![input => features], run.options())
            .map_err(failed)?;
        let (shape, values) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        let wrong_shape =
            || EngineError::graph(DOING, format!("its output has the shape {shape:?}"));
        let size = shape.last().copied().unwrap_or(0) as usize;
        if size == 0 || voices * size != values.len() {
            return Err(wrong_shape());
        }
        Array2::from_shape_vec((voices, size), values.to_vec()).map_err(|_| wrong_shape())
    }
}

/// The filter bank an export asks for, by its input's shape and its metadata.
fn features(interface: &Interface) -> Result<Fbank, String> {
    let input = interface.inputs.first().ok_or("it has no input")?;
    let n_mels = match input.dims[..] {
        [_, _, last] => last.unwrap_or(N_MELS),
        _ => {
            let dims = &input.dims;
            return Err(format!(
                "its input has the shape {dims:?}, not [batch, frames, mels]"
            ));
        }
    };
    if let Some(rate) = interface
        .number("sample_rate")
        .filter(|&rate| rate != SAMPLE_RATE as usize)
    {
        return Err(format!(
            "it hears {rate} Hz; only 16000 Hz models are supported"
        ));
    }
    if let Some(window) = interface
        .metadata
        .get("window")
        .filter(|window| *window != "hamming")
    {
        return Err(format!(
            "its features use the window {window}; only hamming is supported"
        ));
    }
    let normalized = interface.number("normalize_samples") == Some(1);
    Ok(Fbank::new(
        n_mels,
        if normalized { 1.0 } else { SAMPLE_SCALE },
    ))
}
