//! The first layers of a segmentation model, run once over a file: what windows share is computed for the first of them
//! and kept for the next.

use std::sync::{Mutex, PoisonError};

use ndarray::Array3;
use ort::session::Session;
use ort::value::TensorRef;

use crate::audio_source::AudioSource;
use crate::error::{EngineError, Result};
use crate::session::RunGuard;

/// The layers that windows share.
pub struct Prefix {
    /// Audio `[1, 1, samples]` to values `[1, channels, frames]`.
    pub session: Mutex<Session>,
    /// Samples from a frame to the next.
    pub stride: usize,
    /// Samples a frame sees.
    pub field: usize,
}

impl Prefix {
    /// Frames of a stretch of audio.
    pub fn n_frames(&self, n_samples: usize) -> usize {
        if n_samples < self.field {
            0
        } else {
            1 + (n_samples - self.field) / self.stride
        }
    }

    /// The values of `n` frames, channel by channel.
    fn run(&self, samples: &[f32], run: &RunGuard) -> Result<(usize, Vec<f32>)> {
        const DOING: &str = "segmenting speech";
        let failed = |error: ort::Error| run.error(DOING, error);
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let input = session.inputs()[0].name().to_owned();
        let audio = TensorRef::from_array_view(([1, 1, samples.len()], samples)).map_err(failed)?;
        let outputs = session
            .run_with_options(ort::inputs![input => audio], run.options())
            .map_err(failed)?;
        let (shape, values) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
        match shape[..] {
            [1, channels, frames] if frames as usize == self.n_frames(samples.len()) => {
                Ok((channels as usize, values.to_vec()))
            }
            _ => Err(EngineError::graph(
                DOING,
                format!("its first layers give the shape {shape:?}"),
            )),
        }
    }
}

/// A walk over a file. Windows must come in order, each starting on a frame.
pub struct PrefixStream<'a> {
    prefix: &'a Prefix,
    /// Sample at which the first frame held begins.
    start: u64,
    /// The frames held, by channel.
    channels: Vec<Vec<f32>>,
}

impl<'a> PrefixStream<'a> {
    /// A walk from the start of a file.
    pub fn new(prefix: &'a Prefix) -> Self {
        Self {
            prefix,
            start: 0,
            channels: Vec::new(),
        }
    }

    /// The values of `count` windows of `window` samples, the first from `start` on and each `step` after the one
    /// before, `[windows, channels, frames]`.
    ///
    /// # Errors
    /// [`EngineError::Audio`], [`EngineError::Graph`], [`EngineError::Cancelled`].
    pub fn windows(
        &mut self,
        audio: &dyn AudioSource,
        (start, count): (u64, usize),
        (window, step): (usize, usize),
        run: &RunGuard,
    ) -> Result<Array3<f32>> {
        let stride = self.prefix.stride;
        let held = self.channels.first().map_or(0, Vec::len);
        let passed = ((start - self.start) / stride as u64) as usize;
        for channel in &mut self.channels {
            channel.drain(..passed.min(held));
        }
        self.start = start;
        let held = held.saturating_sub(passed);
        let wanted = self.prefix.n_frames(window + (count - 1) * step);
        if wanted > held {
            let mut samples = vec![0.0; (wanted - held - 1) * stride + self.prefix.field];
            audio.read(start + (held * stride) as u64, &mut samples)?;
            let (n_channels, values) = self.prefix.run(&samples, run)?;
            self.channels.resize(n_channels, Vec::new());
            for (channel, new) in self
                .channels
                .iter_mut()
                .zip(values.chunks_exact(wanted - held))
            {
                channel.extend_from_slice(new);
            }
        }
        let n_frames = self.prefix.n_frames(window);
        let mut values = Vec::with_capacity(count * self.channels.len() * n_frames);
        for at in 0..count {
            let first = at * step / stride;
            for channel in &self.channels {
                values.extend_from_slice(&channel[first..first + n_frames]);
            }
        }
        Array3::from_shape_vec((count, self.channels.len(), n_frames), values)
            .map_err(|error| EngineError::graph("segmenting speech", error))
    }
}
