//! What a worker can do and a task needs: a stage, run by an engine, with a model.

use serde::{Deserialize, Serialize};

use crate::task::Stage;

/// A stage with the engine and model that run it. Stages without a model (`prepare`, `merge`) have an empty
/// engine and model.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Capability {
    /// The stage.
    pub stage: Stage,
    /// Engine id, for example `whisper`; empty for stages without a model.
    pub engine: String,
    /// Model id, for example `whisper-nano`; empty for stages without a model.
    pub model: String,
}

impl Capability {
    /// A capability of a stage that needs no model.
    #[must_use]
    pub fn without_model(stage: Stage) -> Self {
        Self {
            stage,
            engine: String::new(),
            model: String::new(),
        }
    }
}

/// A [`Capability`] as a worker announces it, with what a planner must know to choose it. Built from
/// [`OfferedCapability::new`], so that whoever makes one says only what is special about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfferedCapability {
    /// Stage, engine and model.
    #[serde(flatten)]
    pub capability: Capability,
    /// Languages the model knows (ISO 639-1, lower case); `None` when it is multilingual without a fixed list.
    pub languages: Option<Vec<String>>,
    /// The engine gives word times itself, so no `align` task is needed.
    pub native_words: bool,
    /// How it times words, in the transcript's terms (`attention`, `tdt`, `phoneme_wav2vec` …); `None` when it does not.
    #[serde(default)]
    pub alignment_method: Option<String>,
    /// The model can translate to English.
    pub translates: bool,
    /// It gives results while audio still arrives.
    #[serde(default)]
    pub streaming: bool,
    /// Longest audio of one task in seconds; `None` when only the general limit holds.
    #[serde(default)]
    pub max_audio_seconds: Option<f64>,
    /// Size of the model's files in bytes; larger models are preferred by `auto`.
    pub size_bytes: u64,
    /// Memory its weights take when loaded, in bytes; 0 when not known.
    #[serde(default)]
    pub memory_bytes: u64,
    /// Where it really runs: `cpu` or `cuda`.
    pub device: String,
    /// The runtime's execution provider that really runs it, for example `CPUExecutionProvider`; empty for stages
    /// without a model.
    #[serde(default)]
    pub execution_provider: String,
    /// How the engine uses `vocabulary`: `prompt_conditioning`, `phrase_boosting` or `none`.
    pub vocabulary_method: String,
}

impl OfferedCapability {
    /// An offer that claims nothing beyond the capability: any language, on the CPU.
    #[must_use]
    pub fn new(capability: Capability) -> Self {
        Self {
            capability,
            languages: None,
            native_words: false,
            alignment_method: None,
            translates: false,
            streaming: false,
            max_audio_seconds: None,
            size_bytes: 0,
            memory_bytes: 0,
            device: "cpu".to_owned(),
            execution_provider: String::new(),
            vocabulary_method: "none".to_owned(),
        }
    }
}
