//! The graph as it was published: windows side by side, padded to the longest.

use std::path::{Path, PathBuf};

use ndarray::{Array2, ArrayView3, Axis, s};
use ort::session::Session;
use ort::value::{Tensor, TensorRef, ValueType};

use crate::error::{EngineError, Result};
use crate::parakeet::folder::{Graphs, ParakeetFolder};
use crate::session::{RunGuard, Runtime, SessionOptions};

/// An encoder session with its inputs and outputs understood.
pub struct PublishedEncoder {
    path: PathBuf,
    session: Session,
    features: String,
    lengths: String,
    n_mels: Option<usize>,
    /// Dimension that counts frames: 2 where states come channel by channel, as encoders give them, else 1.
    time_axis: usize,
    subsampling: usize,
}

impl PublishedEncoder {
    /// Loads a folder's graph with `threads` threads.
    ///
    /// # Errors
    /// [`EngineError::Graph`] when the graph cannot be built, [`EngineError::ModelInvalid`] when its inputs are not
    /// those of an offline encoder.
    pub(super) fn load(runtime: &Runtime, folder: &ParakeetFolder, threads: usize) -> Result<Self> {
        let (path, time_axis) = match &folder.graphs {
            Graphs::Ctc(path) => (path, 1),
            Graphs::Transducer { encoder, .. } => (encoder, 2),
        };
        let options = SessionOptions {
            threads,
            ..SessionOptions::default()
        };
        let session = runtime.session(path, &options)?;
        let invalid = |message: &str| EngineError::ModelInvalid {
            path: path.to_owned(),
            message: message.to_owned(),
        };
        let [features, lengths] = session.inputs() else {
            return Err(invalid(
                "it is no offline encoder: two inputs are expected, features and their lengths \
                 (streaming exports have caches as well; import the offline export)",
            ));
        };
        let ValueType::Tensor { shape, .. } = features.dtype() else {
            return Err(invalid("its first input is no tensor"));
        };
        if shape.len() != 3 {
            return Err(invalid(
                "its first input is not [windows, mel bands, frames]",
            ));
        }
        let n_mels = usize::try_from(shape[1]).ok().filter(|&n| n > 0);
        let (features, lengths) = (features.name().to_owned(), lengths.name().to_owned());
        Ok(Self {
            path: path.to_owned(),
            features,
            lengths,
            n_mels,
            time_axis,
            subsampling: folder.subsampling,
            session,
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn n_mels(&self) -> Option<usize> {
        self.n_mels
    }

    pub(super) fn encode(
        &mut self,
        features: ArrayView3<'_, f32>,
        n_frames: &[usize],
        run: &RunGuard,
    ) -> Result<Vec<Array2<f32>>> {
        let failed = |error: ort::Error| run.error("encoding audio", error);
        // A window of nothing in a batch must not divide by zero.
        let lengths: Vec<i64> = n_frames.iter().map(|&n| n.max(1) as i64).collect();
        let lengths = Tensor::from_array(([n_frames.len()], lengths)).map_err(failed)?;
        let features = TensorRef::from_array_view(features).map_err(failed)?;
        let outputs = self
            .session
            .run_with_options(
                ort::inputs![&*self.features => features, &*self.lengths => lengths],
                run.options(),
            )
            .map_err(failed)?;
        let path = &self.path;
        let invalid = |message: String| EngineError::ModelInvalid {
            path: path.clone(),
            message,
        };
        let states = outputs[0].try_extract_array::<f32>().map_err(failed)?;
        let states = states
            .into_dimensionality::<ndarray::Ix3>()
            .map_err(|_| invalid("its states have not three dimensions".to_owned()))?;
        let states = if self.time_axis == 2 {
            states.permuted_axes([0, 2, 1])
        } else {
            states
        };
        let most = states.len_of(Axis(1));
        let mut lengths: Vec<usize> = match outputs.iter().nth(1) {
            Some((_, lengths)) => lengths
                .try_extract_tensor::<i64>()
                .map_err(failed)?
                .1
                .iter()
                .map(|&n| usize::try_from(n).unwrap_or(0).min(most))
                .collect(),
            // CTC exports do not answer lengths; every convolution of stride 2 rounds up.
            None => n_frames
                .iter()
                .map(|&n| n.div_ceil(self.subsampling).min(most))
                .collect(),
        };
        for (length, &n) in lengths.iter_mut().zip(n_frames) {
            *length = if n == 0 { 0 } else { *length };
        }
        let windows = states.outer_iter().zip(lengths);
        let window = |(states, length): (ndarray::ArrayView2<'_, f32>, usize)| {
            states
                .slice(s![..length, ..])
                .as_standard_layout()
                .into_owned()
        };
        Ok(windows.map(window).collect())
    }
}
