//! The acoustic model: audio windows of equal length in, log-probabilities of every symbol and of the wildcard out.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use ort::session::SessionInputValue;
use ort::value::TensorRef;

use super::turns::Turns;
use super::vocabulary::Vocabulary;
use crate::audio_source::SAMPLE_RATE;
use crate::error::{EngineError, Result};
use crate::model_folder::Json;
use crate::registry::LoadOptions;
use crate::session::{Device, RunGuard, Runtime, SessionOptions};

/// How much likelier than the wildcard the best symbol of a frame is, as natural logarithm: the wildcard may cover any
/// sound, but must not take a frame from a symbol that explains it.
const WILDCARD_PENALTY: f32 = 0.5;

/// How samples become frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameGrid {
    /// Samples from one frame to the next.
    pub stride: usize,
    /// Samples that one frame sees of the waveform.
    pub receptive_field: usize,
}

impl FrameGrid {
    /// Frames of a number of samples.
    pub fn frames(self, samples: usize) -> usize {
        (samples + self.stride).saturating_sub(self.receptive_field) / self.stride
    }

    /// Samples that give a number of frames, at least 1.
    pub fn samples(self, frames: usize) -> usize {
        (frames - 1) * self.stride + self.receptive_field
    }

    /// Where a frame begins, seconds: frame `i` stands for the samples from `i · stride` to the next frame's first.
    pub fn seconds(self, frame: usize) -> f64 {
        (frame * self.stride) as f64 / f64::from(SAMPLE_RATE)
    }

    /// The convolutions of `config.json` in a row; those of wav2vec2 where it does not say.
    fn read(config: &Json) -> Result<Self> {
        let sizes = |key: &str, default: &[usize]| -> Result<Vec<usize>> {
            let Some(value) = config.get(key) else {
                return Ok(default.to_vec());
            };
            let sizes: Option<Vec<usize>> = value.as_array().and_then(|sizes| {
                sizes
                    .iter()
                    .map(|size| {
                        Some(usize::try_from(size.as_u64()?).ok()?).filter(|&size| size > 0)
                    })
                    .collect()
            });
            sizes
                .filter(|sizes| !sizes.is_empty())
                .ok_or_else(|| config.invalid(format!("{key} is no list of positive numbers")))
        };
        let kernels = sizes("conv_kernel", &[10, 3, 3, 3, 3, 2, 2])?;
        let strides = sizes("conv_stride", &[5, 2, 2, 2, 2, 2, 2])?;
        let mut grid = Self {
            stride: 1,
            receptive_field: 1,
        };
        for (kernel, stride) in kernels.iter().zip(&strides) {
            grid.receptive_field += (kernel - 1) * grid.stride;
            grid.stride *= stride;
        }
        Ok(grid)
    }
}

/// A loaded graph.
pub struct Network {
    path: PathBuf,
    session: Turns,
    waveform: String,
    /// An input of ones, in models that were trained with padding masked.
    attention_mask: Option<String>,
    logits: String,
    normalize: bool,
    grid: FrameGrid,
    n_symbols: usize,
    batch_size: usize,
}

