//! Rewriting of published FastConformer encoders (Parakeet and its kin), with a CTC head or without. The exports compute
//! padding with every window of a batch, take one 8-bit scale for all of them, multiply unsigned by unsigned bytes,
//! leave attention in a chain of unfused operations, and write every layer of the subsampling to memory.
//!
//! The new graph works on the frames of all windows one after the other, with
//! [operators of our own](super::operators::fastconformer), so that what a window gives depends on that window alone:
//! to the bit, in floats and in bytes, on any number of threads.

use std::path::{Path, PathBuf};

use super::emit::WeightFile;
use super::interface::Interface;
use super::source::Source;
use super::stored::Stored;
use super::{Arithmetic, GraphError};

mod recognise;
mod write;

const ENCODER: &str = "encoder.onnx";

/// Names of the new graph's inputs and outputs.
pub mod names {
    /// Features f32 `[windows, bands, frames]`.
    pub const FEATURES: &str = "features";
    /// Frames of each window's features, i64 `[windows]`.
    pub const FRAMES: &str = "frames";
    /// Frames of each window's states, i64 `[windows]`.
    pub const LENGTHS: &str = "lengths";
    /// Frames between the first and the last of the longest window, i64 `[1]`.
    pub const REACH: &str = "reach";
    /// States, or log-probabilities, of all windows one after the other, f32 `[frames, width]`.
    pub const STATES: &str = "states";
}

/// The graph that stands in for the published one.
#[derive(Debug, Clone)]
pub struct OptimizedEncoder {
    /// The graph file.
    pub path: PathBuf,
    /// What it computes in.
    pub arithmetic: Arithmetic,
    /// Where it lies.
    pub stored: Stored,
}

/// Rewrites an encoder, or a CTC model, into a folder below `out_dir`, or finds it there.
///
/// # Errors
/// [`GraphError`]; the published graph can be used all the same.
pub fn optimize_encoder(
    published: &Path,
    arithmetic: Arithmetic,
    out_dir: &Path,
) -> Result<OptimizedEncoder, GraphError> {
    let name = match arithmetic {
        Arithmetic::Float => "fastconformer-float",
        Arithmetic::Int8 => "fastconformer-int8",
    };
    let write = |folder: &Path, weights: &mut WeightFile| {
        let interface =
            Interface::read(published).map_err(|error| GraphError::io(published, error))?;
        let source = Source::open(published)?;
        let encoder = recognise::encoder(&source, &interface)?;
        write::encoder(
            &encoder,
            &source,
            arithmetic,
            weights,
            &folder.join(ENCODER),
        )?;
        Ok(encoder.layers.len())
    };
    let stored = Stored::find_or_write(out_dir, name, &[published], write)?;
    Ok(OptimizedEncoder {
        path: stored.folder.join(ENCODER),
        arithmetic,
        stored,
    })
}
