//! Forced alignment: gives the words of a known text their times, with the character probabilities of a wav2vec2-CTC
//! model (Baevski et al., 2020) and the best path through the CTC trellis (Kürzinger et al., 2020, "CTC-Segmentation";
//! Bain et al., 2023, on `whisperX`).
//!
//! The order to read in: [`vocabulary`] (characters and languages of a model), [`text`] (text to words to symbols),
//! [`network`] and [`emissions`] (audio to probabilities, in windows), [`trellis`] (the best path), `walk` (one path
//! over a whole file, in bounded steps), `words` (paths to times).

pub mod emissions;
pub mod network;
pub mod text;
pub mod trellis;
mod turns;
pub mod vocabulary;
mod walk;
mod words;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::audio_source::AudioSource;
use crate::error::{EngineError, Result};
use crate::model_folder::{Precision, choose_graph, file_bytes};
use crate::registry::{EngineSpec, LoadOptions, LoadedModel, ModelDescription, Stage};
use crate::session::{Device, Runtime};
use crate::transcription::{Control, Word};
use crate::watch::watched;
use network::Network;
use vocabulary::{Vocabulary, languages};

/// The engine as the registry lists it.
pub const SPEC: EngineSpec = EngineSpec {
    id: "wav2vec2",
    stage: Stage::Align,
    recognizes,
    describe,
    load: |runtime, folder, options| {
        Aligner::load(runtime, folder, options).map(LoadedModel::Aligner)
    },
};

/// The name of a one-graph export.
const GRAPH: &str = "model";

/// A folder whose `config.json` names a waveform encoder with a CTC head: wav2vec2 and those with its interface.
fn recognizes(folder: &Path) -> bool {
    let config = std::fs::read(folder.join("config.json"))
        .ok()
        .and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
    let Some(config) = config else { return false };
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let kind = config.get("model_type").and_then(text);
    let architecture = config
        .pointer("/architectures/0")
        .and_then(text)
        .unwrap_or_default();
    matches!(
        kind.as_deref(),
        Some("wav2vec2" | "hubert" | "wavlm" | "data2vec-audio")
    ) && architecture.ends_with("ForCTC")
        && folder.join("vocab.json").is_file()
}

fn describe(folder: &Path, precision: Precision, device: Device) -> Result<ModelDescription> {
    let vocabulary = Vocabulary::read(folder)?;
    let (precision, graph) = choose_graph(folder, GRAPH, precision, device)?;
    Ok(ModelDescription {
        engine: SPEC.id,
        stage: SPEC.stage,
        languages: languages(folder, &vocabulary)?,
        translates: false,
        native_words: true,
        alignment_method: Some("phoneme_wav2vec"),
        vocabulary: "none",
        component: false,
        streaming: false,
        precision,
        weight_bytes: file_bytes(&graph),
    })
}

/// A segment whose words want times.
#[derive(Debug, Clone, PartialEq)]
pub struct AlignSegment {
    /// Start in the audio, seconds. Words may begin up to half a second before it.
    pub start: f64,
    /// End in the audio, seconds. Words may end up to half a second after it.
    pub end: f64,
    /// What is said in it.
    pub text: String,
}

/// One request.
#[derive(Clone)]
pub struct AlignRequest {
    /// The audio, 16 kHz mono.
    pub audio: Arc<dyn AudioSource>,
    /// Code of the language of the text; `None` takes the model's word for it.
    pub language: Option<String>,
    /// The text, in any order of time.
    pub segments: Vec<AlignSegment>,
    /// Cancellation and progress.
    pub control: Control,
    /// Longest time to take; `None` derives it from the audio ([`crate::transcriber::default_time_limit`]).
    pub time_limit: Option<Duration>,
}

/// A segment with its words.
#[derive(Debug, Clone, PartialEq)]
pub struct AlignedSegment {
    /// Start of its first word, or the start that was given when no word has a time of its own; seconds.
    pub start: f64,
    /// End of its last word, likewise.
    pub end: f64,
    /// Words whose texts joined give the segment's text; starts never decrease.
    pub words: Vec<Word>,
    /// Mean probability of the words with a time of their own, 0–1; 0 where there is none.
    pub score: f32,
}

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Alignment {
    /// As many segments as were given, in the same order.
    pub segments: Vec<AlignedSegment>,
    /// Words without a time of their own: nothing in them is spoken, or their segment did not fit its audio. Their
    /// times are interpolated and their probability is 0.
    pub unaligned: usize,
    /// What the caller should know: segments whose text does not fit their audio.
    pub warnings: Vec<String>,
}

/// A loaded model. Clones share its one session; requests take turns, a window at a time.
#[derive(Clone)]
pub struct Aligner(Arc<Loaded>);

struct Loaded {
    name: String,
    network: Network,
    vocabulary: Vocabulary,
    languages: Vec<String>,
    weight_bytes: u64,
}

impl Aligner {
    /// Loads a model folder in the layout of facebook/wav2vec2-base-960h's exports.
    ///
    /// # Errors
    /// What is missing or wrong in the folder, or what ONNX Runtime says of its graph.
    pub fn load(runtime: &Runtime, folder: &Path, options: &LoadOptions) -> Result<Self> {
        let vocabulary = Vocabulary::read(folder)?;
        let (_, graph) = choose_graph(folder, GRAPH, options.precision, runtime.device())?;
        let name = folder.file_name().map_or_else(
            || SPEC.id.into(),
            |name| name.to_string_lossy().into_owned(),
        );
        Ok(Self(Arc::new(Loaded {
            name,
            network: Network::load(runtime, folder, &graph, options, &vocabulary)?,
            languages: languages(folder, &vocabulary)?,
            weight_bytes: file_bytes(&graph),
            vocabulary,
        })))
    }

    /// Finds when every word is said. Blocks; memory does not grow with the length of the audio.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] for a language the model does not know, [`EngineError::Cancelled`] within a
    /// moment of the flag, [`EngineError::TimeLimit`], [`EngineError::Audio`], [`EngineError::Graph`].
    pub fn align(&self, request: AlignRequest) -> Result<Alignment> {
        let model = &*self.0;
        if let Some(language) = &request.language
            && !model.languages.contains(language)
        {
            return Err(EngineError::InvalidRequest(format!(
                "{} aligns {}, not {language}: choose an aligner that knows {language}",
                model.name,
                model.languages.join(", ")
            )));
        }
        let duration = request.audio.duration();
        watched(&request.control, request.time_limit, duration, |run| {
            let alignment = walk::align(&model.network, &model.vocabulary, &request, run)?;
            request.control.report(duration);
            Ok(alignment)
        })
    }

    /// Codes of the languages the model was trained on.
    pub fn languages(&self) -> &[String] {
        &self.0.languages
    }

    /// Bytes of weights held in memory.
    pub fn weight_bytes(&self) -> u64 {
        self.0.weight_bytes
    }
}
