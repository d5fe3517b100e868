//! Reads the fields of an OpenAI request and refuses what OpenAI refuses, with its codes.

use dalston_schema::job::{Dialect, JobParameters, SpeakerDetection, TimestampGranularity};
use poem::http::StatusCode;
use serde_json::Value;

use super::dialect::{self, Family};
use crate::error::ApiError;
use crate::form::Fields;
use crate::language;
use crate::speakers::{self, MOST_CLIPS, SpeakerError};

/// Tokens a prompt may have.
const PROMPT_TOKENS: usize = 224;

/// The shape of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFormat {
    /// `{"text"}`
    Json,
    /// The text alone.
    Text,
    /// SubRip.
    Srt,
    /// With segments and words.
    VerboseJson,
    /// WebVTT.
    Vtt,
    /// With speakers.
    DiarizedJson,
}

impl ResponseFormat {
    const ALL: [(&'static str, Self); 6] = [
        ("diarized_json", Self::DiarizedJson),
        ("json", Self::Json),
        ("srt", Self::Srt),
        ("text", Self::Text),
        ("verbose_json", Self::VerboseJson),
        ("vtt", Self::Vtt),
    ];
}

/// Which endpoint was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `/v1/audio/transcriptions`
    Transcriptions,
    /// `/v1/audio/translations`
    Translations,
}

impl Endpoint {
    /// The noun in messages.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Transcriptions => "Transcription",
            Self::Translations => "Translation",
        }
    }
}

/// A request that may be carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenAiRequest {
    /// Which endpoint was called.
    pub endpoint: Endpoint,
    /// The shape of the answer.
    pub format: ResponseFormat,
    /// Word times were asked for.
    pub words: bool,
    /// Segments were asked for, as they are by who asks for nothing.
    pub segments: bool,
    /// Log-probabilities were asked for.
    pub logprobs: bool,
    /// Answer with server-sent events.
    pub stream: bool,
    /// The job.
    pub parameters: JobParameters,
}

/// Reads the fields of a request.
///
/// # Errors
/// 400 in OpenAI's shape.
pub fn read(endpoint: Endpoint, fields: &Fields) -> Result<OpenAiRequest, ApiError> {
    read_fields(endpoint, fields).map_err(ApiError::into_openai)
}

fn read_fields(endpoint: Endpoint, fields: &Fields) -> Result<OpenAiRequest, ApiError> {
    let model = fields.text("model").map_or("auto", str::trim);
    let family = dialect::family(model);
    if endpoint == Endpoint::Translations && !matches!(family, Family::Whisper | Family::Own) {
        let message = format!("Model {model} does not support translations. Use whisper-1.");
        return Err(refused("invalid_model", "model", message));
    }
    let format = response_format(fields, endpoint, family)?;
    let granularities = granularities(fields, format)?;
    let words = granularities.iter().any(|asked| asked == "word");
    let segments = granularities.is_empty() || granularities.iter().any(|asked| asked == "segment");
    let logprobs = includes_logprobs(fields, format, family)?;
    let known_speaker_names = known_speakers(fields, family)?;
    chunking_strategy(fields, family)?;
    let temperature = fields.number("temperature", 0.0..=1.0)?;
    let diarize = family == Family::GptDiarize
        || format == ResponseFormat::DiarizedJson
        || !known_speaker_names.is_empty();
    let parameters = JobParameters {
        dialect: Dialect::OpenAi,
        model: model.to_owned(),
        language: match endpoint {
            Endpoint::Transcriptions => spoken_language(fields)?,
            Endpoint::Translations => None,
        },
        translate: endpoint == Endpoint::Translations,
        prompt: prompt(fields)?,
        vocabulary: keywords(fields)?,
        temperature: temperature.map(|temperature| temperature as f32),
        timestamps: if words || logprobs || diarize {
            TimestampGranularity::Word
        } else {
            TimestampGranularity::Segment
        },
        speaker_detection: if diarize {
            SpeakerDetection::Diarize
        } else {
            SpeakerDetection::None
        },
        known_speaker_names,
        ..JobParameters::default()
    };
    Ok(OpenAiRequest {
        endpoint,
        format,
        words,
        segments,
        logprobs,
        stream: fields.boolean("stream", false)?,
        parameters,
    })
}

fn refused(code: &str, param: &str, message: impl Into<String>) -> ApiError {
    ApiError::openai(
        StatusCode::BAD_REQUEST,
        "invalid_request_error",
        Some(code),
        message,
        Some(param),
    )
}

