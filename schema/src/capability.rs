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

/// Which capabilities a worker is to offer: a stage, an engine of it, or one model of that, written `transcribe`,
/// `transcribe/parakeet` or `transcribe/parakeet/parakeet-tdt-nano` (a model's id may have a slash of its own).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapabilityFilter {
    /// The stage.
    pub stage: Stage,
    /// Only this engine.
    pub engine: Option<String>,
    /// Only this model.
    pub model: Option<String>,
}

impl CapabilityFilter {
    /// Whether a capability is meant.
    #[must_use]
    pub fn fits(&self, capability: &Capability) -> bool {
        let same = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_none_or(|wanted| wanted == found)
        };
        self.stage == capability.stage
            && same(&self.engine, &capability.engine)
            && same(&self.model, &capability.model)
    }

    /// Whether a capability is among those that are meant; no filter means all.
    #[must_use]
    pub fn among(filters: &[Self], capability: &Capability) -> bool {
        filters.is_empty() || filters.iter().any(|filter| filter.fits(capability))
    }
}

impl std::str::FromStr for CapabilityFilter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.trim().splitn(3, '/');
        let stage = parts.next().unwrap_or_default();
        let stage = stage.parse::<Stage>().map_err(|error| error.to_string())?;
        let mut part = || match parts.next() {
            Some("") => Err(format!(
                "{text} ends in a slash; write STAGE, STAGE/ENGINE or STAGE/ENGINE/MODEL"
            )),
            part => Ok(part.map(str::to_owned)),
        };
        Ok(Self {
            stage,
            engine: part()?,
            model: part()?,
        })
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn a_filter_means_a_stage_an_engine_of_it_or_one_model() {
        let base = Capability {
            stage: Stage::Transcribe,
            engine: "whisper".to_owned(),
            model: "onnx-community/whisper-base".to_owned(),
        };
        let cases = [
            ("transcribe", true),
            (" transcribe/whisper", true),
            ("transcribe/whisper/onnx-community/whisper-base", true),
            ("transcribe/parakeet", false),
            ("transcribe/whisper/whisper-base", false),
            ("align", false),
        ];
        for (text, fits) in cases {
            let filter: CapabilityFilter = text.parse().unwrap();
            assert_eq!(filter.fits(&base), fits, "{text}");
        }
        for wrong in ["", "listen", "transcribe/", "transcribe//x"] {
            assert!(wrong.parse::<CapabilityFilter>().is_err(), "{wrong}");
        }
    }
}
