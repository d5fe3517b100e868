//! Several files that are one recording, each with one speaker: what the form's `tracks` says about them.

use serde::Deserialize;

use crate::error::ApiError;
use crate::form::Fields;

/// Files a recording may have.
pub const MOST_TRACKS: usize = 32;
/// Latest start of a file, in seconds.
const LATEST_START: f64 = 36_000.0;

/// What the form says about one file; the first is about the first file.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrackField {
    /// Name of its speaker.
    #[serde(alias = "label")]
    pub name: Option<String>,
    /// Where it begins on the recording's clock, in seconds.
    pub offset: f64,
}

/// Reads `tracks`, a JSON array of objects; empty when the field is absent.
///
/// # Errors
/// 400 with what would be right.
pub fn read(fields: &Fields) -> Result<Vec<TrackField>, ApiError> {
    let Some(text) = fields.text("tracks") else {
        return Ok(Vec::new());
    };
    let mut tracks: Vec<TrackField> = serde_json::from_str(text).map_err(|error| {
        ApiError::bad_request(format!(
            "tracks must be a JSON array such as [{{\"name\": \"Ann\", \"offset\": 0}}, {{\"name\": \"Bob\", \"offset\": 1.5}}]: {error}"
        ))
    })?;
    if !(2..=MOST_TRACKS).contains(&tracks.len()) {
        return Err(ApiError::bad_request(format!(
            "tracks must describe 2 to {MOST_TRACKS} files, one object for each 'file' in the same order; leave it out for one file"
        )));
    }
    for (index, track) in tracks.iter_mut().enumerate() {
        if !(0.0..=LATEST_START).contains(&track.offset) {
            return Err(ApiError::bad_request(format!(
                "tracks[{index}].offset must be from 0 to {LATEST_START} seconds"
            )));
        }
        track.name = track
            .name
            .take()
            .map(|name| name.trim().to_owned())
            .filter(|name| !name.is_empty());
    }
    if fields.text("speaker_detection").map(str::trim) == Some("diarize") {
        return Err(ApiError::bad_request(
            "tracks have one speaker each; leave out speaker_detection=diarize, or send one mixed file",
        ));
    }
    if fields.has("audio_url") {
        return Err(ApiError::bad_request(
            "tracks needs uploaded files; it cannot be combined with audio_url",
        ));
    }
    Ok(tracks)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    #[test]
    fn names_and_offsets_are_optional() {
        let tracks = read(&Fields::of(&[(
            "tracks",
            r#"[{"name": " Ann "}, {"label": "Bob", "offset": 1.5}, {}]"#,
        )]))
        .unwrap();
        let read_back: Vec<_> = tracks
            .iter()
            .map(|track| (track.name.as_deref(), track.offset))
            .collect();
        assert_eq!(
            read_back,
            [(Some("Ann"), 0.0), (Some("Bob"), 1.5), (None, 0.0)]
        );
        assert!(read(&Fields::of(&[])).unwrap().is_empty());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_would() {
        for (pairs, message) in [
            (
                &[("tracks", "two")][..],
                "tracks must be a JSON array such as",
            ),
            (
                &[("tracks", "[{\"start\": 1}, {}]")],
                "unknown field `start`",
            ),
            (&[("tracks", "[{}]")], "2 to 32 files"),
            (
                &[("tracks", "[{}, {\"offset\": -1}]")],
                "tracks[1].offset must be from 0",
            ),
            (
                &[("tracks", "[{}, {}]"), ("speaker_detection", "diarize")],
                "one speaker each",
            ),
            (
                &[("tracks", "[{}, {}]"), ("audio_url", "http://x/y.wav")],
                "uploaded files",
            ),
        ] {
            let error = read(&Fields::of(pairs)).unwrap_err();
            assert_eq!(error.status_code().as_u16(), 400);
            assert!(error.message().contains(message), "{}", error.message());
        }
    }
}
