//! Reads the fields of a native transcription request.

mod speakers;

use dalston_schema::job::{
    Chunking, Dialect, JobParameters, PipelineMode, SpeakerDetection, TimestampGranularity,
};
use serde_json::Value;

use crate::error::ApiError;
use crate::form::Fields;
use crate::language;
use crate::submit::Order;

/// Terms a vocabulary may have.
const MOST_TERMS: usize = 100;
/// Longest chunk that can be asked for, in seconds: the longest file.
const LONGEST_CHUNK: f64 = 36_000.0;
/// Shortest, which is a transcriber's window.
const SHORTEST_CHUNK: f64 = 30.0;

/// Reads the fields of a request; the order's name is still empty when none was given.
///
/// # Errors
/// 422 for values of the wrong type or outside their range, 400 for values that make no sense together.
pub fn read(fields: &Fields, default_retention_days: i32) -> Result<Order, ApiError> {
    let temperature = fields.number("temperature", 0.0..=1.0)?;
    refuse_personal_information(fields)?;
    let mut parameters = JobParameters {
        dialect: Dialect::Native,
        model: fields.text("model").map_or("auto", str::trim).to_owned(),
        model_align: pin(fields, "model_align"),
        model_diarize: pin(fields, "model_diarize"),
        language: fields.text("language").map_or(Ok(None), language::read)?,
        translate: false,
        prompt: fields.text("prompt").map(str::to_owned),
        vocabulary: terms(fields, "vocabulary")?,
        temperature: temperature.map(|temperature| temperature as f32),
        timestamps: one_of(
            fields,
            "timestamps_granularity",
            &[
                ("none", TimestampGranularity::None),
                ("segment", TimestampGranularity::Segment),
                ("word", TimestampGranularity::Word),
            ],
            TimestampGranularity::Word,
        )?,
        pipeline: one_of(
            fields,
            "pipeline",
            &[
                ("staged", PipelineMode::Staged),
                ("integrated", PipelineMode::Integrated),
            ],
            PipelineMode::Staged,
        )?,
        chunking: chunking(fields)?,
        planning_warnings: fields
            .has("model_pii_detect")
            .then(|| "model_pii_detect was not used: no worker offers that stage.".to_owned())
            .into_iter()
            .collect(),
        ..JobParameters::default()
    };
    speakers::read(fields, &mut parameters)?;
    let unused = |is_pinned: bool, what: &str| is_pinned.then(|| what.to_owned());
    let warnings = [
        unused(
            parameters.model_diarize.is_some()
                && parameters.speaker_detection != SpeakerDetection::Diarize,
            "model_diarize was not used: speakers are told apart by voice with speaker_detection=diarize.",
        ),
        unused(
            parameters.model_align.is_some() && parameters.timestamps != TimestampGranularity::Word,
            "model_align was not used: words are timed with timestamps_granularity=word.",
        ),
    ];
    parameters
        .planning_warnings
        .extend(warnings.into_iter().flatten());
    Ok(Order {
        parameters,
        display_name: fields.text("name").unwrap_or_default().trim().to_owned(),
        retention_days: retention(fields, default_retention_days)?,
        idempotency: None,
    })
}

fn one_of<T: Copy>(
    fields: &Fields,
    name: &str,
    values: &[(&str, T)],
    default: T,
) -> Result<T, ApiError> {
    let Some(text) = fields.text(name).map(str::trim) else {
        return Ok(default);
    };
    let found = values.iter().find(|(known, _)| *known == text);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = values.iter().map(|(known, _)| *known).collect();
        let message = format!("Input should be one of: {}", known.join(", "));
        ApiError::invalid_field(name, message, text)
    })
}

/// The model of one stage; `auto` is the same as none.
fn pin(fields: &Fields, name: &str) -> Option<String> {
    let model = fields.text(name)?.trim();
    (!model.eq_ignore_ascii_case("auto")).then(|| model.to_owned())
}

