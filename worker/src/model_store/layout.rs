//! Tells what kind of model a folder holds and which of its files the model needs. The engines say whether a folder is
//! theirs and what it can do; the catalogue's layouts say which files make a model. Kinds that nothing here runs are told
//! for what they are, so that the answer is more than a refusal.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dalston_engines::model_folder::{DecoderGraphs, Graphs, ModelFolder, Precision};
use dalston_engines::registry::{self, ENGINES, EngineSpec};
use dalston_engines::session::Device;
use dalston_schema::catalogue::{self, Layout, catalogue};
use dalston_schema::task::Stage;

use super::error::{ModelStoreError, Result};

/// Folders of an export that may hold graphs, beside its root.
const GRAPH_FOLDERS: [&str; 2] = ["onnx", "onnx_timestamped"];
/// A model that hears more languages than this is told as multilingual, without a list.
const LISTED_LANGUAGES: usize = 50;
/// Layout and engine of the voice activity model, which `prepare` runs without a registered engine.
const VOICE_ACTIVITY: &str = "silero-vad";

/// A folder that holds a model this version runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recognised {
    /// Layout, as named in the catalogue.
    pub layout: String,
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
/// [`ModelStoreError::NotServed`] for a kind that is known and not run, [`ModelStoreError::Unusable`] for a folder that
/// lacks something its engine needs, [`ModelStoreError::LinkOutside`], [`ModelStoreError::Unrecognised`].
pub fn recognise(folder: &Path) -> Result<Recognised> {
    let names = inspect(folder)?;
    if !names.iter().any(|name| name.ends_with(".onnx")) {
        return Err(without_graphs(folder, &names));
    }
    if names.contains("silero_vad_16k_sequence.onnx") {
        return Ok(voice_activity(names));
    }
    let engine = ENGINES
        .iter()
        .find(|engine| (engine.recognizes)(folder))
        // A Whisper export without its configuration: the engine will say what is missing.
        .or_else(|| has_graph(&names, "encoder_model").then(|| registry::engine("whisper"))?);
    match engine {
        Some(engine) => served(engine, folder, &names),
        None if has_graph(&names, "joiner") => Err(ModelStoreError::NotServed {
            what: folder.display().to_string(),
            kind: "transducer (sherpa-onnx layout)".to_owned(),
            served: catalogue().served_engines().join(", "),
        }),
        None => Err(ModelStoreError::Unrecognised {
            folder: folder.display().to_string(),
        }),
    }
}

/// A folder that an engine calls its own, read by that engine so that what is accepted here loads there.
fn served(
    engine: &'static EngineSpec,
    folder: &Path,
    names: &BTreeSet<String>,
) -> Result<Recognised> {
    let description = (engine.describe)(folder, Precision::Auto, Device::Cpu).map_err(|error| {
        ModelStoreError::Unusable {
            folder: folder.display().to_string(),
            message: error.to_string(),
        }
    })?;
    let (layout, mut files) = match complete_layout(engine.id, names) {
        Some((name, layout)) => (name.to_owned(), layout_files(layout, names)),
        // The engine reads more layouts than hubs publish: what it accepted is taken as it is.
        None => (engine.id.to_owned(), names.clone()),
    };
    if engine.id == "whisper" {
        files.extend(whisper_graphs(folder, names));
    }
    let languages = description.languages;
    Ok(Recognised {
        layout,
        engine: engine.id,
        stage: stage(description.stage),
        languages: (1..=LISTED_LANGUAGES)
            .contains(&languages.len())
            .then_some(languages),
        words: description.native_words,
        translates: description.translates,
        files,
    })
}

/// The stage of tasks that an engine's stage serves.
fn stage(stage: registry::Stage) -> Stage {
    match stage {
        registry::Stage::Transcribe => Stage::Transcribe,
        registry::Stage::Align => Stage::Align,
        registry::Stage::Diarize => Stage::Diarize,
    }
}

