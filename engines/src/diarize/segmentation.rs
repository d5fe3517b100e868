//! The engine `pyannote`: a segmentation model (PyanNet, Bredin 2023) that tells a few tracks of speech apart within a
//! window of ten seconds. Sizes and names come from the export: its metadata (sherpa-onnx), its `config.json` and
//! `preprocessor_config.json` (transformers.js), and one run on silence. Which track is which speaker changes from
//! window to window.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ort::session::Session;
use ort::value::TensorRef;

use super::classes::{Classes, MAX_TRACKS, Tracks};
use super::grid::WindowGrid;
use crate::audio_source::SAMPLE_RATE;
use crate::error::{EngineError, Result};
use crate::graph::interface::Interface;
use crate::model_folder::{Json, Precision, choose_graph, file_bytes};
use crate::registry::{EngineSpec, LoadOptions, LoadedModel, ModelDescription, Stage};
use crate::session::{Device, RunGuard, Runtime, SessionOptions};

/// The engine as the registry lists it.
pub const SPEC: EngineSpec = EngineSpec {
    id: "pyannote",
    stage: Stage::Diarize,
    recognizes,
    describe,
    load,
};

/// The `model_type` that transformers.js gives PyanNet.
const MODEL_TYPE: &str = "pyannet";
/// How the metadata of sherpa-onnx's exports call it.
const METADATA_TYPE: &str = "pyannote-segmentation";
/// Length of a window, where the export does not say: ten seconds.
const WINDOW: usize = 160_000;
/// Samples a frame of PyanNet sees, and between frames.
const RECEPTIVE_FIELD: (usize, usize) = (991, 270);

/// What a folder says about its segmentation model; `None` where it is silent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SegmentationConfig {
    /// Samples of a window.
    pub window: Option<usize>,
    /// Samples a frame sees, and between frames.
    pub receptive_field: Option<(usize, usize)>,
    /// Tracks, and how many of them speak at once at most.
    pub powerset: Option<(usize, usize)>,
    /// The tracks of each class, from `id2label`.
    pub class_sets: Option<Vec<Tracks>>,
}

impl SegmentationConfig {
    fn read(folder: &Path, interface: &Interface) -> Result<Self> {
        let config = Json::optional(folder, "config.json")?;
        let preprocessor = Json::optional(folder, "preprocessor_config.json")?;
        let number = |key: &str| {
            let value = preprocessor.as_ref()?.get(key)?.as_u64()?;
            usize::try_from(value).ok()
        };
        let rate = interface.number("sample_rate").or(number("sampling_rate"));
        if let Some(rate) = rate.filter(|&rate| rate != SAMPLE_RATE as usize) {
            return Err(EngineError::ModelInvalid {
                path: folder.to_owned(),
                message: format!("it hears {rate} Hz; only 16000 Hz models are supported"),
            });
        }
        let stated = interface
            .number("receptive_field_size")
            .zip(interface.number("receptive_field_shift"));
        // transformers.js counts frames as (samples − offset) / step.
        let counted = number("step").and_then(|step| Some((number("offset")? + step, step)));
        Ok(Self {
            window: interface.number("window_size"),
            receptive_field: stated.or(counted).filter(|&(_, shift)| shift > 0),
            powerset: interface
                .number("num_speakers")
                .zip(interface.number("powerset_max_classes"))
                .filter(|&(tracks, _)| tracks <= MAX_TRACKS),
            class_sets: config.as_ref().and_then(class_sets),
        })
    }
}

/// The tracks that `id2label` names for each class: `NO_SPEAKER`, `SPEAKER_2`, `SPEAKERS_1_AND_3`.
fn class_sets(config: &Json) -> Option<Vec<Tracks>> {
    let labels = config.get("id2label")?.as_object()?;
    (0..labels.len())
        .map(|class| {
            let label = labels.get(&class.to_string())?.as_str()?;
            let numbers = label.split('_').filter_map(|word| word.parse::<u32>().ok());
            let mut set: Tracks = 0;
            for number in numbers {
                set |= Tracks::from(1_u8).checked_shl(number.checked_sub(1)?)?;
            }
            (set != 0 || label.contains("NO_")).then_some(set)
        })
        .collect()
}

fn recognizes(folder: &Path) -> bool {
    let by_config = Json::optional(folder, "config.json").ok().flatten();
    let by_config = by_config.is_some_and(|config| {
        config
            .get("model_type")
            .is_some_and(|kind| kind == MODEL_TYPE)
    });
    let by_metadata = || {
        let (_, path) = graph_file(folder, Precision::Auto).ok()?;
        let interface = Interface::read(&path).ok()?;
        let kind = interface.metadata.get("model_type")?;
        Some(kind.starts_with(METADATA_TYPE))
    };
    by_config || by_metadata().unwrap_or(false)
}

/// The graph to run: 8-bit weights gain little in so small a model, so they run only when asked for or alone.
pub(super) fn graph_file(
    folder: &Path,
    precision: Precision,
) -> Result<(Precision, std::path::PathBuf)> {
    // The device that prefers float.
    choose_graph(folder, "model", precision, Device::Cuda)
}

/// What a model of the stage is, from its files.
pub(super) fn description(
    spec: &EngineSpec,
    folder: &Path,
    precision: Precision,
    component: bool,
) -> Result<ModelDescription> {
    let (precision, path) = graph_file(folder, precision)?;
    Ok(ModelDescription {
        engine: spec.id,
        stage: spec.stage,
        languages: Vec::new(),
        translates: false,
        native_words: false,
        alignment_method: None,
        vocabulary: "none",
        component,
        streaming: false,
        precision,
        weight_bytes: file_bytes(&path),
    })
}

