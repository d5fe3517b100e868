//! Rewriting of published Whisper graphs. The exports waste work: attention is a chain of unfused operations, the
//! decoder computes logits for every position, copies its cache at every step and reads 32-bit cross-attention keys and
//! values for every token, and int8 exports leave attention (sometimes the output head) in floats.
//!
//! [`optimize_whisper`] recognises the network in the published files whatever its tensors are called, and writes
//! three compact graphs with the same weights into a folder, once: the first caller writes, later ones and other
//! processes find it. A graph that is not recognised is left alone and the reason returned.
//!
//! [`source`] reads, [`recognise`] finds, [`rewrite`] writes, [`stored`] keeps; [`operators`] are the kernels the new graphs
//! call. [`fastconformer`] does the same for Parakeet's encoders.
//!
//! Beside it, for graphs of any kind: [`interface`] says what a file holds without loading it, [`shared_prefix`] splits off
//! the layers that overlapping windows share.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub mod emit;
pub mod fastconformer;
pub mod interface;
pub mod linear;
pub mod onnx;
pub mod operators;
pub mod recognise;
pub mod rewrite;
pub mod shared_prefix;
pub mod source;
pub mod stored;
pub mod tensor;

use operators::cross_attention::HeadShape;
use stored::Stored;

const ENCODER: &str = "encoder.onnx";
const DECODER: &str = "decoder.onnx";
const ALIGNMENT: &str = "alignment.onnx";

/// In what the network's products are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Arithmetic {
    /// 32-bit floats: results equal the published float graphs'.
    Float,
    /// 8-bit integers with 32-bit sums.
    Int8,
}

/// Sizes of the network, as its configuration states them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Mel bands.
    pub n_mels: usize,
    /// Encoder positions.
    pub n_ctx: usize,
    /// Width of the states.
    pub width: usize,
    /// Attention heads of an encoder layer.
    pub encoder_heads: usize,
    /// Attention heads of a decoder layer.
    pub decoder_heads: usize,
    /// Decoder positions.
    pub n_text_ctx: usize,
    /// Vocabulary.
    pub n_vocab: usize,
}

impl Shape {
    /// Shape of a decoder head.
    pub fn decoder_head(&self) -> HeadShape {
        HeadShape {
            n_ctx: self.n_ctx,
            head_dim: self.width / self.decoder_heads,
        }
    }
}

/// The graphs that stand in for the published ones.
#[derive(Debug, Clone)]
pub struct OptimizedWhisper {
    /// Mel → packed cross-attention keys and values.
    pub encoder: PathBuf,
    /// Tokens → logits.
    pub decoder: PathBuf,
    /// Tokens → cross-attention weights.
    pub alignment: PathBuf,
    /// What they compute in.
    pub arithmetic: Arithmetic,
    /// Where they lie.
    pub stored: Stored,
}

/// What a published graph lacks to be known as Whisper. The graph is used as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{missing} not found in the published graph")]
pub struct NotRecognised {
    /// The part that was looked for.
    pub missing: String,
}

/// Why graphs were not rewritten. The published ones still work.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// Not the network we know.
    #[error(transparent)]
    NotRecognised(#[from] NotRecognised),
    /// A file that cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// A graph that contradicts itself.
    #[error("{0}")]
    Invalid(String),
}

impl GraphError {
    pub(crate) fn io(path: &Path, error: std::io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}

/// Rewrites the encoder and decoder graphs into a folder below `out_dir`, or finds them there. `decoder` is a merged
/// decoder or one without a cache.
///
/// # Errors
/// [`GraphError`]; the published graphs can be used all the same.
pub fn optimize_whisper(
    encoder: &Path,
    decoder: &Path,
    shape: &Shape,
    arithmetic: Arithmetic,
    out_dir: &Path,
) -> Result<OptimizedWhisper, GraphError> {
    let kernels = rewrite::Kernels::for_this_processor(arithmetic, shape);
    let write = |folder: &Path, weights: &mut emit::WeightFile| {
        let encoder_source = source::Source::open(encoder)?;
        let decoder_source = source::Source::open(decoder)?;
        let found_encoder = recognise::encoder(&encoder_source, shape.n_ctx)?;
        let found_decoder = recognise::decoder(&decoder_source, shape.n_text_ctx, shape.n_vocab)?;
        rewrite::write_encoder(
            (&found_encoder, &encoder_source),
            (&found_decoder, &decoder_source),
            shape,
            kernels,
            weights,
            &folder.join(ENCODER),
        )?;
        for (attentions, name) in [(false, DECODER), (true, ALIGNMENT)] {
            rewrite::write_decoder(
                &found_decoder,
                &decoder_source,
                shape,
                kernels,
                attentions,
                weights,
                &folder.join(name),
            )?;
        }
        Ok(found_decoder.layers.len())
    };
    let stored = Stored::find_or_write(out_dir, &kernels.name(), &[encoder, decoder], write)?;
    Ok(OptimizedWhisper {
        encoder: stored.folder.join(ENCODER),
        decoder: stored.folder.join(DECODER),
        alignment: stored.folder.join(ALIGNMENT),
        arithmetic,
        stored,
    })
}

/// Pearson's correlation: how well a rewritten graph agrees with the published one.
pub(crate) fn correlation(a: &[f32], b: &[f32]) -> f64 {
    let n = a.len().max(1) as f64;
    let mean = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>() / n;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (&a, &b) in a.iter().zip(b) {
        let (a, b) = (f64::from(a) - mean_a, f64::from(b) - mean_b);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    ab / (aa * bb).sqrt()
}