/// How to cut a long file; `None` leaves it to the server.
fn chunking(fields: &Fields) -> Result<Option<Chunking>, ApiError> {
    let target = fields.number("chunk_target_seconds", 0.0..=LONGEST_CHUNK)?;
    let minimum = fields.number("chunk_minimum_seconds", 1.0..=LONGEST_CHUNK)?;
    let default = Chunking::default();
    let target_seconds = match target {
        None if minimum.is_none() => return Ok(None),
        Some(0.0) => return Ok(Some(Chunking::OFF)),
        Some(target) if target < SHORTEST_CHUNK => {
            return Err(ApiError::bad_request(format!(
                "chunk_target_seconds must be 0, which never cuts, or at least {SHORTEST_CHUNK}"
            )));
        }
        target => target.unwrap_or(default.target_seconds),
    };
    let minimum_seconds = minimum.unwrap_or(default.minimum_seconds.min(target_seconds / 2.0));
    if minimum_seconds > target_seconds {
        return Err(ApiError::bad_request(format!(
            "chunk_minimum_seconds ({minimum_seconds}) must not be greater than chunk_target_seconds ({target_seconds})"
        )));
    }
    Ok(Some(Chunking {
        target_seconds,
        minimum_seconds,
    }))
}

fn retention(fields: &Fields, default: i32) -> Result<i32, ApiError> {
    match fields.integer("retention", i64::MIN..=i64::MAX)? {
        None => Ok(default),
        Some(days @ (-1..=3650)) => Ok(i32::try_from(days).unwrap_or(default)),
        Some(_) => Err(ApiError::bad_request(
            "Retention days must be 0 (transient), -1 (permanent), or 1-3650",
        )),
    }
}

/// A JSON array of terms.
fn terms(fields: &Fields, name: &str) -> Result<Vec<String>, ApiError> {
    let Some(text) = fields.text(name) else {
        return Ok(Vec::new());
    };
    let value: Value = serde_json::from_str(text)
        .map_err(|error| ApiError::bad_request(format!("Invalid JSON in {name}: {error}")))?;
    let list = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => {
            return Err(ApiError::bad_request(format!(
                "{name} must be a JSON array of strings"
            )));
        }
    };
    if list.len() > MOST_TERMS {
        return Err(ApiError::bad_request(format!(
            "{name} cannot exceed {MOST_TERMS} terms"
        )));
    }
    list.into_iter()
        .map(|term| match term {
            Value::String(term) => Ok(term),
            _ => Err(ApiError::bad_request(format!(
                "{name} must contain only strings"
            ))),
        })
        .collect()
}

