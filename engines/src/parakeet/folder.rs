//! Reads a folder in one of the layouts FastConformer exports are published in: onnx-asr's (`encoder-model.onnx` and
//! `decoder_joint-model.onnx`, or `model.onnx` for CTC, with `vocab.txt`) and sherpa-onnx's offline one (`encoder.onnx`,
//! `decoder.onnx`, `joiner.onnx` with `tokens.txt`), in float or int8.

use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;
use serde_json::Value;

use super::vocabulary::{self, Vocabulary};
use crate::error::{EngineError, Result};
use crate::graph::onnx::{Dimension, ModelProto};
use crate::model_folder::{Precision, file_bytes, suffix_order};
use crate::session::Device;

/// Mel bands when neither the graph nor `config.json` says.
const DEFAULT_MELS: usize = 80;
/// Frames of features to one of the encoder when `config.json` does not say.
const DEFAULT_SUBSAMPLING: usize = 8;
/// Tokens at one frame after which a transducer has to move on, when `config.json` does not say.
const DEFAULT_MAX_SYMBOLS: usize = 10;
/// The languages of the one published Parakeet that knows more than one (parakeet-tdt-0.6b-v3's model card).
const EUROPEAN: [&str; 25] = [
    "bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "it", "lt", "lv", "mt",
    "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "uk",
];

/// The graph files of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Graphs {
    /// One graph from features to log-probabilities.
    Ctc(PathBuf),
    /// An encoder, and a network over its states and the text so far.
    Transducer {
        /// Features to states.
        encoder: PathBuf,
        /// Prediction and joint network.
        network: NetworkGraphs,
    },
}

/// Prediction and joint network of a transducer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkGraphs {
    /// In one graph.
    Joined(PathBuf),
    /// In two.
    Split {
        /// The prediction network.
        decoder: PathBuf,
        /// The joint network.
        joiner: PathBuf,
    },
}

impl NetworkGraphs {
    /// The graph with the joint network's outputs.
    fn joint(&self) -> &Path {
        match self {
            Self::Joined(path) | Self::Split { joiner: path, .. } => path,
        }
    }
}

/// What a folder says about its model.
#[derive(Debug, Clone, PartialEq)]
pub struct ParakeetFolder {
    /// The folder.
    pub path: PathBuf,
    /// The precision chosen: [`Precision::Float`] or [`Precision::Int8`].
    pub precision: Precision,
    /// The graphs chosen.
    pub graphs: Graphs,
    /// Text pieces.
    pub vocabulary: Vocabulary,
    /// Mel bands, by `config.json`; the encoder's own input counts for more.
    pub n_mels: usize,
    /// Frames of features to one of the encoder.
    pub subsampling: usize,
    /// Tokens at one frame after which a transducer has to move on.
    pub max_symbols: usize,
    /// Codes of the languages it hears; never empty.
    pub languages: Vec<String>,
}

/// Whether a folder is in one of the layouts. Streaming exports have the same files and other inputs; their
/// `config.json` tells.
pub(super) fn recognizes(folder: &Path) -> bool {
    let Some(vocabulary) = vocabulary::file(folder) else {
        return false;
    };
    let config = config(folder).unwrap_or_default();
    let is_ours = match config.get("model_type").and_then(Value::as_str) {
        Some(kind) => kind.starts_with("nemo-conformer") || kind.starts_with("EncDec"),
        // Without it, onnx-asr's names are clear; sherpa-onnx's are shared by other families.
        None => true,
    };
    is_ours
        && config.get("cache_last_channel_dim1").is_none()
        && vocabulary.is_file()
        && choose(folder, Precision::Auto, Device::Cpu).is_some()
}