fn voice_activity(names: BTreeSet<String>) -> Recognised {
    Recognised {
        layout: VOICE_ACTIVITY.to_owned(),
        engine: VOICE_ACTIVITY,
        stage: Stage::Prepare,
        languages: None,
        words: false,
        translates: false,
        files: names
            .into_iter()
            .filter(|name| name.starts_with("silero_vad") || name == "LICENSE")
            .collect(),
    }
}

/// The layout of an engine whose files are all here, in one precision at least.
fn complete_layout(
    engine: &str,
    names: &BTreeSet<String>,
) -> Option<(&'static str, &'static Layout)> {
    let complete = |layout: &Layout| {
        let has = |path: &String| names.contains(path);
        layout.metadata.iter().all(has)
            && [catalogue::Precision::Int8, catalogue::Precision::Float]
                .into_iter()
                .any(|precision| {
                    let mut parts = layout.parts(precision).iter();
                    parts.all(|part| part.iter().any(has))
                })
    };
    catalogue()
        .layouts()
        .find(|(_, layout)| layout.engine == engine && complete(layout))
}

/// The files of a layout that are here, in every precision, with their graphs' external weights.
fn layout_files(layout: &Layout, names: &BTreeSet<String>) -> BTreeSet<String> {
    let metadata = layout.metadata.iter().chain(&layout.optional);
    let graphs = layout.int8.iter().chain(&layout.float).flatten();
    let mut files: BTreeSet<String> = metadata
        .filter(|name| names.contains(*name))
        .cloned()
        .collect();
    for graph in graphs.filter(|graph| names.contains(*graph)) {
        files.extend(with_external_weights(graph, names));
    }
    files
}

/// A graph and its external weights, which are named after it: `x.onnx_data`, `x.onnx_data_1`, `x.onnx.data`.
fn with_external_weights(graph: &str, names: &BTreeSet<String>) -> impl Iterator<Item = String> {
    names
        .iter()
        .filter(move |name| name.starts_with(graph))
        .cloned()
}

/// The graphs a Whisper folder runs from, which may be split otherwise than in the published layout.
fn whisper_graphs(folder: &Path, names: &BTreeSet<String>) -> BTreeSet<String> {
    [Precision::Int8, Precision::Float]
        .into_iter()
        .filter_map(|precision| ModelFolder::read(folder, precision, Device::Cpu).ok())
        .flat_map(|model| {
            let graphs = graph_files(&model.graphs);
            graphs
                .into_iter()
                .filter_map(|graph| Some(graph.strip_prefix(folder).ok()?.to_str()?.to_owned()))
                .collect::<Vec<_>>()
        })
        .flat_map(|graph| with_external_weights(&graph, names).collect::<Vec<_>>())
        .collect()
}

fn has_graph(names: &BTreeSet<String>, prefix: &str) -> bool {
    names.iter().any(|path| {
        let name = path.rsplit('/').next().unwrap_or(path);
        name.starts_with(prefix) && name.ends_with(".onnx")
    })
}

/// Why a folder without graphs is no model, by the weights it has instead.
fn without_graphs(folder: &Path, names: &BTreeSet<String>) -> ModelStoreError {
    let pytorch = [
        "model.safetensors",
        "pytorch_model.bin",
        "model.safetensors.index.json",
    ];
    let weights = if names.contains("model.bin") {
        "CTranslate2 (faster-whisper)"
    } else if pytorch.iter().any(|name| names.contains(*name)) {
        "PyTorch"
    } else {
        return ModelStoreError::Unrecognised {
            folder: folder.display().to_string(),
        };
    };
    ModelStoreError::Unusable {
        folder: folder.display().to_string(),
        message: format!(
            "it holds {weights} weights and no ONNX graphs. Pull the published export of the model by the same id, or \
             export the original with `optimum-cli export onnx`"
        ),
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

fn graph_files(graphs: &Graphs) -> Vec<&PathBuf> {
    let mut files = vec![&graphs.encoder];
    match &graphs.decoder {
        DecoderGraphs::Merged(graph) => files.push(graph),
        DecoderGraphs::WithPast { prompt, step } => files.extend([prompt, step]),
    }
    files.extend(&graphs.timestamped_decoder);
    files
}