fn response_format(
    fields: &Fields,
    endpoint: Endpoint,
    family: Family,
) -> Result<ResponseFormat, ApiError> {
    let Some(name) = fields.text("response_format").map(str::trim) else {
        return Ok(ResponseFormat::Json);
    };
    let diarized =
        endpoint == Endpoint::Transcriptions && matches!(family, Family::GptDiarize | Family::Own);
    let supported = ResponseFormat::ALL
        .into_iter()
        .filter(|(_, format)| diarized || *format != ResponseFormat::DiarizedJson);
    let found = supported.clone().find(|(known, _)| *known == name);
    found.map(|(_, format)| format).ok_or_else(|| {
        let names: Vec<&str> = supported.map(|(known, _)| known).collect();
        let message = format!(
            "Invalid response_format: {name}. Supported: {}.",
            names.join(", ")
        );
        refused("invalid_response_format", "response_format", message)
    })
}

fn granularities(fields: &Fields, format: ResponseFormat) -> Result<Vec<String>, ApiError> {
    const PARAM: &str = "timestamp_granularities[]";
    const CODE: &str = "invalid_timestamp_granularities";
    let asked = fields.list("timestamp_granularities");
    if let Some(unknown) = asked
        .iter()
        .find(|asked| !matches!(asked.as_str(), "word" | "segment"))
    {
        let message =
            format!("Invalid timestamp_granularities: {unknown}. Supported: segment, word.");
        return Err(refused(CODE, PARAM, message));
    }
    if !asked.is_empty() && format != ResponseFormat::VerboseJson {
        let message = "timestamp_granularities requires response_format=verbose_json.";
        return Err(refused(CODE, PARAM, message));
    }
    Ok(asked)
}

fn includes_logprobs(
    fields: &Fields,
    format: ResponseFormat,
    family: Family,
) -> Result<bool, ApiError> {
    const CODE: &str = "invalid_include";
    let asked = fields.list("include");
    if let Some(unknown) = asked.iter().find(|asked| {
        !matches!(
            asked.as_str(),
            "logprobs" | "item.input_audio_transcription.logprobs"
        )
    }) {
        let message = format!("Invalid include: {unknown}. Supported: logprobs.");
        return Err(refused(CODE, "include[]", message));
    }
    let possible = format == ResponseFormat::Json && matches!(family, Family::Gpt | Family::Own);
    if !asked.is_empty() && !possible {
        let message =
            "include=logprobs requires response_format=json and a gpt-4o-transcribe model.";
        return Err(refused(CODE, "include[]", message));
    }
    Ok(!asked.is_empty())
}

fn known_speakers(fields: &Fields, family: Family) -> Result<Vec<String>, ApiError> {
    let names = speakers::names(fields).map_err(SpeakerError::into_openai)?;
    let known = !names.is_empty() || fields.has(speakers::CLIPS);
    if known && !matches!(family, Family::GptDiarize | Family::Own) {
        let message = "known_speaker_names requires the model gpt-4o-transcribe-diarize";
        return Err(SpeakerError::name(message).into_openai());
    }
    if names.len() > MOST_CLIPS {
        let message = format!("At most {MOST_CLIPS} speakers can be known");
        return Err(SpeakerError::name(message).into_openai());
    }
    Ok(names)
}

fn chunking_strategy(fields: &Fields, family: Family) -> Result<(), ApiError> {
    let Some(strategy) = fields.object("chunking_strategy") else {
        return Ok(());
    };
    let refuse = |message: &str| {
        Err(refused(
            "invalid_chunking_strategy",
            "chunking_strategy",
            message,
        ))
    };
    if family == Family::Whisper {
        return refuse("chunking_strategy is not supported by whisper-1");
    }
    let kind = match &strategy {
        Value::String(kind) => Some(kind.as_str()),
        strategy => strategy["type"].as_str(),
    };
    match kind {
        // Long audio is always cut at silences, so both mean what happens anyway.
        Some("auto" | "server_vad") => Ok(()),
        _ => refuse("chunking_strategy must be auto or an object of type auto or server_vad"),
    }
}

/// `language`, or the only entry of the newer `languages`.
fn spoken_language(fields: &Fields) -> Result<Option<String>, ApiError> {
    if let Some(text) = fields.text("language") {
        return language::read(text);
    }
    match fields.list("languages").as_slice() {
        [only] => language::read(only),
        _ => Ok(None),
    }
}

fn keywords(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let keywords = fields.list("keywords");
    if keywords.len() > 100 {
        return Err(refused(
            "invalid_keywords",
            "keywords",
            "keywords cannot exceed 100 terms",
        ));
    }
    Ok(keywords)
}

