//! The engine `pyannote`: a segmentation model (`PyanNet`, Bredin 2023) that tells a few tracks of speech apart within a
//! window of ten seconds. Sizes and names come from the export: its metadata (sherpa-onnx), its `config.json` and
//! `preprocessor_config.json` (transformers.js), and one run on silence. Which track is which speaker changes from
//! window to window.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use ort::session::Session;
use ort::value::TensorRef;

use super::classes::{Classes, MAX_TRACKS, Tracks};
use super::grid::WindowGrid;
use super::one_graph::{OneGraph, description, session_options};
use super::prefix_stream::{Prefix, PrefixStream};
use crate::audio_source::{AudioSource, SAMPLE_RATE};
use crate::error::{EngineError, Result};
use crate::graph::interface::Interface;
use crate::graph::shared_prefix;
use crate::model_folder::{Json, Precision};
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

/// The `model_type` that transformers.js gives `PyanNet`.
const MODEL_TYPE: &str = "pyannet";
/// How the metadata of sherpa-onnx's exports call it.
const METADATA_TYPE: &str = "pyannote-segmentation";
/// Length of a window, where the export does not say: ten seconds.
const WINDOW: usize = 160_000;
/// Samples a frame of `PyanNet` sees, and between frames.
const RECEPTIVE_FIELD: (usize, usize) = (991, 270);
/// A window starts every tenth of a window, as in the reference.
const STEPS_PER_WINDOW: usize = 10;
/// Windows of one call on a CPU: more leave its caches, and cost more each.
const CPU_BATCH: usize = 4;
const DOING: &str = "segmenting speech";

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
        let graph = OneGraph::open(folder, Precision::Auto).ok()?;
        let kind = graph.interface.metadata.get("model_type")?;
        Some(kind.starts_with(METADATA_TYPE))
    };
    by_config || by_metadata().unwrap_or(false)
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
    /// Layers that overlapping windows share, where the graph could be split.
    prefix: Option<Prefix>,
    /// The graph, or what is left of it after the prefix.
    session: Mutex<Session>,
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
        let graph = OneGraph::open(folder, options.precision)?;
        let config = SegmentationConfig::read(folder, &graph.interface)?;
        let mut session = graph.session(runtime, options)?;
        if session.inputs().len() != 1 {
            return Err(graph.invalid("it does not have one input, audio".to_owned()));
        }
        let window = config.window.unwrap_or(WINDOW);
        let step = window / STEPS_PER_WINDOW;
        let run = RunGuard::new()?;
        let probe = probe_audio(window);
        let scores = scores(&mut session, &[1, 1, window], &probe, &run)?;
        let classes =
            Classes::recognize(scores.n_classes, &config, &scores.values).ok_or_else(|| {
                graph.invalid(format!("{} classes are not speakers", scores.n_classes))
            })?;
        let (field, shift) = config.receptive_field.unwrap_or(RECEPTIVE_FIELD);
        let mut model = Model {
            prefix: None,
            grid: WindowGrid {
                window,
                step,
                n_frames: scores.n_frames,
                field,
                shift,
            },
            session: Mutex::new(session),
            classes,
            n_classes: scores.n_classes,
            batch_size: match runtime.device() {
                Device::Cuda => options.batch_size.max(1),
                Device::Auto | Device::Cpu => options.batch_size.clamp(1, CPU_BATCH),
            },
            weight_bytes: graph.weight_bytes(),
        };
        // Copies between the two halves would cost a GPU more than it saves.
        if runtime.device() == Device::Cpu {
            match split_model(runtime, &graph.path, step, &session_options(options)) {
                Ok((prefix, rest)) => model.use_split(prefix, rest, &probe, &scores)?,
                Err(reason) => {
                    tracing::debug!(model = %graph.path.display(), %reason, "windows share no layers");
                }
            }
        }
        Ok(Self(Arc::new(model)))
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

    /// Begins a walk over a file.
    pub fn walk(&self) -> SegmentationWalk<'_> {
        SegmentationWalk {
            model: &self.0,
            prefix: self.0.prefix.as_ref().map(PrefixStream::new),
        }
    }
}

/// A walk over a file, window by window. Windows must come in order.
pub struct SegmentationWalk<'a> {
    model: &'a Model,
    prefix: Option<PrefixStream<'a>>,
}

impl SegmentationWalk<'_> {
    /// The tracks active in each frame of `count` windows, the first from sample `start` on and each `step` samples
    /// after the one before: `[windows × frames]`.
    ///
    /// # Errors
    /// [`EngineError::Audio`], [`EngineError::Graph`], [`EngineError::Cancelled`].
    pub fn windows(
        &mut self,
        audio: &dyn AudioSource,
        (start, count): (u64, usize),
        step: usize,
        run: &RunGuard,
    ) -> Result<Vec<Tracks>> {
        let model = self.model;
        let scores = model.scores(
            self.prefix.as_mut(),
            audio,
            (start, count),
            (model.grid.window, step),
            run,
        )?;
        let frames = scores.values.chunks_exact(model.n_classes);
        Ok(frames.map(|frame| model.classes.decode(frame)).collect())
    }
}

