//! The speakers that a request knows by name, and recordings of their voices where it has them; the same in both
//! dialects.
//!
//! Names alone are given to speakers in the order of their first speech. A recording is a `data:` URL of a few seconds
//! of the speaker alone; then the name goes to whoever sounds like it.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use bytes::Bytes;
use poem::http::StatusCode;

use crate::error::ApiError;
use crate::form::Fields;

/// Speakers that may have recordings.
pub const MOST_CLIPS: usize = 4;
/// Speakers that may be named.
const MOST_NAMES: usize = 32;
/// Longest name, in characters.
const NAME_CHARACTERS: usize = 100;

/// Field of the names.
pub const NAMES: &str = "known_speaker_names";
/// Field of the recordings.
pub const CLIPS: &str = "known_speaker_references";

/// Base64 as clients write it, with or without padding.
const BASE64: GeneralPurpose = {
    let lenient =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    general_purpose::GeneralPurpose::new(&STANDARD, lenient)
};

/// A recording of a known speaker, not yet looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// The speaker.
    pub name: String,
    /// What its media type says it is, as a file extension.
    pub extension: String,
    /// The file.
    pub content: Bytes,
}

/// What is wrong with the speakers of a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SpeakerError {
    /// The field at fault.
    pub field: &'static str,
    /// What to change.
    pub message: String,
}

impl SpeakerError {
    /// A refusal of the recordings.
    #[must_use]
    pub fn clip(message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            field: CLIPS,
            message,
        }
    }

    /// A refusal of the names.
    #[must_use]
    pub fn name(message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            field: NAMES,
            message,
        }
    }

    /// 400 in the standard shape.
    #[must_use]
    pub fn into_standard(self) -> ApiError {
        ApiError::bad_request(self.message)
    }

    /// 400 in OpenAI's shape.
    #[must_use]
    pub fn into_openai(self) -> ApiError {
        ApiError::openai(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            Some(&format!("invalid_{}", self.field)),
            self.message,
            Some(self.field),
        )
    }
}

/// The names of known speakers, trimmed, at most 32, all different.
///
/// # Errors
/// [`SpeakerError`] for what is no list of names.
pub fn names(fields: &Fields) -> Result<Vec<String>, SpeakerError> {
    let no_list =
        || SpeakerError::name(format!("{NAMES} must be a JSON array of non-empty strings"));
    let names = match fields.text(NAMES) {
        // One part that is no list of strings must not become a speaker called `{"a": 1}`.
        Some(text) if text.trim_start().starts_with(['[', '{']) => {
            serde_json::from_str::<Vec<String>>(text).map_err(|_| no_list())?
        }
        _ => fields.list(NAMES),
    };
    if names.len() > MOST_NAMES {
        return Err(SpeakerError::name(format!(
            "At most {MOST_NAMES} speakers can be named"
        )));
    }
    let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            return Err(no_list());
        }
        if name.chars().count() > NAME_CHARACTERS || name.chars().any(char::is_control) {
            return Err(SpeakerError::name(format!(
                "{NAMES}[{index}] must be one line of at most {NAME_CHARACTERS} characters"
            )));
        }
        if names[..index].contains(name) {
            return Err(SpeakerError::name(format!(
                "{NAMES} has {name} twice; each speaker needs a name of its own"
            )));
        }
    }
    Ok(names)
}

/// The recordings of known speakers, one for each of `names`, or none at all.
///
/// # Errors
/// [`SpeakerError`] for more than four, another number than names, and what is no `data:` URL.
pub fn clips(fields: &Fields, names: &[String]) -> Result<Vec<Clip>, SpeakerError> {
    let references = fields.list(CLIPS);
    if references.is_empty() {
        return Ok(Vec::new());
    }
    if references.len() > MOST_CLIPS {
        return Err(SpeakerError::clip(format!(
            "At most {MOST_CLIPS} speakers can have references"
        )));
    }
    if references.len() != names.len() {
        return Err(SpeakerError::clip(format!(
            "{CLIPS} has {} entries and {NAMES} has {}; send one reference for each name, in the same order",
            references.len(),
            names.len()
        )));
    }
    let named = names.iter().zip(&references).enumerate();
    named
        .map(|(index, (name, reference))| {
            let (extension, content) = data_url(reference).ok_or_else(|| {
                SpeakerError::clip(format!(
                    "{CLIPS}[{index}] must be a data URL with a recording in base64, such as data:audio/wav;base64,UklGR…"
                ))
            })?;
            Ok(Clip {
                name: name.clone(),
                extension,
                content,
            })
        })
        .collect()
}