impl ParakeetFolder {
    /// Reads a folder and chooses graphs for a device.
    ///
    /// # Errors
    /// [`EngineError::ModelFileMissing`] naming the file, [`EngineError::ModelInvalid`] for a vocabulary that makes no
    /// sense.
    pub fn read(path: &Path, precision: Precision, device: Device) -> Result<Self> {
        let missing = |file: &str| EngineError::ModelFileMissing {
            folder: path.to_owned(),
            file: file.to_owned(),
            remedy: "fetch the model again with `dalston models pull`, or import a complete folder"
                .to_owned(),
        };
        let (precision, graphs) = choose(path, precision, device).ok_or_else(|| {
            missing(match precision {
                Precision::Auto | Precision::Float => {
                    "encoder-model.onnx with decoder_joint-model.onnx, or model.onnx"
                }
                Precision::Int8 => {
                    "encoder-model.int8.onnx with decoder_joint-model.int8.onnx, or model.int8.onnx"
                }
            })
        })?;
        let vocabulary =
            vocabulary::file(path).ok_or_else(|| missing("vocab.txt or tokens.txt"))?;
        let vocabulary = Vocabulary::read(&vocabulary)?;
        let config = config(path).unwrap_or_default();
        let size = |keys: &[&str], default: usize| {
            keys.iter()
                .find_map(|key| usize::try_from(config.get(*key)?.as_u64()?).ok())
                .filter(|&size| size > 0)
                .unwrap_or(default)
        };
        let languages = languages(&config, &vocabulary);
        Ok(Self {
            path: path.to_owned(),
            precision,
            graphs,
            n_mels: size(&["features_size", "feat_dim"], DEFAULT_MELS),
            subsampling: size(&["subsampling_factor"], DEFAULT_SUBSAMPLING),
            max_symbols: size(&["max_tokens_per_step"], DEFAULT_MAX_SYMBOLS),
            vocabulary,
            languages,
        })
    }

    /// How words are timed: `tdt`, `rnnt` or `ctc`, by the joint network's outputs: more of them than pieces are
    /// durations.
    ///
    /// # Errors
    /// [`EngineError::ModelInvalid`] for a joint network without a fixed number of outputs.
    pub fn alignment_method(&self) -> Result<&'static str> {
        let Graphs::Transducer { network, .. } = &self.graphs else {
            return Ok("ctc");
        };
        let path = network.joint();
        let n_out = n_outputs(path).ok_or_else(|| EngineError::ModelInvalid {
            path: path.to_owned(),
            message: "its first output has no fixed size".to_owned(),
        })?;
        Ok(if n_out > self.vocabulary.blank() + 1 {
            "tdt"
        } else {
            "rnnt"
        })
    }

    /// Bytes of the graph files and the weights beside them.
    pub fn bytes(&self) -> u64 {
        match &self.graphs {
            Graphs::Ctc(path) => file_bytes(path),
            Graphs::Transducer { encoder, network } => {
                file_bytes(encoder)
                    + match network {
                        NetworkGraphs::Joined(path) => file_bytes(path),
                        NetworkGraphs::Split { decoder, joiner } => {
                            file_bytes(decoder) + file_bytes(joiner)
                        }
                    }
            }
        }
    }
}

fn config(folder: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(folder.join("config.json")).ok()?).ok()
}

/// The languages `config.json` names; else English where the vocabulary has no other letters.
fn languages(config: &Value, vocabulary: &Vocabulary) -> Vec<String> {
    let named: Vec<String> = config
        .get("languages")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|code| code.as_str().map(str::to_owned))
        .collect();
    if !named.is_empty() {
        named
    } else if vocabulary.is_ascii() {
        vec!["en".to_owned()]
    } else {
        EUROPEAN.map(str::to_owned).to_vec()
    }
}

fn choose(folder: &Path, precision: Precision, device: Device) -> Option<(Precision, Graphs)> {
    suffix_order(precision, device)
        .iter()
        .find_map(|(precision, suffixes)| {
            suffixes
                .iter()
                .find_map(|suffix| Some((*precision, find(folder, suffix)?)))
        })
}

fn find(folder: &Path, suffix: &str) -> Option<Graphs> {
    let file = |name: &str| {
        let path = folder.join(format!("{name}{suffix}.onnx"));
        path.is_file().then_some(path)
    };
    let encoder = ["encoder-model", "encoder"].into_iter().find_map(file);
    let joined = ["decoder_joint-model", "decoder_joint"]
        .into_iter()
        .find_map(file);
    let network = joined.map(NetworkGraphs::Joined).or_else(|| {
        Some(NetworkGraphs::Split {
            decoder: file("decoder")?,
            joiner: file("joiner")?,
        })
    });
    match (encoder, network) {
        (Some(encoder), Some(network)) => Some(Graphs::Transducer { encoder, network }),
        _ => file("model").map(Graphs::Ctc),
    }
}

/// Size of the last dimension of a graph's first output.
fn n_outputs(path: &Path) -> Option<usize> {
    let graph = ModelProto::decode(Bytes::from(std::fs::read(path).ok()?))
        .ok()?
        .graph?;
    let shape = graph
        .output
        .first()?
        .r#type
        .as_ref()?
        .tensor_type
        .as_ref()?
        .shape
        .as_ref()?;
    match shape.dim.last()?.value.as_ref()? {
        Dimension::Size(size) => usize::try_from(*size).ok(),
        Dimension::Name(_) => None,
    }
}
