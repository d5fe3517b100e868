//! Tells the two dialects of `POST /v1/audio/transcriptions` apart.
//!
//! A request speaks OpenAI's dialect when its model is one of OpenAI's ids; or, with any other model, when an official
//! OpenAI client sent it without a field that only our own dialect has. Everything else is native, whatever fields of
//! OpenAI's it has. So `-F file=@a.wav -F model=whisper-base` answers with a job, and the same call through the `openai`
//! package with a text.

use poem::Request;
use poem::http::header;

use crate::form::Fields;

/// What one of OpenAI's models offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenAiModel {
    /// Its id.
    pub id: &'static str,
    /// Which family it is of.
    pub family: Family,
}

/// What models of a family accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// `whisper-1`: also translates.
    Whisper,
    /// The GPT transcription models.
    Gpt,
    /// The one that tells speakers apart.
    GptDiarize,
    /// Any of our own models: accepts everything.
    Own,
}

const MODELS: [OpenAiModel; 7] = {
    const fn model(id: &'static str, family: Family) -> OpenAiModel {
        OpenAiModel { id, family }
    }
    [
        model("whisper-1", Family::Whisper),
        model("gpt-transcribe", Family::Gpt),
        model("gpt-4o-transcribe", Family::Gpt),
        model("gpt-4o-mini-transcribe", Family::Gpt),
        model("gpt-4o-mini-transcribe-2025-12-15", Family::Gpt),
        model("gpt-4o-transcribe-latest", Family::Gpt),
        model("gpt-4o-transcribe-diarize", Family::GptDiarize),
    ]
};

/// Fields that only our own dialect has.
const NATIVE_FIELDS: [&str; 21] = [
    "audio_url",
    "name",
    "model_diarize",
    "model_align",
    "model_pii_detect",
    "vocabulary",
    "speaker_detection",
    "num_speakers",
    "min_speakers",
    "max_speakers",
    "timestamps_granularity",
    "pii_detection",
    "pii_entity_types",
    "redact_pii_audio",
    "pii_redaction_mode",
    "retention",
    "lite_profile",
    "tracks",
    "pipeline",
    "chunk_target_seconds",
    "chunk_minimum_seconds",
];

/// Every OpenAI model id.
pub fn models() -> impl Iterator<Item = OpenAiModel> {
    MODELS.into_iter()
}

/// The family of a model id; ids that are not OpenAI's are our own.
#[must_use]
pub fn family(model: &str) -> Family {
    MODELS
        .iter()
        .find(|known| known.id == model)
        .map_or(Family::Own, |known| known.family)
}

/// Whether an official OpenAI client sent the request: they name themselves in two headers.
#[must_use]
pub fn is_openai_client(request: &Request) -> bool {
    let agent = request.header(header::USER_AGENT).unwrap_or_default();
    agent.contains("OpenAI/")
        || (request.header("x-stainless-package-version").is_some() && !agent.contains("Dalston"))
}

/// Whether a form speaks OpenAI's dialect.
#[must_use]
pub fn speaks_openai(fields: &Fields, openai_client: bool) -> bool {
    let model = fields.text("model").unwrap_or_default();
    if family(model) != Family::Own {
        return true;
    }
    openai_client && !NATIVE_FIELDS.iter().any(|name| fields.has(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialect_follows_the_model_then_the_client() {
        for (fields, client, openai) in [
            (&[("model", "whisper-1")][..], false, true),
            (&[("model", "whisper-1"), ("retention", "1")], false, true),
            (&[("model", "whisper-nano")], false, false),
            (&[("model", "whisper-nano")], true, true),
            (&[("model", "whisper-99")], true, true),
            (
                &[("model", "whisper-nano"), ("response_format", "json")],
                false,
                false,
            ),
            (
                &[("model", "x"), ("timestamp_granularities[]", "word")],
                false,
                false,
            ),
            (&[("known_speaker_names[]", "Bob")], false, false),
            (&[("chunking_strategy[type]", "auto")], true, true),
            (
                &[("response_format", "json"), ("speaker_detection", "none")],
                true,
                false,
            ),
            (&[("model", "x"), ("retention", "1")], true, false),
            (&[], false, false),
        ] {
            let mut form = Fields::default();
            for (name, text) in fields {
                form.push((*name).to_owned(), (*text).to_owned());
            }
            assert_eq!(speaks_openai(&form, client), openai, "{fields:?} {client}");
        }
    }
}
