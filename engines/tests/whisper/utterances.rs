//! Short utterances, token for token.

use dalston_engines::{TranscribeOptions, TranscriberHandle};
use serde::Deserialize;

use crate::fixture::{audio, float_model, golden, golden_options, tokens, transcribe_all};

#[derive(Deserialize)]
pub struct Utterances {
    pub utterances: Vec<Utterance>,
}

#[derive(Deserialize)]
pub struct Utterance {
    pub id: String,
    pub audio: String,
    pub reference: String,
    pub tokens_timestamps: Vec<u32>,
    pub text: String,
    pub tokens_notimestamps: Vec<u32>,
    pub text_notimestamps: String,
}

const EOT: u32 = 848;

/// Transcribes all utterances and compares tokens and texts.
pub fn check(model: &TranscriberHandle, timestamps: bool) {
    let goldens: Utterances = golden("utterances.json");
    assert!(goldens.utterances.len() >= 200);
    let files = goldens
        .utterances
        .iter()
        .map(|case| audio(&case.audio))
        .collect();
    let options = TranscribeOptions {
        timestamps,
        ..golden_options()
    };
    let answers = transcribe_all(model, files, &options);
    let mut wrong = Vec::new();
    for (case, answer) in goldens.utterances.iter().zip(&answers) {
        let (expected, text) = if timestamps {
            (&case.tokens_timestamps, &case.text)
        } else {
            (&case.tokens_notimestamps, &case.text_notimestamps)
        };
        let expected: Vec<u32> = expected
            .iter()
            .copied()
            .filter(|&token| token != EOT)
            .collect();
        if tokens(answer) != expected || answer.text != text.trim() {
            wrong.push(format!(
                "{}: {:?} instead of {expected:?}",
                case.id,
                tokens(answer)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {} differ:\n{}",
        wrong.len(),
        answers.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_utterance_with_times_equals_the_reference() {
    check(float_model(), true);
}

#[test]
fn every_utterance_without_times_equals_the_reference() {
    check(float_model(), false);
}