impl Model {
    fn scores(
        &self,
        prefix: Option<&mut PrefixStream<'_>>,
        audio: &dyn AudioSource,
        (start, count): (u64, usize),
        (window, step): (usize, usize),
        run: &RunGuard,
    ) -> Result<Scores> {
        let scores = if let Some(prefix) = prefix {
            let values = prefix.windows(audio, (start, count), (window, step), run)?;
            let (windows, channels, frames) = values.dim();
            let values = values.into_raw_vec_and_offset().0;
            let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
            scores(&mut session, &[windows, channels, frames], &values, run)?
        } else {
            let mut samples = vec![0.0; count * window];
            for (at, samples) in samples.chunks_exact_mut(window).enumerate() {
                audio.read(start + (at * step) as u64, samples)?;
            }
            let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
            scores(&mut session, &[count, 1, window], &samples, run)?
        };
        let expected = count * self.grid.n_frames * self.n_classes;
        if scores.n_classes != self.n_classes || scores.values.len() != expected {
            return Err(EngineError::graph(
                DOING,
                "the number of frames changes from call to call",
            ));
        }
        Ok(scores)
    }

    /// Runs from the split graph from now on, if it answers the probe as the whole graph did.
    fn use_split(
        &mut self,
        prefix: Prefix,
        rest: Session,
        probe: &[f32],
        whole: &Scores,
    ) -> Result<()> {
        /// Sums in another order differ by less.
        const TOLERANCE: f32 = 1e-2;
        let published = std::mem::replace(&mut self.session, Mutex::new(rest));
        let window = self.grid.window;
        let mut stream = PrefixStream::new(&prefix);
        let run = RunGuard::new()?;
        let audio = probe.to_vec();
        let split = self.scores(Some(&mut stream), &audio, (0, 1), (window, window), &run);
        let equal = split.as_ref().is_ok_and(|split| {
            let pairs = split.values.iter().zip(&whole.values);
            pairs.fold(0.0, |worst: f32, (a, b)| worst.max((a - b).abs())) < TOLERANCE
        });
        if equal {
            self.prefix = Some(prefix);
        } else {
            tracing::warn!("a split segmentation graph answers otherwise; the whole one runs");
            self.session = published;
        }
        Ok(())
    }
}

/// Splits a graph file and loads both parts.
fn split_model(
    runtime: &Runtime,
    path: &Path,
    step: usize,
    options: &SessionOptions,
) -> Result<(Prefix, Session), String> {
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    let split = shared_prefix::split(&bytes.into(), step)
        .map_err(|error| error.to_string())?
        .ok_or("its first layers depend on where a window begins")?;
    let load = |name: &str, graph: &[u8]| {
        let name = format!("{} ({name})", path.display());
        runtime
            .session_from_memory(&name, graph, options)
            .map_err(|error| error.to_string())
    };
    let prefix = Prefix {
        session: Mutex::new(load("first layers", &split.prefix)?),
        stride: split.stride,
        field: split.field,
    };
    Ok((prefix, load("last layers", &split.rest)?))
}

/// Something to hear: noise that swells and fades.
fn probe_audio(n_samples: usize) -> Vec<f32> {
    let mut state = 1_u32;
    (0..n_samples)
        .map(|at| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 8) as f32 / 8_388_608.0 - 1.0;
            noise * 0.1 * (at as f32 / 5_000.0).sin()
        })
        .collect()
}

/// `[windows, frames, classes]`.
struct Scores {
    n_frames: usize,
    n_classes: usize,
    values: Vec<f32>,
}

/// One call, on audio or on what the prefix made of it.
fn scores(
    session: &mut Session,
    shape: &[usize; 3],
    values: &[f32],
    run: &RunGuard,
) -> Result<Scores> {
    let failed = |error: ort::Error| run.error(DOING, error);
    let n_windows = shape[0] as i64;
    let input = session.inputs()[0].name().to_owned();
    let values = TensorRef::from_array_view((*shape, values)).map_err(failed)?;
    let outputs = session
        .run_with_options(ort::inputs![input => values], run.options())
        .map_err(failed)?;
    let (shape, values) = outputs[0].try_extract_tensor::<f32>().map_err(failed)?;
    match shape[..] {
        [windows, frames, classes] if windows == n_windows && frames > 0 && classes > 0 => {
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
