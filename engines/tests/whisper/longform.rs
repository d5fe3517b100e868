//! Conversations longer than a window, token for token.

use dalston_engines::{TranscribeOptions, TranscriberHandle};
use serde::Deserialize;

use crate::fixture::{audio, float_model, golden, golden_options, transcribe};

#[derive(Deserialize)]
pub struct Dialogues {
    pub files: Vec<Dialogue>,
}

#[derive(Deserialize)]
pub struct Dialogue {
    pub audio: String,
    pub reference: String,
    pub no_prev: Golden,
    with_prev: Golden,
}

#[derive(Deserialize)]
pub struct Golden {
    pub text: String,
    segments: Vec<GoldenSegment>,
}

#[derive(Deserialize)]
pub struct GoldenSegment {
    start: f64,
    end: f64,
    text: String,
    tokens: Vec<u32>,
}

/// The two dialogues that are in the repository.
const BUNDLED: [&str; 2] = ["dialogues/dlg01.wav", "dialogues/dlg03.wav"];

/// Transcribes the bundled dialogues and compares tokens, times and texts.
pub fn check(model: &TranscriberHandle, condition_on_previous_text: bool) {
    let goldens: Dialogues = golden("dialogues_longform.json");
    let bundled: Vec<&Dialogue> = goldens
        .files
        .iter()
        .filter(|file| BUNDLED.contains(&file.audio.as_str()))
        .collect();
    assert_eq!(bundled.len(), BUNDLED.len());
    for file in bundled {
        let expected = if condition_on_previous_text {
            &file.with_prev
        } else {
            &file.no_prev
        };
        // The reference keeps segments that hold a time and no text.
        let with_text: Vec<&GoldenSegment> = expected
            .segments
            .iter()
            .filter(|segment| !segment.text.trim().is_empty())
            .collect();
        let options = TranscribeOptions {
            condition_on_previous_text,
            ..golden_options()
        };
        let answer = transcribe(model, audio(&file.audio), options);
        for (at, (ours, theirs)) in answer.segments.iter().zip(&with_text).enumerate() {
            assert_eq!(ours.tokens, theirs.tokens, "{} segment {at}", file.audio);
            assert!(
                (ours.start - theirs.start).abs() < 1e-6 && (ours.end - theirs.end).abs() < 1e-6
            );
        }
        assert_eq!(answer.segments.len(), with_text.len(), "{}", file.audio);
        assert_eq!(answer.text, expected.text.trim());
    }
}

#[test]
fn a_long_file_equals_the_reference() {
    check(float_model(), false);
}

#[test]
fn a_long_file_prompted_with_its_own_text_equals_the_reference() {
    check(float_model(), true);
}
