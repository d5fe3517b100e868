//! The one list of engines. An engine is a file that implements its stage's trait and one line here; the conformance
//! suite, the worker's capabilities and model import find it through this list.

use std::path::Path;

use crate::align::{self, Aligner};
use crate::diarize::{self, SpeakerEmbedding, SpeakerSegmentation};
use crate::error::{EngineError, Result};
use crate::model_folder::Precision;
use crate::session::{Device, Runtime};
use crate::transcriber::TranscriberHandle;
use crate::{parakeet, whisper};

/// What a stage of the pipeline does with audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Audio to text: [`crate::BatchTranscriber`].
    Transcribe,
    /// Text and audio to words with times.
    Align,
    /// Audio to speaker turns.
    Diarize,
}

impl Stage {
    /// The stage's name in capabilities and tasks.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transcribe => "transcribe",
            Self::Align => "align",
            Self::Diarize => "diarize",
        }
    }
}

/// How to load a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadOptions {
    /// Which of the folder's weights to run.
    pub precision: Precision,
    /// Threads of a model call.
    pub threads: usize,
    /// Windows decoded at once, over all requests.
    pub batch_size: usize,
}

impl LoadOptions {
    /// All cores, and the batch size that suits a device.
    pub fn for_device(device: Device) -> Self {
        let batch_size = match device {
            Device::Cuda => 24,
            Device::Auto | Device::Cpu => 8,
        };
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            precision: Precision::Auto,
            threads,
            batch_size,
        }
    }
}

/// What a model on disk can do, read from its files without loading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelDescription {
    /// The engine that runs it.
    pub engine: &'static str,
    /// The stage it serves.
    pub stage: Stage,
    /// Codes of the languages it hears; empty where language plays no part.
    pub languages: Vec<String>,
    /// Whether it can translate to English.
    pub translates: bool,
    /// Whether it times words itself.
    pub native_words: bool,
    /// How it times words: `attention`, `tdt`, `rnnt`, `ctc`, `phoneme_wav2vec`; `None` when it gives words no times.
    pub alignment_method: Option<&'static str>,
    /// How a vocabulary acts on it: `prompt_conditioning`, `phrase_boosting` or `none`.
    pub vocabulary: &'static str,
    /// Whether it is a part that another model of its stage needs, and runs no task by itself.
    pub component: bool,
    /// Whether it gives results while audio still arrives.
    pub streaming: bool,
    /// The weights that would run: [`Precision::Float`] or [`Precision::Int8`].
    pub precision: Precision,
    /// Bytes of weights loaded: the least memory the model takes.
    pub weight_bytes: u64,
}

/// A model in memory, ready for work. Clones share it.
#[derive(Clone)]
pub enum LoadedModel {
    /// Audio to text.
    Transcriber(TranscriberHandle),
    /// Text and audio to words with times.
    Aligner(Aligner),
    /// Audio to tracks of speech.
    SpeakerSegmentation(SpeakerSegmentation),
    /// Voices to vectors.
    SpeakerEmbedding(SpeakerEmbedding),
}

impl LoadedModel {
    /// The transcriber, if it is one.
    pub fn into_transcriber(self) -> Option<TranscriberHandle> {
        match self {
            Self::Transcriber(transcriber) => Some(transcriber),
            _ => None,
        }
    }

    /// The aligner, if it is one.
    pub fn into_aligner(self) -> Option<Aligner> {
        match self {
            Self::Aligner(aligner) => Some(aligner),
            _ => None,
        }
    }

    /// The speaker segmentation model, if it is one.
    pub fn into_speaker_segmentation(self) -> Option<SpeakerSegmentation> {
        match self {
            Self::SpeakerSegmentation(model) => Some(model),
            _ => None,
        }
    }

    /// The speaker embedding model, if it is one.
    pub fn into_speaker_embedding(self) -> Option<SpeakerEmbedding> {
        match self {
            Self::SpeakerEmbedding(model) => Some(model),
            _ => None,
        }
    }

