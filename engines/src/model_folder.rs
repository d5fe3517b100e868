//! Reads a model folder in the layout Whisper exports are published in (onnx-community, optimum, onnx-asr): which graphs
//! are there and which to run, and every size and token id from its own files. Nothing is guessed from a name.

mod graphs;
mod json;
mod tokens;

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::Result;
use crate::session::Device;
use crate::whisper::backend::Dims;
pub(crate) use graphs::suffix_order;
pub use graphs::{DecoderGraphs, Graphs, Precision, choose_graph, file_bytes};
use graphs::{choose_graphs, has_output};
pub(crate) use json::Json;
use json::{token, token_list};
pub use tokens::SpecialTokens;
use tokens::{read_added_tokens, special_tokens};

/// Features the network expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureConfig {
    /// Samples of a Fourier transform.
    pub n_fft: usize,
    /// Samples between frames.
    pub hop_length: usize,
    /// Mel bands.
    pub n_mels: usize,
    /// Samples of a window.
    pub n_samples: usize,
}

/// Everything a folder says about its model, and its graphs.
#[derive(Debug, Clone)]
pub struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// The graphs chosen.
    pub graphs: Graphs,
    /// Sizes.
    pub dims: Dims,
    /// Feature extraction.
    pub features: FeatureConfig,
    /// Special tokens.
    pub tokens: SpecialTokens,
    /// Tokens never to emit; `None` leaves the choice to the tokenizer's list of non-speech symbols.
    pub suppress_tokens: Option<Vec<u32>>,
    /// Tokens not to begin with.
    pub begin_suppress_tokens: Option<Vec<u32>>,
    /// Latest first time token, counted from `<|0.00|>`.
    pub max_initial_timestamp_index: Option<u32>,
    /// Longest sequence to generate, prompt included.
    pub max_length: usize,
    /// `(layer, head)` whose cross-attention follows time; `None` when the export does not say.
    pub alignment_heads: Option<Vec<(usize, usize)>>,
    /// Width of the median filter over cross-attention.
    pub median_filter_width: usize,
}

impl ModelFolder {
    /// Reads a folder and chooses graphs for a device.
    ///
    /// # Errors
    /// [`crate::EngineError::ModelFileMissing`] naming the file, [`crate::EngineError::ModelInvalid`] for files that contradict
    /// themselves.
    pub fn read(path: &Path, precision: Precision, device: Device) -> Result<Self> {
        let config = Json::required(path, "config.json")?;
        let generation =
            Json::optional(path, "generation_config.json")?.unwrap_or_else(|| config.clone());
        let preprocessor = Json::optional(path, "preprocessor_config.json")?;
        let either = |key: &str| generation.get(key).or_else(|| config.get(key));

        if config
            .get("model_type")
            .is_some_and(|kind| kind != "whisper")
        {
            return Err(config.invalid("model_type is not whisper".into()));
        }
        let n_mels = config.size("num_mel_bins")?;
        let dims = Dims {
            n_mels,
            n_frames: 2 * config.size("max_source_positions")?,
            n_audio_ctx: config.size("max_source_positions")?,
            n_text_ctx: config.size("max_target_positions")?,
            n_text_layer: config.size("decoder_layers")?,
            n_text_head: config.size("decoder_attention_heads")?,
            n_vocab: config.size("vocab_size")?,
        };
        let features = feature_config(preprocessor.as_ref(), &dims)?;
        let named = read_added_tokens(path)?;
        let tokens = special_tokens(&config, &generation, &named)?;
        Ok(Self {
            path: path.to_owned(),
            graphs: choose_graphs(path, precision, device)?,
            features,
            tokens,
            suppress_tokens: either("suppress_tokens").and_then(token_list),
            begin_suppress_tokens: either("begin_suppress_tokens").and_then(token_list),
            max_initial_timestamp_index: either("max_initial_timestamp_index").and_then(token),
            max_length: either("max_length")
                .and_then(token)
                .map_or(dims.n_text_ctx, |length| length as usize)
                // A plain config.json carries the library's default of 20, which is no property of the model.
                .max(dims.n_text_ctx / 2)
                .min(dims.n_text_ctx),
            alignment_heads: generation.get("alignment_heads").and_then(head_list),
            median_filter_width: config
                .get("median_filter_width")
                .and_then(token)
                .unwrap_or(7) as usize,
            dims,
        })
    }

    /// Whether the model knows more than English.
    pub fn is_multilingual(&self) -> bool {
        !self.tokens.languages.is_empty()
    }

    /// Whether a decoder of the folder outputs cross-attentions, by the names its graph file holds.
    pub fn has_cross_attention(&self) -> bool {
        let prompt = match &self.graphs.decoder {
            DecoderGraphs::Merged(path) | DecoderGraphs::WithPast { prompt: path, .. } => path,
        };
        self.graphs.timestamped_decoder.is_some() || has_output(prompt, "cross_attentions.0")
    }
}

fn head_list(value: &Value) -> Option<Vec<(usize, usize)>> {
    let pair = |head: &Value| {
        let head = head.as_array()?;
        Some((
            token(head.first()?)? as usize,
            token(head.get(1)?)? as usize,
        ))
    };
    value
        .as_array()?
        .iter()
        .map(pair)
        .collect::<Option<Vec<_>>>()
        .filter(|heads| !heads.is_empty())
}

fn feature_config(preprocessor: Option<&Json>, dims: &Dims) -> Result<FeatureConfig> {
    const N_FFT: usize = 400;
    const HOP_LENGTH: usize = 160;
    let standard = FeatureConfig {
        n_fft: N_FFT,
        hop_length: HOP_LENGTH,
        n_mels: dims.n_mels,
        n_samples: dims.n_frames * HOP_LENGTH,
    };
    let Some(file) = preprocessor else {
        return Ok(standard);
    };
    let or = |key: &str, default: usize| {
        file.get(key)
            .and_then(token)
            .map_or(default, |value| value as usize)
    };
    let features = FeatureConfig {
        n_fft: or("n_fft", N_FFT),
        hop_length: or("hop_length", HOP_LENGTH),
        n_mels: or("feature_size", dims.n_mels),
        n_samples: or("n_samples", standard.n_samples),
    };
    let rate = or("sampling_rate", 16_000);
    if rate != 16_000 {
        return Err(file.invalid(format!(
            "sampling_rate is {rate}; only 16000 Hz models are supported"
        )));
    }
    if features.n_mels != dims.n_mels
        || features.n_samples / features.hop_length.max(1) != dims.n_frames
    {
        return Err(file.invalid(format!(
            "its {} mel bands and {} samples a window do not fit config.json's {} and {} frames",
            features.n_mels, features.n_samples, dims.n_mels, dims.n_frames
        )));
    }
    Ok(features)
}