fn prompt(fields: &Fields) -> Result<Option<String>, ApiError> {
    let Some(prompt) = fields.text("prompt") else {
        return Ok(None);
    };
    let words = prompt.split_whitespace().count();
    let tokens = words.max(prompt.chars().count().div_ceil(3));
    if tokens > PROMPT_TOKENS {
        let message = format!(
            "Prompt is too long: about {tokens} tokens, the maximum is {PROMPT_TOKENS}. Shorten it."
        );
        return Err(refused("invalid_prompt", "prompt", message));
    }
    Ok(Some(prompt.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn code(pairs: &[(&str, &str)]) -> String {
        let error = read(Endpoint::Transcriptions, &Fields::of(pairs)).unwrap_err();
        assert_eq!(error.status_code(), StatusCode::BAD_REQUEST);
        let text = error.to_string();
        let body: Value = serde_json::from_str(text.split_once(": ").unwrap().1).unwrap();
        assert!(body["error"]["type"] == "invalid_request_error", "{text}");
        body["error"]["code"].as_str().unwrap().to_owned()
    }

    #[test]
    fn what_openai_refuses_is_refused_with_its_code() {
        let long = "word ".repeat(300);
        for (pairs, expected) in [
            (
                &[("model", "whisper-1"), ("response_format", "docx")][..],
                "invalid_response_format",
            ),
            (
                &[("model", "whisper-1"), ("response_format", "diarized_json")],
                "invalid_response_format",
            ),
            (
                &[
                    ("model", "whisper-1"),
                    ("timestamp_granularities[]", "word"),
                ],
                "invalid_timestamp_granularities",
            ),
            (
                &[
                    ("model", "whisper-1"),
                    ("response_format", "verbose_json"),
                    ("timestamp_granularities[]", "letter"),
                ],
                "invalid_timestamp_granularities",
            ),
            (
                &[("model", "whisper-1"), ("include[]", "logprobs")],
                "invalid_include",
            ),
            (
                &[("model", "gpt-4o-transcribe"), ("include[]", "weather")],
                "invalid_include",
            ),
            (
                &[("model", "whisper-1"), ("chunking_strategy", "auto")],
                "invalid_chunking_strategy",
            ),
            (
                &[
                    ("model", "gpt-4o-transcribe"),
                    ("chunking_strategy[type]", "fixed"),
                ],
                "invalid_chunking_strategy",
            ),
            (
                &[("model", "whisper-1"), ("known_speaker_names[]", "Ann")],
                "invalid_known_speaker_names",
            ),
            (
                &[
                    ("model", "gpt-4o-transcribe-diarize"),
                    ("known_speaker_names", "[1]"),
                ],
                "invalid_known_speaker_names",
            ),
            (
                &[("model", "whisper-1"), ("prompt", long.as_str())],
                "invalid_prompt",
            ),
            (
                &[("model", "whisper-1"), ("temperature", "1.5")],
                "invalid_request",
            ),
            (
                &[("model", "whisper-1"), ("stream", "perhaps")],
                "invalid_request",
            ),
            (
                &[("model", "whisper-1"), ("language", "Klingon!")],
                "invalid_request",
            ),
        ] {
            assert_eq!(code(pairs), expected, "{pairs:?}");
        }
    }

    #[test]
    fn the_message_lists_what_is_supported() {
        let fields = Fields::of(&[("model", "whisper-1"), ("response_format", "docx")]);
        assert_eq!(
            read(Endpoint::Transcriptions, &fields)
                .unwrap_err()
                .message(),
            "Invalid response_format: docx. Supported: json, srt, text, verbose_json, vtt."
        );
    }

    #[test]
    fn a_full_request_becomes_job_parameters() {
        let fields = Fields::of(&[
            ("model", "whisper-1"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities[]", "segment"),
            ("language", "EN-gb"),
            ("prompt", "Minutes."),
            ("temperature", "0.25"),
            ("stream", "True"),
        ]);
        let request = read(Endpoint::Transcriptions, &fields).unwrap();
        assert!(request.words && request.stream && !request.logprobs);
        assert_eq!(request.parameters.language.as_deref(), Some("en"));
        assert_eq!(request.parameters.temperature, Some(0.25));
        assert_eq!(request.parameters.timestamps, TimestampGranularity::Word);
        assert_eq!(request.parameters.prompt.as_deref(), Some("Minutes."));
    }

    #[test]
    fn the_diarize_model_asks_for_speakers_and_takes_a_strategy() {
        let fields = Fields::of(&[
            ("model", "gpt-4o-transcribe-diarize"),
            ("response_format", "diarized_json"),
            ("chunking_strategy[type]", "server_vad"),
            ("chunking_strategy[threshold]", "0.5"),
            ("known_speaker_names[]", "Ann"),
            ("known_speaker_names[]", "Bob"),
        ]);
        let request = read(Endpoint::Transcriptions, &fields).unwrap();
        assert_eq!(
            request.parameters.speaker_detection,
            SpeakerDetection::Diarize
        );
        assert_eq!(request.parameters.known_speaker_names, ["Ann", "Bob"]);
        assert_eq!(request.format, ResponseFormat::DiarizedJson);
    }

    #[test]
    fn translation_takes_only_models_that_translate() {
        let refused = read(
            Endpoint::Translations,
            &Fields::of(&[("model", "gpt-4o-transcribe")]),
        )
        .unwrap_err();
        assert!(refused.to_string().contains("invalid_model"));
        let request = read(
            Endpoint::Translations,
            &Fields::of(&[("model", "whisper-1"), ("language", "de")]),
        )
        .unwrap();
        assert!(request.parameters.translate && request.parameters.language.is_none());
    }
}