/// Media type (as an extension) and content of a `data:` URL in base64 (RFC 2397).
fn data_url(text: &str) -> Option<(String, Bytes)> {
    let (scheme, rest) = text.trim().split_once(':')?;
    let (head, data) = rest.split_once(',')?;
    let (media_type, encoding) = head.rsplit_once(';')?;
    if !scheme.eq_ignore_ascii_case("data") || !encoding.trim().eq_ignore_ascii_case("base64") {
        return None;
    }
    let data: Vec<u8> = data
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .collect();
    let content = BASE64
        .decode(data)
        .ok()
        .filter(|content| !content.is_empty())?;
    let subtype = media_type.split(';').next()?.rsplit('/').next()?;
    let subtype = subtype.trim().to_ascii_lowercase();
    let extension = match subtype.trim_start_matches("x-") {
        "mpeg" => "mp3",
        "mp4" => "m4a",
        plain => plain,
    };
    Some((extension.to_owned(), content.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn names_come_in_every_form_of_a_list() {
        for fields in [
            Fields::of(&[
                ("known_speaker_names[]", " Ann "),
                ("known_speaker_names[]", "Bob"),
            ]),
            Fields::of(&[(NAMES, r#"["Ann", "Bob"]"#)]),
            Fields::of(&[(NAMES, "Ann"), (NAMES, "Bob")]),
        ] {
            assert_eq!(names(&fields).unwrap(), ["Ann", "Bob"]);
        }
        assert!(names(&Fields::of(&[])).unwrap().is_empty());
    }

    #[test]
    fn wrong_names_are_refused_with_what_is_right() {
        let many =
            serde_json::to_string(&(0..33).map(|n| n.to_string()).collect::<Vec<_>>()).unwrap();
        let long = "x".repeat(101);
        for (text, message) in [
            ("[1]", "must be a JSON array of non-empty strings"),
            (
                r#"["Ann", " "]"#,
                "must be a JSON array of non-empty strings",
            ),
            (r#"["Ann", "Ann"]"#, "has Ann twice"),
            (long.as_str(), "at most 100 characters"),
            (many.as_str(), "At most 32"),
        ] {
            let error = names(&Fields::of(&[(NAMES, text)])).unwrap_err();
            assert!(error.message.contains(message), "{text}: {error}");
        }
    }

    #[test]
    fn references_are_data_urls_one_for_each_name() {
        let names = ["Ann".to_owned(), "Bob".to_owned()];
        let fields = Fields::of(&[
            (
                "known_speaker_references[]",
                "data:audio/x-wav;base64,UklGRg==",
            ),
            (
                "known_speaker_references[]",
                "DATA:audio/mpeg;rate=8000;BASE64,SUQz",
            ),
        ]);
        let clips = clips(&fields, &names).unwrap();
        let read: Vec<_> = clips
            .iter()
            .map(|clip| {
                (
                    clip.name.as_str(),
                    clip.extension.as_str(),
                    &clip.content[..],
                )
            })
            .collect();
        assert_eq!(
            read,
            [("Ann", "wav", &b"RIFF"[..]), ("Bob", "mp3", &b"ID3"[..])]
        );
    }

    #[test]
    fn wrong_references_are_refused_with_what_is_right() {
        let good = "data:audio/wav;base64,UklGRg==";
        let refused = |references: &[&str], n_names: usize| {
            let mut fields = Fields::default();
            for reference in references {
                fields.push(
                    "known_speaker_references[]".to_owned(),
                    (*reference).to_owned(),
                );
            }
            let names: Vec<String> = (0..n_names).map(|n| format!("N{n}")).collect();
            clips(&fields, &names).unwrap_err().message
        };
        assert!(refused(&[good; 5], 5).contains("At most 4"));
        assert!(refused(&[good], 2).contains("send one reference for each name"));
        for wrong in [
            "https://host/a.wav",
            "data:audio/wav,RIFF",
            "data:audio/wav;base64,!!",
            "data:audio/wav;base64,",
        ] {
            let message = refused(&[good, wrong], 2);
            assert!(
                message.starts_with("known_speaker_references[1] must be a data URL"),
                "{wrong}: {message}"
            );
        }
    }
}
