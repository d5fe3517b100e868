//! The encoder: features of several windows in, states of their frames out. A CTC export's only graph is one too, with
//! log-probabilities for states. On a CPU it is rewritten ([`crate::graph::fastconformer`]); what is not recognised, or
//! does not agree with the published graph, runs as it was published.

mod published;
mod rewritten;

use std::path::Path;

use ndarray::{Array2, Array3, ArrayView3};

use super::folder::{Graphs, ParakeetFolder};
use crate::error::{EngineError, Result};
use crate::graph::stored::beside_model;
use crate::graph::{Arithmetic, GraphError, correlation, fastconformer};
use crate::model_folder::{Precision, file_bytes};
use crate::session::{Device, RunGuard, Runtime};
use published::PublishedEncoder;
use rewritten::RewrittenEncoder;

/// Least correlation of states with the published graph's for a new graph to be believed: floats must agree, bytes
/// round differently.
const AGREEMENT: [(Arithmetic, f64); 2] = [(Arithmetic::Float, 0.999_99), (Arithmetic::Int8, 0.95)];
/// Frames of the windows that both graphs are tried on: of two lengths, so that padding counts.
const PROBE: [usize; 2] = [400, 277];

/// An encoder.
pub enum Encoder {
    /// The published graph.
    Published(PublishedEncoder),
    /// The rewritten one.
    Rewritten(RewrittenEncoder),
}

impl Encoder {
    /// Loads a folder's graph with `threads` threads; rewritten, where that can be.
    ///
    /// # Errors
    /// [`EngineError::Graph`] when the published graph cannot be built, [`EngineError::ModelInvalid`] when its inputs
    /// are not those of an offline encoder.
    pub fn load(runtime: &Runtime, folder: &ParakeetFolder, threads: usize) -> Result<Self> {
        match Self::load_rewritten(runtime, folder, threads) {
            Ok(rewritten) => Ok(Self::Rewritten(rewritten)),
            Err(reason) => {
                tracing::info!(%reason, folder = %folder.path.display(), "the model runs as published");
                Self::load_published(runtime, folder, threads)
            }
        }
    }

    /// Loads a folder's graph as it was published.
    ///
    /// # Errors
    /// As [`Encoder::load`].
    pub fn load_published(
        runtime: &Runtime,
        folder: &ParakeetFolder,
        threads: usize,
    ) -> Result<Self> {
        PublishedEncoder::load(runtime, folder, threads).map(Self::Published)
    }

    fn load_rewritten(
        runtime: &Runtime,
        folder: &ParakeetFolder,
        threads: usize,
    ) -> Result<RewrittenEncoder, GraphError> {
        if runtime.device() != Device::Cpu {
            return Err(GraphError::invalid(
                "the rewritten graph runs on the CPU only",
            ));
        }
        let arithmetic = match folder.precision {
            Precision::Int8 => Arithmetic::Int8,
            Precision::Float | Precision::Auto => Arithmetic::Float,
        };
        let (Graphs::Ctc(path) | Graphs::Transducer { encoder: path, .. }) = &folder.graphs;
        let graph = beside_model(&folder.path, |out: &Path| {
            fastconformer::optimize_encoder(path, arithmetic, out)
        })?;
        let failed = |error: EngineError| GraphError::invalid(error.to_string());
        let mut rewritten =
            RewrittenEncoder::load(runtime, &graph, folder.subsampling, threads).map_err(failed)?;
        if graph.stored.is_new {
            let published = PublishedEncoder::load(runtime, folder, threads).map_err(failed)?;
            let agreement = agreement(&mut rewritten, published).map_err(failed);
            if let Err(error) = agreement.and_then(|agreement| believe(arithmetic, agreement)) {
                graph.stored.remove()?;
                return Err(error);
            }
            tracing::info!(folder = %folder.path.display(), "the model's graph was rewritten");
        }
        Ok(rewritten)
    }

    /// Mel bands of its input, where the graph says.
    pub fn n_mels(&self) -> Option<usize> {
        match self {
            Self::Published(encoder) => encoder.n_mels(),
            Self::Rewritten(encoder) => Some(encoder.n_mels()),
        }
    }

    /// Whether windows of any length go well together: no padding is computed, and none feels another.
    pub fn mixes_lengths(&self) -> bool {
        matches!(self, Self::Rewritten(_))
    }

    /// Bytes of its weights.
    pub fn weight_bytes(&self) -> u64 {
        match self {
            Self::Published(encoder) => file_bytes(encoder.path()),
            Self::Rewritten(encoder) => encoder.weight_bytes(),
        }
    }

    /// Encodes `features` `[windows, mel bands, frames]`, of whose frames `n_frames` hold audio; answers the states of
    /// each window, `[frames, width]`.
    ///
    /// # Errors
    /// [`EngineError::Graph`], [`EngineError::Cancelled`].
    pub fn encode(
        &mut self,
        features: ArrayView3<'_, f32>,
        n_frames: &[usize],
        run: &RunGuard,
    ) -> Result<Vec<Array2<f32>>> {
        match self {
            Self::Published(encoder) => encoder.encode(features, n_frames, run),
            Self::Rewritten(encoder) => encoder.encode(features, n_frames, run),
        }
    }
}

/// Whether states agree well enough.
fn believe(arithmetic: Arithmetic, agreement: f64) -> Result<(), GraphError> {
    let least = AGREEMENT.iter().find(|(kind, _)| *kind == arithmetic);
    // A comparison with NaN is false.
    if agreement >= least.map_or(1.0, |(_, least)| *least) {
        return Ok(());
    }
    Err(GraphError::invalid(format!(
        "the rewritten graph's states agree with the published one's by {agreement:.5} only"
    )))
}

/// How well both agree on two made-up windows.
fn agreement(rewritten: &mut RewrittenEncoder, mut published: PublishedEncoder) -> Result<f64> {
    let longest = PROBE.into_iter().max().unwrap_or(0);
    let sizes = (PROBE.len(), rewritten.n_mels(), longest);
    let features = Array3::from_shape_fn(sizes, |(window, band, frame)| {
        let phase = frame as f32 * 0.07 * (1.0 + band as f32 * 0.1 + window as f32);
        if frame < PROBE[window] {
            phase.sin() + (phase * 0.013).cos()
        } else {
            0.0
        }
    });
    let run = RunGuard::new()?;
    let ours = rewritten.encode(features.view(), &PROBE, &run)?;
    let theirs = published.encode(features.view(), &PROBE, &run)?;
    let all = |states: &[Array2<f32>]| -> Vec<f32> {
        states
            .iter()
            .flat_map(|states| states.iter().copied())
            .collect()
    };
    let (ours, theirs) = (all(&ours), all(&theirs));
    Ok(if ours.len() == theirs.len() {
        correlation(&ours, &theirs)
    } else {
        0.0
    })
}