    /// Bytes of weights the model holds.
    pub fn weight_bytes(&self) -> u64 {
        match self {
            Self::Transcriber(transcriber) => transcriber.weight_bytes(),
            Self::Aligner(aligner) => aligner.weight_bytes(),
            Self::SpeakerSegmentation(model) => model.weight_bytes(),
            Self::SpeakerEmbedding(model) => model.weight_bytes(),
        }
    }
}

/// One engine.
pub struct EngineSpec {
    /// Its id in capabilities, requests and the catalogue.
    pub id: &'static str,
    /// The stage it serves.
    pub stage: Stage,
    /// Whether a folder holds a model of this engine, by its files.
    pub recognizes: fn(&Path) -> bool,
    /// What the model in a folder can do on a device.
    pub describe: fn(&Path, Precision, Device) -> Result<ModelDescription>,
    /// Loads the model in a folder.
    pub load: fn(&Runtime, &Path, &LoadOptions) -> Result<LoadedModel>,
}

/// Every engine there is.
pub const ENGINES: &[EngineSpec] = &[
    whisper::SPEC,
    parakeet::SPEC,
    align::SPEC,
    diarize::segmentation::SPEC,
    diarize::embedding::SPEC,
];

/// The engine with an id.
pub fn engine(id: &str) -> Option<&'static EngineSpec> {
    ENGINES.iter().find(|engine| engine.id == id)
}

/// The engine that runs the model in a folder.
///
/// # Errors
/// [`EngineError::ModelInvalid`] when none knows its layout.
pub fn engine_of(folder: &Path) -> Result<&'static EngineSpec> {
    ENGINES
        .iter()
        .find(|engine| (engine.recognizes)(folder))
        .ok_or_else(|| {
            let known: Vec<&str> = ENGINES.iter().map(|engine| engine.id).collect();
            EngineError::ModelInvalid {
                path: folder.to_owned(),
                message: format!(
                    "it is not in the layout of any engine ({})",
                    known.join(", ")
                ),
            }
        })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn nano() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("models/whisper-nano")
    }

    #[test]
    fn ids_are_unique() {
        for (at, spec) in ENGINES.iter().enumerate() {
            assert!(ENGINES[at + 1..].iter().all(|other| other.id != spec.id));
        }
    }

    #[test]
    fn a_folder_finds_its_engine_and_says_what_it_can_do() {
        let spec = engine_of(&nano()).unwrap();
        assert_eq!(spec.id, "whisper");
        let description = (spec.describe)(&nano(), Precision::Auto, Device::Cpu).unwrap();
        assert_eq!(description.languages.len(), 99);
        assert_eq!(description.precision, Precision::Int8);
        assert!(description.native_words && description.translates && !description.component);
        assert_eq!(description.alignment_method, Some("attention"));
        assert_eq!(description.vocabulary, "prompt_conditioning");
        assert!((2_000_000..4_000_000).contains(&description.weight_bytes));
    }

    #[test]
    fn a_waveform_model_with_a_character_head_is_an_aligner() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/wav2vec2-nano");
        let spec = engine_of(&folder).unwrap();
        assert_eq!((spec.id, spec.stage), ("wav2vec2", Stage::Align));
        let description = (spec.describe)(&folder, Precision::Auto, Device::Cpu).unwrap();
        assert_eq!(description.languages, ["en"]);
        assert_eq!(description.precision, Precision::Int8);
        assert_eq!(description.alignment_method, Some("phoneme_wav2vec"));
        assert!((1_000_000..2_000_000).contains(&description.weight_bytes));
    }

    #[test]
    fn a_folder_of_something_else_is_nobodys() {
        let vad = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/silero-vad");
        assert!(engine_of(&vad).is_err());
        assert!(engine("sphinx").is_none());
    }
}
