//! The rewritten graph: the frames of all windows in one run, without padding.

use std::path::PathBuf;

use ndarray::{Array2, ArrayView3, s};
use ort::session::Session;
use ort::value::{Tensor, TensorRef, ValueType};

use crate::error::{EngineError, Result};
use crate::graph::fastconformer::{OptimizedEncoder, names};
use crate::session::{RunGuard, Runtime, SessionOptions};

/// An encoder session over a rewritten graph.
pub struct RewrittenEncoder {
    path: PathBuf,
    session: Session,
    n_mels: usize,
    subsampling: usize,
    weight_bytes: u64,
}

impl RewrittenEncoder {
    /// Loads a graph with `threads` threads.
    ///
    /// # Errors
    /// [`EngineError::Graph`] when it cannot be built, [`EngineError::ModelInvalid`] when it is not as we write it.
    pub(super) fn load(
        runtime: &Runtime,
        graph: &OptimizedEncoder,
        subsampling: usize,
        threads: usize,
    ) -> Result<Self> {
        let options = SessionOptions {
            threads,
            cpu_only: true,
            ..SessionOptions::default()
        };
        let session = runtime.session(&graph.path, &options)?;
        let features = session.inputs().first().map(|input| input.dtype());
        let n_mels = match features {
            Some(ValueType::Tensor { shape, .. }) => shape.get(1).copied(),
            _ => None,
        };
        let n_mels = n_mels.and_then(|n| usize::try_from(n).ok());
        Ok(Self {
            n_mels: n_mels.ok_or_else(|| EngineError::ModelInvalid {
                path: graph.path.clone(),
                message: "its first input is not [windows, mel bands, frames]".to_owned(),
            })?,
            path: graph.path.clone(),
            session,
            subsampling,
            weight_bytes: graph.stored.weight_bytes,
        })
    }

    pub(super) fn n_mels(&self) -> usize {
        self.n_mels
    }

    pub(super) fn weight_bytes(&self) -> u64 {
        self.weight_bytes
    }

    pub(super) fn encode(
        &mut self,
        features: ArrayView3<'_, f32>,
        n_frames: &[usize],
        run: &RunGuard,
    ) -> Result<Vec<Array2<f32>>> {
        let failed = |error: ort::Error| run.error("encoding audio", error);
        let lengths: Vec<usize> = n_frames
            .iter()
            .map(|n| n.div_ceil(self.subsampling))
            .collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let numbers = |values: &[usize]| {
            let values: Vec<i64> = values.iter().map(|&n| n as i64).collect();
            Tensor::from_array(([values.len()], values))
        };
        let inputs = ort::inputs![
            names::FEATURES => TensorRef::from_array_view(features).map_err(failed)?,
            names::FRAMES => numbers(n_frames).map_err(failed)?,
            names::LENGTHS => numbers(&lengths).map_err(failed)?,
            names::REACH => numbers(&[longest.saturating_sub(1)]).map_err(failed)?,
        ];
        let outputs = self
            .session
            .run_with_options(inputs, run.options())
            .map_err(failed)?;
        let states = outputs[0].try_extract_array::<f32>().map_err(failed)?;
        let states = states.into_dimensionality::<ndarray::Ix2>().map_err(|_| {
            EngineError::ModelInvalid {
                path: self.path.clone(),
                message: "its states have not two dimensions".to_owned(),
            }
        })?;
        let mut at = 0;
        let windows = lengths.into_iter().map(|length| {
            at += length;
            states.slice(s![at - length..at, ..]).to_owned()
        });
        Ok(windows.collect())
    }
}
