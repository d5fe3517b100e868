//! Rewriting of published Whisper graphs. The exports waste work: attention is a chain of unfused operations, the
//! decoder computes logits for every position, copies its cache at every step and reads 32-bit cross-attention keys and
//! values for every token, and int8 exports leave attention (sometimes the output head) in floats.
//!
//! [`optimize_whisper`] recognises the network in the published files whatever its tensors are called, and writes
//! three compact graphs with the same weights into a folder, once: the first caller writes, later ones and other
//! processes find it. A graph that is not recognised is left alone and the reason returned.
//!
//! [`source`] reads, [`recognise`] finds, [`rewrite`] writes; [`operators`] are the kernels the new graphs call.
//!
//! Beside it, for graphs of any kind: [`interface`] says what a file holds without loading it, [`shared_prefix`] splits off
//! the layers that overlapping windows share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

pub mod emit;
pub mod interface;
pub mod linear;
pub mod onnx;
pub mod operators;
pub mod recognise;
pub mod rewrite;
pub mod shared_prefix;
pub mod source;
pub mod tensor;

use operators::cross_attention::HeadShape;

/// Version of what is written. A change of layout or of an operator's meaning raises it, and folders are written anew.
const VERSION: u32 = 3;
const STAMP: &str = "stamp.json";
const ENCODER: &str = "encoder.onnx";
const DECODER: &str = "decoder.onnx";
const ALIGNMENT: &str = "alignment.onnx";
const WEIGHTS: &str = "weights.bin";

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
    /// Decoder layers.
    pub n_layers: usize,
    /// Bytes of the weights.
    pub weight_bytes: u64,
    /// Whether this call wrote them.
    pub is_new: bool,
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

impl OptimizedWhisper {
    /// Removes the graphs, when they turn out not to compute what the published ones do.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn remove(&self) -> Result<(), GraphError> {
        let folder = self.encoder.parent().unwrap_or(Path::new("."));
        std::fs::remove_dir_all(folder).map_err(|error| GraphError::io(folder, error))
    }
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

/// Says for which files, and by which version, a folder was written.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    version: u32,
    kernels: String,
    sources: Vec<SourceFile>,
    n_layers: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SourceFile {
    name: String,
    bytes: u64,
    modified_ns: u128,
}

/// Rewrites the encoder and decoder graphs into a folder below `out_dir`, or finds them there. `decoder` is a merged
/// decoder or one without a cache. Safe when several processes do it at once: each writes a folder of its own, and
/// renames it into place.
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
    let mut stamp = Stamp {
        version: VERSION,
        kernels: kernels.name(),
        sources: vec![source_file(encoder)?, source_file(decoder)?],
        n_layers: 0,
    };
    let folder = out_dir.join(&stamp.kernels);
    if let Some(found) = find(&folder, &stamp, arithmetic) {
        return Ok(found);
    }

    let encoder_source = source::Source::open(encoder)?;
    let decoder_source = source::Source::open(decoder)?;
    let found_encoder = recognise::encoder(&encoder_source, shape.n_ctx)?;
    let found_decoder = recognise::decoder(&decoder_source, shape.n_text_ctx, shape.n_vocab)?;
    stamp.n_layers = found_decoder.layers.len();

    let temporary = Temporary::create(out_dir)?;
    let at = |name: &str| temporary.0.join(name);
    let mut weights = emit::WeightFile::create(&temporary.0, WEIGHTS)?;
    rewrite::write_encoder(
        (&found_encoder, &encoder_source),
        (&found_decoder, &decoder_source),
        shape,
        kernels,
        &mut weights,
        &at(ENCODER),
    )?;
    rewrite::write_decoder(
        &found_decoder,
        &decoder_source,
        shape,
        kernels,
        false,
        &mut weights,
        &at(DECODER),
    )?;
    rewrite::write_decoder(
        &found_decoder,
        &decoder_source,
        shape,
        kernels,
        true,
        &mut weights,
        &at(ALIGNMENT),
    )?;
    weights.finish()?;
    let text = serde_json::to_vec_pretty(&stamp)
        .map_err(|error| GraphError::invalid(error.to_string()))?;
    std::fs::write(at(STAMP), text).map_err(|error| GraphError::io(&at(STAMP), error))?;

    // A folder of another version or of other sources is in the way; one of ours, made meanwhile, is welcome.
    if std::fs::rename(&temporary.0, &folder).is_err() {
        if let Some(found) = find(&folder, &stamp, arithmetic) {
            return Ok(found);
        }
        let old = Temporary::path(out_dir);
        std::fs::rename(&folder, &old).map_err(|error| GraphError::io(&folder, error))?;
        let _old = Temporary(old);
        std::fs::rename(&temporary.0, &folder).map_err(|error| GraphError::io(&folder, error))?;
    }
    let written = find(&folder, &stamp, arithmetic).ok_or_else(|| {
        GraphError::invalid(format!(
            "{} was changed while it was written",
            folder.display()
        ))
    })?;
    Ok(OptimizedWhisper {
        is_new: true,
        ..written
    })
}

fn find(folder: &Path, wanted: &Stamp, arithmetic: Arithmetic) -> Option<OptimizedWhisper> {
    let stamp: Stamp = serde_json::from_slice(&std::fs::read(folder.join(STAMP)).ok()?).ok()?;
    let same = stamp.version == wanted.version
        && stamp.kernels == wanted.kernels
        && stamp.sources == wanted.sources;
    let weight_bytes = std::fs::metadata(folder.join(WEIGHTS)).ok()?.len();
    same.then(|| OptimizedWhisper {
        encoder: folder.join(ENCODER),
        decoder: folder.join(DECODER),
        alignment: folder.join(ALIGNMENT),
        arithmetic,
        n_layers: stamp.n_layers,
        weight_bytes,
        is_new: false,
    })
}

fn source_file(path: &Path) -> Result<SourceFile, GraphError> {
    let metadata = std::fs::metadata(path).map_err(|error| GraphError::io(path, error))?;
    let modified = metadata
        .modified()
        .map_err(|error| GraphError::io(path, error))?;
    Ok(SourceFile {
        name: path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        bytes: metadata.len(),
        modified_ns: modified
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_nanos(),
    })
}

/// A folder that goes away when its owner does, unless it was renamed.
struct Temporary(PathBuf);

impl Temporary {
    fn path(parent: &Path) -> PathBuf {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        parent.join(format!(".writing-{}-{count}", std::process::id()))
    }

    fn create(parent: &Path) -> Result<Self, GraphError> {
        let path = Self::path(parent);
        std::fs::create_dir_all(&path).map_err(|error| GraphError::io(&path, error))?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if self.0.exists()
            && let Err(error) = std::fs::remove_dir_all(&self.0)
        {
            tracing::warn!(path = %self.0.display(), %error, "a temporary folder could not be removed");
        }
    }
}