fn describe(folder: &Path, precision: Precision, _device: Device) -> Result<ModelDescription> {
    description(&SPEC, folder, precision, false)
}

fn load(runtime: &Runtime, folder: &Path, options: &LoadOptions) -> Result<LoadedModel> {
    SpeakerSegmentation::load(runtime, folder, options).map(LoadedModel::SpeakerSegmentation)
}

/// A loaded segmentation model. Clones share it.
#[derive(Clone)]
pub struct SpeakerSegmentation(Arc<Model>);

struct Model {
    session: Mutex<Session>,
    input: String,
    grid: WindowGrid,
    classes: Classes,
    n_classes: usize,
    batch_size: usize,
    weight_bytes: u64,
}

impl SpeakerSegmentation {
    /// Loads the model in a folder.
    ///
    /// # Errors
    /// [`EngineError::ModelFileMissing`], [`EngineError::ModelInvalid`] when it is no segmentation model,
    /// [`EngineError::Graph`].
    pub fn load(runtime: &Runtime, folder: &Path, options: &LoadOptions) -> Result<Self> {
        let (_, path) = graph_file(folder, options.precision)?;
        let invalid = |message: String| EngineError::ModelInvalid {
            path: path.clone(),
            message,
        };
        let interface = Interface::read(&path).map_err(|error| invalid(error.to_string()))?;
        let config = SegmentationConfig::read(folder, &interface)?;
        let session = SessionOptions {
            threads: options.threads,
            ..SessionOptions::default()
        };
        let mut session = runtime.session(&path, &session)?;
        let [input] = session.inputs() else {
            return Err(invalid("it does not have one input, audio".to_owned()));
        };
        let input = input.name().to_owned();
        let window = config.window.unwrap_or(WINDOW);
        let silence = vec![0.0; window];
        let scores = scores(&mut session, &input, &silence, 1, &RunGuard::new()?)?;
        let classes = Classes::recognize(scores.n_classes, &config, &scores.values)
            .ok_or_else(|| invalid(format!("{} classes are not speakers", scores.n_classes)))?;
        let (field, shift) = config.receptive_field.unwrap_or(RECEPTIVE_FIELD);
        Ok(Self(Arc::new(Model {
            grid: WindowGrid {
                window,
                step: window / 10,
                n_frames: scores.n_frames,
                field,
                shift,
            },
            session: Mutex::new(session),
            input,
            classes,
            n_classes: scores.n_classes,
            batch_size: options.batch_size.max(1),
            weight_bytes: file_bytes(&path),
        })))
    }

    /// Windows and frames.
    pub fn grid(&self) -> WindowGrid {
        self.0.grid
    }

    /// Tracks told apart within a window.
    pub fn n_tracks(&self) -> usize {
        self.0.classes.n_tracks(self.0.n_classes)
    }

    /// Windows that are best run at once.
    pub fn batch_size(&self) -> usize {
        self.0.batch_size
    }

    /// Bytes of weights held.
    pub fn weight_bytes(&self) -> u64 {
        self.0.weight_bytes
    }

    /// The tracks active in each frame of some windows. `samples` holds the windows one after the other; the answer is
    /// `[windows, frames]`.
    ///
    /// # Errors
    /// [`EngineError::Graph`], [`EngineError::Cancelled`].
    pub fn segment(&self, samples: &[f32], run: &RunGuard) -> Result<Vec<Tracks>> {
        let model = &*self.0;
        let n_windows = samples.len() / model.grid.window;
        let mut session = model.session.lock().unwrap_or_else(PoisonError::into_inner);
        let scores = scores(&mut session, &model.input, samples, n_windows, run)?;
        if (scores.n_frames, scores.n_classes) != (model.grid.n_frames, model.n_classes) {
            return Err(EngineError::graph(
                "segmenting speech",
                "the number of frames changes from call to call",
            ));
        }
        let frames = scores.values.chunks_exact(model.n_classes);
        Ok(frames.map(|frame| model.classes.decode(frame)).collect())
    }
}

/// `[windows, frames, classes]`.
struct Scores {
    n_frames: usize,
    n_classes: usize,
    values: Vec<f32>,
}

fn scores(
    session: &mut Session,
    input: &str,
    samples: &[f32],
    n_windows: usize,
    run: &RunGuard,
) -> Result<Scores> {
    const DOING: &str = "segmenting speech";
    let failed = |error: ort::Error| run.error(DOING, error);
    let shape = [n_windows, 1, samples.len() / n_windows.max(1)];
    let audio = TensorRef::from_array_view((shape, samples)).map_err(failed)?;
    let outputs = session
        .run_with_options(ort::inputs![input => audio], run.options())
        .map_err(failed)?;
    let (shape, values) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
    match shape[..] {
        [windows, frames, classes] if windows == n_windows as i64 && frames > 0 && classes > 0 => {
            Ok(Scores {
                n_frames: frames as usize,
                n_classes: classes as usize,
                values: values.to_vec(),
            })
        }
        _ => Err(EngineError::graph(
            DOING,
            format!("its output has the shape {shape:?}, not [windows, frames, classes]"),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn labels_name_the_tracks_of_a_class() {
        let sets = |labels: serde_json::Value| {
            class_sets(&Json {
                path: "config.json".into(),
                value: serde_json::json!({ "id2label": labels }),
            })
        };
        let powerset =
            serde_json::json!({"0": "NO_SPEAKER", "1": "SPEAKER_1", "2": "SPEAKERS_1_AND_3"});
        assert_eq!(sets(powerset).unwrap(), [0, 0b001, 0b101]);
        assert_eq!(sets(serde_json::json!({"0": "LABEL_X"})), None);
        assert_eq!(sets(serde_json::json!({"0": "SPEAKER_9"})), None);
    }
}