/// Somebody who asks for redaction must not get a transcript without it, so the request is refused rather than warned.
fn refuse_personal_information(fields: &Fields) -> Result<(), ApiError> {
    one_of(
        fields,
        "pii_redaction_mode",
        &[("silence", ()), ("beep", ())],
        (),
    )?;
    let wanted =
        fields.boolean("pii_detection", false)? | fields.boolean("redact_pii_audio", false)?;
    if wanted {
        return Err(ApiError::bad_request(
            "pii_detection is not available on this server. Send the request without it.",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn wrong_values_are_refused_with_the_documented_words() {
        let many = serde_json::to_string(&vec!["x"; 101]).unwrap();
        for (pairs, status, message) in [
            (
                &[("retention", "4000")][..],
                400,
                "Retention days must be 0 (transient), -1 (permanent), or 1-3650",
            ),
            (
                &[("retention", "-2")],
                400,
                "Retention days must be 0 (transient), -1 (permanent), or 1-3650",
            ),
            (
                &[("retention", "soon")],
                422,
                "Input should be a valid integer",
            ),
            (
                &[("num_speakers", "33")],
                422,
                "Input should be from 1 to 32",
            ),
            (
                &[("chunk_target_seconds", "10")],
                400,
                "chunk_target_seconds must be 0, which never cuts, or at least 30",
            ),
            (
                &[
                    ("chunk_target_seconds", "60"),
                    ("chunk_minimum_seconds", "90"),
                ],
                400,
                "chunk_minimum_seconds (90) must not be greater than chunk_target_seconds (60)",
            ),
            (
                &[("pipeline", "fast")],
                422,
                "Input should be one of: staged, integrated",
            ),
            (
                &[("speaker_detection", "magic")],
                422,
                "Input should be one of: none, diarize, per_channel",
            ),
            (
                &[("timestamps_granularity", "letter")],
                422,
                "Input should be one of: none, segment, word",
            ),
            (
                &[("pii_redaction_mode", "bark")],
                422,
                "Input should be one of: silence, beep",
            ),
            (
                &[("vocabulary", "{}")],
                400,
                "vocabulary must be a JSON array of strings",
            ),
            (
                &[("vocabulary", "[1]")],
                400,
                "vocabulary must contain only strings",
            ),
            (
                &[("vocabulary", many.as_str())],
                400,
                "vocabulary cannot exceed 100 terms",
            ),
            (&[("temperature", "2")], 422, "Input should be from 0 to 1"),
            (
                &[("pii_detection", "yes")],
                400,
                "pii_detection is not available on this server. Send the request without it.",
            ),
        ] {
            let error = read(&Fields::of(pairs), 30).unwrap_err();
            assert_eq!(
                (error.status_code().as_u16(), error.message().as_str()),
                (status, message),
                "{pairs:?}"
            );
        }
        let error = read(&Fields::of(&[("vocabulary", "[oops")]), 30).unwrap_err();
        assert!(error.message().starts_with("Invalid JSON in vocabulary: "));
    }

    #[test]
    fn what_the_official_client_always_sends_is_understood() {
        let order = read(
            &Fields::of(&[
                ("model", "auto"),
                ("language", "auto"),
                ("speaker_detection", "none"),
                ("timestamps_granularity", "word"),
                ("lite_profile", "core"),
                ("pii_detection", "False"),
                ("num_speakers", ""),
                ("vocabulary", "[\"Dalston\"]"),
                ("name", "  Board meeting "),
                ("retention", "-1"),
            ]),
            30,
        )
        .unwrap();
        assert_eq!(order.display_name, "Board meeting");
        assert_eq!(order.retention_days, -1);
        assert_eq!(order.parameters.vocabulary, ["Dalston"]);
        assert_eq!(order.parameters.language, None);
        assert_eq!(read(&Fields::of(&[]), 30).unwrap().retention_days, 30);
    }

    #[test]
    fn stages_and_chunks_can_be_chosen() {
        let parameters = |pairs| read(&Fields::of(pairs), 30).unwrap().parameters;
        let chosen = parameters(&[
            ("model_align", " wav2vec2-nano "),
            ("model_diarize", "Auto"),
            ("pipeline", "integrated"),
            ("chunk_target_seconds", "90"),
        ]);
        assert_eq!(chosen.model_align.as_deref(), Some("wav2vec2-nano"));
        assert_eq!(chosen.model_diarize, None);
        assert_eq!(chosen.pipeline, PipelineMode::Integrated);
        let cut = |target_seconds, minimum_seconds| {
            Some(Chunking {
                target_seconds,
                minimum_seconds,
            })
        };
        assert_eq!(chosen.chunking, cut(90.0, 30.0));
        assert_eq!(
            parameters(&[("chunk_minimum_seconds", "100")]).chunking,
            cut(120.0, 100.0)
        );
        assert_eq!(
            parameters(&[("chunk_target_seconds", "0")]).chunking,
            Some(Chunking::OFF)
        );
        assert_eq!(parameters(&[]).chunking, None);
    }

    #[test]
    fn a_model_of_a_stage_that_will_not_run_is_said_to_be_unused() {
        fn warnings(pairs: &[(&str, &str)]) -> Vec<String> {
            let order = read(&Fields::of(pairs), 30).unwrap();
            order.parameters.planning_warnings
        }
        let diarizer = ("model_diarize", "pyannote-segmentation-nano");
        let aligner = ("model_align", "wav2vec2-nano");
        assert_eq!(warnings(&[diarizer]).len(), 1);
        assert!(warnings(&[diarizer, ("speaker_detection", "diarize")]).is_empty());
        assert_eq!(
            warnings(&[aligner, ("timestamps_granularity", "segment")]).len(),
            1
        );
        assert!(warnings(&[aligner]).is_empty());
    }
}