impl Network {
    /// Loads a graph of a model folder.
    ///
    /// # Errors
    /// Files that are missing or contradict the graph, or what ONNX Runtime says of it.
    pub fn load(
        runtime: &Runtime,
        folder: &Path,
        graph: &Path,
        options: &LoadOptions,
        vocabulary: &Vocabulary,
    ) -> Result<Self> {
        let config = Json::required(folder, "config.json")?;
        let preprocessor = Json::optional(folder, "preprocessor_config.json")?;
        let setting = |key: &str| preprocessor.as_ref()?.get(key).cloned();
        if let Some(rate) = setting("sampling_rate").and_then(|rate| rate.as_u64())
            && rate != u64::from(SAMPLE_RATE)
        {
            return Err(config.invalid(format!(
                "its sampling_rate is {rate}; only 16000 Hz models are supported"
            )));
        }
        let session = runtime.session(
            graph,
            &SessionOptions {
                threads: options.threads,
                ..SessionOptions::default()
            },
        )?;
        let invalid = |message: &str| EngineError::ModelInvalid {
            path: graph.to_owned(),
            message: message.to_owned(),
        };
        let names: Vec<String> = session
            .inputs()
            .iter()
            .map(|input| input.name().to_owned())
            .collect();
        let (masks, waveforms): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| name == "attention_mask");
        let [waveform] = <[String; 1]>::try_from(waveforms).map_err(|names| {
            invalid(&format!("it wants the inputs {names:?}, not one waveform"))
        })?;
        let outputs = session.outputs();
        let logits = outputs
            .iter()
            .find(|output| output.name() == "logits")
            .or(outputs.first())
            .map(|output| output.name().to_owned())
            .ok_or_else(|| invalid("it has no output"))?;
        // A window of 20 s takes hundreds of megabytes in the first convolutions of a full-size model, and a CPU gains
        // nothing by batching; besides, windows in one int8 call would share the scale of their activations.
        let batch_size = match runtime.device() {
            Device::Cuda => options.batch_size.clamp(1, 8),
            Device::Auto | Device::Cpu => 1,
        };
        Ok(Self {
            path: graph.to_owned(),
            session: Turns::new(session),
            waveform,
            attention_mask: masks.into_iter().next(),
            logits,
            normalize: setting("do_normalize")
                .and_then(|value| value.as_bool())
                .unwrap_or(true),
            grid: FrameGrid::read(&config)?,
            n_symbols: vocabulary.size(),
            batch_size,
        })
    }

    /// How its samples become frames.
    pub fn grid(&self) -> FrameGrid {
        self.grid
    }

    /// Columns of a row of emissions: the symbols and the wildcard.
    pub fn columns(&self) -> usize {
        self.n_symbols + 1
    }

    /// Windows to give to one call.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Natural log-probabilities `[frames, columns]` of each window. All windows are equally long, at least the
    /// receptive field; their samples are normalised in place.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`] when the guard is stopped; a failing graph, or one whose frames contradict
    /// `config.json`.
    pub fn emissions(&self, windows: &mut [Vec<f32>], run: &RunGuard) -> Result<Vec<Vec<f32>>> {
        let n_samples = windows.first().map_or(0, Vec::len);
        let shape = [windows.len(), n_samples];
        let mut batch = Vec::with_capacity(shape[0] * n_samples);
        for window in windows.iter_mut() {
            if self.normalize {
                normalize(window);
            }
            batch.extend_from_slice(window);
        }
        let doing = format!("running {}", self.path.display());
        let failed = |error: ort::Error| run.error(&doing, error);
        let mask = vec![
            1_i64;
            if self.attention_mask.is_some() {
                batch.len()
            } else {
                0
            }
        ];
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![(
            self.waveform.as_str().into(),
            TensorRef::from_array_view((shape, &batch[..]))
                .map_err(failed)?
                .into(),
        )];
        if let Some(name) = &self.attention_mask {
            let mask = TensorRef::from_array_view((shape, &mask[..])).map_err(failed)?;
            inputs.push((name.as_str().into(), mask.into()));
        }
        let mut session = self.session.take(run)?;
        let outputs = session
            .run_with_options(inputs, run.options())
            .map_err(failed)?;
        let logits = outputs
            .get(&self.logits)
            .ok_or_else(|| run.error(&doing, format!("it gave no {}", self.logits)))?;
        let (found, values) = logits.try_extract_tensor::<f32>().map_err(failed)?;
        let n_frames = self.grid.frames(n_samples);
        let expected = [shape[0], n_frames, self.n_symbols]
            .map(|size| i64::try_from(size).unwrap_or(i64::MAX));
        if found[..] != expected {
            return Err(EngineError::ModelInvalid {
                path: self.path.clone(),
                message: format!(
                    "it gives logits of shape {found:?} where config.json means {expected:?}"
                ),
            });
        }
        Ok(values
            .chunks_exact(n_frames * self.n_symbols)
            .map(|window| self.log_probabilities(window))
            .collect())
    }

    fn log_probabilities(&self, logits: &[f32]) -> Vec<f32> {
        let mut rows = Vec::with_capacity(logits.len() / self.n_symbols * self.columns());
        for row in logits.chunks_exact(self.n_symbols) {
            let highest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = row.iter().map(|logit| (logit - highest).exp()).sum();
            let normalizer = highest + total.ln();
            rows.extend(row.iter().map(|logit| logit - normalizer));
            rows.push(highest - normalizer - WILDCARD_PENALTY);
        }
        rows
    }
}

/// Zero mean and unit variance, as the reference's feature extractor.
fn normalize(samples: &mut [f32]) {
    const EPSILON: f64 = 1e-7;
    let count = samples.len().max(1) as f64;
    let mean = samples.iter().map(|&sample| f64::from(sample)).sum::<f64>() / count;
    let variance = samples
        .iter()
        .map(|&sample| (f64::from(sample) - mean).powi(2))
        .sum::<f64>()
        / count;
    let scale = 1.0 / (variance + EPSILON).sqrt();
    for sample in samples {
        *sample = ((f64::from(*sample) - mean) * scale) as f32;
    }
}
