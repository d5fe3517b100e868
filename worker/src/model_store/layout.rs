//! Tells what kind of model a folder holds, by its files, and which of them the model needs. Kinds that this version
//! does not run are recognised too, so that the answer says what the folder is and not only that it is refused.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dalston_engines::model_folder::{DecoderGraphs, Graphs, ModelFolder, Precision};
use dalston_engines::session::Device;
use dalston_schema::catalogue::catalogue;
use dalston_schema::task::Stage;

use super::error::{ModelStoreError, Result};

/// Folders of an export that may hold graphs, beside its root.
const GRAPH_FOLDERS: [&str; 2] = ["onnx", "onnx_timestamped"];

/// A folder that holds a model this version runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognised {
    /// Layout, as named in the catalogue.
    pub layout: &'static str,
    /// Engine that runs it.
    pub engine: &'static str,
    /// Stage it serves.
    pub stage: Stage,
    /// Languages by its own files; `None` when multilingual or language plays no part.
    pub languages: Option<Vec<String>>,
    /// The engine gives word times itself with this model.
    pub words: bool,
    /// It can translate to English.
    pub translates: bool,
    /// The files it needs, relative to the folder, with `/`.
    pub files: BTreeSet<String>,
}

/// Recognises a folder.
///
/// # Errors
/// [`ModelStoreError::NotServed`] for a kind that is known and not run, [`ModelStoreError::Unusable`] for a Whisper
/// folder that lacks something, [`ModelStoreError::LinkOutside`], [`ModelStoreError::Unrecognised`].
pub fn recognise(folder: &Path) -> Result<Recognised> {
    let names = inspect(folder)?;
    let has = |name: &str| names.contains(name);
    let any = |prefix: &str| {
        names.iter().any(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            name.starts_with(prefix) && name.ends_with(".onnx")
        })
    };
    if any("encoder_model") || any("decoder_model") {
        return whisper(folder, &names);
    }
    if has("silero_vad_16k_sequence.onnx") {
        return Ok(Recognised {
            layout: "silero-vad",
            engine: "silero-vad",
            stage: Stage::Prepare,
            languages: None,
            words: false,
            translates: false,
            files: names
                .into_iter()
                .filter(|name| name.starts_with("silero_vad") || name == "LICENSE")
                .collect(),
        });
    }
    let model_type = model_type(folder);
    let kind = match model_type.as_deref() {
        _ if any("encoder-model") || any("decoder_joint-model") => Some("Parakeet transducer"),
        _ if any("joiner") => Some("transducer (sherpa-onnx layout)"),
        Some("wav2vec2" | "wav2vec2-bert" | "hubert" | "wavlm") => Some("wav2vec 2.0"),
        Some("pyannet" | "pyannote") => Some("speaker segmentation"),
        _ if has("vocab.txt") && any("model") => Some("Parakeet CTC"),
        _ if any("voxceleb") => Some("speaker embedding"),
        _ => None,
    };
    if let Some(kind) = kind {
        return Err(ModelStoreError::NotServed {
            what: folder.display().to_string(),
            kind: kind.to_owned(),
            served: catalogue().served_engines().join(", "),
        });
    }
    let weights = if has("model.bin") {
        Some("CTranslate2 (faster-whisper)")
    } else if [
        "model.safetensors",
        "pytorch_model.bin",
        "model.safetensors.index.json",
    ]
    .iter()
    .any(|name| has(name))
    {
        Some("PyTorch")
    } else {
        None
    };
    match weights {
        Some(weights) => Err(ModelStoreError::Unusable {
            folder: folder.display().to_string(),
            message: format!(
                "it holds {weights} weights and no ONNX graphs. Pull the published export of the model by the same \
                 id, or export the original with `optimum-cli export onnx`"
            ),
        }),
        None => Err(ModelStoreError::Unrecognised {
            folder: folder.display().to_string(),
        }),
    }
}

/// The regular files of a folder and of its graph folders. Links may point inside the folder only.
fn inspect(folder: &Path) -> Result<BTreeSet<String>> {
    let root = folder
        .canonicalize()
        .map_err(ModelStoreError::io("opening", folder))?;
    let mut names = BTreeSet::new();
    for place in std::iter::once("").chain(GRAPH_FOLDERS) {
        let directory = folder.join(place);
        if !place.is_empty() && !directory.is_dir() {
            continue;
        }
        let entries =
            std::fs::read_dir(&directory).map_err(ModelStoreError::io("reading", &directory))?;
        for entry in entries {
            let path = entry
                .map_err(ModelStoreError::io("reading", &directory))?
                .path();
            // A link that leads nowhere is no file of the model.
            let Ok(target) = path.canonicalize() else {
                continue;
            };
            if !target.starts_with(&root) {
                return Err(ModelStoreError::LinkOutside(path));
            }
            if let (true, Some(name)) = (target.is_file(), path.file_name()) {
                let name = name.to_string_lossy();
                names.insert(if place.is_empty() {
                    name.into_owned()
                } else {
                    format!("{place}/{name}")
                });
            }
        }
    }
    Ok(names)
}

fn model_type(folder: &Path) -> Option<String> {
    let config = std::fs::read(folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_slice(&config).ok()?;
    Some(config.get("model_type")?.as_str()?.to_owned())
}

/// A Whisper folder, read by the engine itself so that what is accepted here loads there.
fn whisper(folder: &Path, names: &BTreeSet<String>) -> Result<Recognised> {
    let unusable = |error: &dyn std::fmt::Display| ModelStoreError::Unusable {
        folder: folder.display().to_string(),
        message: error.to_string(),
    };
    let model = ModelFolder::read(folder, Precision::Auto, Device::Cpu)
        .map_err(|error| unusable(&error))?;
    let mut files: BTreeSet<String> = catalogue()
        .layout("whisper")
        .into_iter()
        .flat_map(|layout| layout.metadata.iter().chain(&layout.optional))
        .filter(|name| names.contains(*name))
        .cloned()
        .collect();
    for precision in [Precision::Int8, Precision::Float] {
        if let Ok(model) = ModelFolder::read(folder, precision, Device::Cpu) {
            for graph in graph_files(&model.graphs) {
                let Ok(graph) = graph.strip_prefix(folder) else {
                    continue;
                };
                let graph = graph.to_string_lossy().into_owned();
                // External weights are named after their graph: `x.onnx_data`, `x.onnx_data_1`, `x.onnx.data`.
                files.extend(
                    names
                        .iter()
                        .filter(|name| name.starts_with(&graph))
                        .cloned(),
                );
            }
        }
    }
    Ok(Recognised {
        layout: "whisper",
        engine: "whisper",
        stage: Stage::Transcribe,
        languages: (!model.is_multilingual()).then(|| vec!["en".to_owned()]),
        words: model.has_cross_attention(),
        translates: model.tokens.translate.is_some(),
        files,
    })
}

fn graph_files(graphs: &Graphs) -> Vec<&PathBuf> {
    let mut files = vec![&graphs.encoder];
    match &graphs.decoder {
        DecoderGraphs::Merged(graph) => files.push(graph),
        DecoderGraphs::WithPast { prompt, step } => files.extend([prompt, step]),
    }
    files.extend(&graphs.timestamped_decoder);
    files
}
