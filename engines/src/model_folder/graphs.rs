//! Which graph files a folder holds, in which precision, and which of them to run.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::error::{EngineError, Result};
use crate::session::Device;

/// Which weights to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// int8 on the CPU where the folder has it, float on CUDA.
    #[default]
    Auto,
    /// Full precision.
    Float,
    /// Dynamically quantised to 8 bits.
    Int8,
}

/// The graph files chosen from a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graphs {
    /// The precision chosen: [`Precision::Float`] or [`Precision::Int8`].
    pub precision: Precision,
    /// Mel → encoder states.
    pub encoder: PathBuf,
    /// Tokens → logits.
    pub decoder: DecoderGraphs,
    /// A decoder that also outputs cross-attentions, when it is not `decoder` itself.
    pub timestamped_decoder: Option<PathBuf>,
}

/// The decoder in one of its two published forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecoderGraphs {
    /// One graph with a `use_cache_branch` switch.
    Merged(PathBuf),
    /// One graph for the prompt and one for each later token.
    WithPast {
        /// `decoder_model`: no cache in, cache out.
        prompt: PathBuf,
        /// `decoder_with_past_model`: cache in and out.
        step: PathBuf,
    },
}

impl Graphs {
    /// Bytes of the graph files and the weights beside them that are loaded for transcription.
    pub fn bytes(&self) -> u64 {
        let decoder = match &self.decoder {
            DecoderGraphs::Merged(path) => file_bytes(path),
            DecoderGraphs::WithPast { prompt, step } => file_bytes(prompt) + file_bytes(step),
        };
        file_bytes(&self.encoder) + decoder
    }
}

/// Whether a graph has an output of that name. The protobuf holds names in plain text, and a graph's outputs after its
/// weights, so the end of a file of hundreds of megabytes is enough.
pub(super) fn has_output(graph: &Path, name: &str) -> bool {
    const TAIL: u64 = 4 << 20;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(graph)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        Ok(tail)
    };
    read().is_ok_and(|tail| {
        tail.windows(name.len())
            .any(|bytes| bytes == name.as_bytes())
    })
}

/// Bytes of a graph and its external weights (`x.onnx_data`, `x.onnx.data`).
pub fn file_bytes(graph: &Path) -> u64 {
    let beside = |suffix: &str| {
        let mut name = graph.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    [graph.to_owned(), beside("_data"), beside(".data")]
        .iter()
        .filter_map(|path| Some(std::fs::metadata(path).ok()?.len()))
        .sum()
}

const FETCH_AGAIN: &str =
    "fetch the model again with `dalston models pull`, or import a complete folder";
const FLOAT_SUFFIXES: [&str; 1] = [""];
const INT8_SUFFIXES: [&str; 5] = ["_quantized", "_int8", ".int8", "-int8", "_uint8"];

/// The precisions to try on a device, best first, with the suffixes their files may have.
pub(crate) fn suffix_order(
    precision: Precision,
    device: Device,
) -> &'static [(Precision, &'static [&'static str])] {
    const FLOAT: (Precision, &[&str]) = (Precision::Float, &FLOAT_SUFFIXES);
    const INT8: (Precision, &[&str]) = (Precision::Int8, &INT8_SUFFIXES);
    match (precision, device) {
        (Precision::Float, _) => &[FLOAT],
        (Precision::Int8, _) => &[INT8],
        // Dynamic quantisation has no fast CUDA kernels.
        (Precision::Auto, Device::Cuda) => &[FLOAT, INT8],
        (Precision::Auto, Device::Auto | Device::Cpu) => &[INT8, FLOAT],
    }
}

/// The file of a model that is one graph, `name` with the suffix of a precision, in `onnx/` or in the folder itself.
///
/// # Errors
/// [`EngineError::ModelFileMissing`] naming every file that would do.
pub fn choose_graph(
    folder: &Path,
    name: &str,
    precision: Precision,
    device: Device,
) -> Result<(Precision, PathBuf)> {
    let order = suffix_order(precision, device);
    let found = order.iter().find_map(|(precision, suffixes)| {
        suffixes
            .iter()
            .find_map(|suffix| find_graph(folder, &["onnx", ""], name, suffix))
            .map(|path| (*precision, path))
    });
    found.ok_or_else(|| {
        let names: Vec<String> = order
            .iter()
            .flat_map(|(_, suffixes)| suffixes.iter())
            .map(|suffix| format!("onnx/{name}{suffix}.onnx"))
            .collect();
        EngineError::ModelFileMissing {
            folder: folder.to_owned(),
            file: names.join(" or "),
            remedy: FETCH_AGAIN.to_owned(),
        }
    })
}

pub(super) fn choose_graphs(folder: &Path, precision: Precision, device: Device) -> Result<Graphs> {
    let order = suffix_order(precision, device);
    for (precision, suffixes) in order {
        for suffix in *suffixes {
            if let Some(graphs) = find_graphs(folder, suffix, *precision) {
                return Ok(graphs);
            }
        }
    }
    let suffixes: Vec<&str> = order
        .iter()
        .flat_map(|(_, suffixes)| suffixes.iter().copied())
        .collect();
    Err(missing_graph(folder, &suffixes))
}

fn find_graphs(folder: &Path, suffix: &str, precision: Precision) -> Option<Graphs> {
    let find = |name: &str| find_graph(folder, &["onnx", ""], name, suffix);
    let encoder = find("encoder_model")?;
    let decoder = match find("decoder_model_merged") {
        Some(merged) => DecoderGraphs::Merged(merged),
        None => DecoderGraphs::WithPast {
            prompt: find("decoder_model")?,
            step: find("decoder_with_past_model")?,
        },
    };
    let timestamped = ["decoder_model_merged", "decoder_model"];
    let timestamped_decoder = timestamped
        .iter()
        .find_map(|name| find_graph(folder, &["onnx_timestamped"], name, suffix));
    Some(Graphs {
        precision,
        encoder,
        decoder,
        timestamped_decoder,
    })
}

fn find_graph(folder: &Path, places: &[&str], name: &str, suffix: &str) -> Option<PathBuf> {
    places
        .iter()
        .map(|place| folder.join(place).join(format!("{name}{suffix}.onnx")))
        .find(|path| path.is_file())
}

/// Names the first graph that is missing, for the precision that lacks least.
fn missing_graph(folder: &Path, suffixes: &[&str]) -> EngineError {
    let places = ["onnx", ""];
    let has = |name: &str| {
        suffixes
            .iter()
            .any(|suffix| find_graph(folder, &places, name, suffix).is_some())
    };
    let file = if !has("encoder_model") {
        "onnx/encoder_model"
    } else if has("decoder_model") {
        "onnx/decoder_with_past_model"
    } else {
        "onnx/decoder_model_merged"
    };
    let names: Vec<String> = suffixes
        .iter()
        .map(|suffix| format!("{file}{suffix}.onnx"))
        .collect();
    EngineError::ModelFileMissing {
        folder: folder.to_owned(),
        file: names.join(" or "),
        remedy: FETCH_AGAIN.to_owned(),
    }
}
