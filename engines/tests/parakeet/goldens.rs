//! Token for token and time for time, float weights; by word errors, int8.

use dalston_engines::{Precision, TranscriberHandle};
use serde::Deserialize;

use crate::fixture::{
    audio, ctc, golden, load, models, tdt, tokens, transcribe_all, with_words, words,
};
use crate::word_errors::word_error_rate;

#[derive(Deserialize)]
struct Utterance {
    id: String,
    path: String,
    text: String,
    ids: Vec<u32>,
    timestamps: Vec<f64>,
    logprobs: Vec<f32>,
    #[serde(default)]
    words: Vec<Word>,
}

#[derive(Deserialize)]
struct Word {
    word: String,
    start: f64,
    end: f64,
}

#[derive(Deserialize)]
struct Dialogue {
    name: String,
    whole: Stretch,
    segments: Vec<Stretch>,
}

#[derive(Deserialize)]
struct Stretch {
    #[serde(default)]
    start_sample: usize,
    #[serde(default)]
    end_sample: Option<usize>,
    text: String,
    ids: Vec<u32>,
    timestamps: Vec<f64>,
}

#[derive(Deserialize)]
struct Reference {
    id: String,
    text: String,
}

/// Half a millisecond: goldens are rounded to hundredths.
const SAME_TIME: f64 = 5e-4;

/// Starts of words, as token times tell: a word starts with its first token.
fn word_starts(folder: &str, ids: &[u32], timestamps: &[f64]) -> Vec<f64> {
    let vocabulary = std::fs::read_to_string(models().join(folder).join("vocab.txt")).unwrap();
    let pieces: Vec<&str> = vocabulary
        .lines()
        .map(|line| line.rsplit_once(' ').unwrap().0)
        .collect();
    let mut starts = Vec::new();
    for (at, (id, time)) in ids.iter().zip(timestamps).enumerate() {
        // A space starts a word where a letter follows, in this piece or in the next.
        let next = ids.get(at + 1).map_or("", |next| pieces[*next as usize]);
        let both = format!("{}{next}", pieces[*id as usize]);
        let rest = both.strip_prefix('▁').unwrap_or_default();
        if at == 0 || rest.starts_with(char::is_alphanumeric) {
            starts.push(*time);
        }
    }
    starts
}

fn check_utterances(model: &TranscriberHandle, folder: &str) {
    let goldens: Vec<Utterance> = golden(folder, "utterances.fp32.jsonl");
    assert!(goldens.len() >= 200);
    let files = goldens.iter().map(|case| audio(&case.path)).collect();
    let answers = transcribe_all(model, files, &with_words());
    let mut wrong = Vec::new();
    for (case, answer) in goldens.iter().zip(&answers) {
        let words = words(answer);
        let starts = word_starts(folder, &case.ids, &case.timestamps);
        let same_starts = starts.len() == words.len()
            && starts
                .iter()
                .zip(&words)
                .all(|(golden, word)| (golden - word.1).abs() < SAME_TIME);
        let same_words = case.words.is_empty()
            || case.words.len() == words.len()
                && case.words.iter().zip(&words).all(|(golden, word)| {
                    golden.word == word.0
                        && (golden.start - word.1).abs() < SAME_TIME
                        && (golden.end - word.2).abs() < SAME_TIME
                });
        let logprobs = answer
            .segments
            .iter()
            .flat_map(|segment| &segment.token_logprobs);
        let same_logprobs = case
            .logprobs
            .iter()
            .zip(logprobs)
            .all(|(golden, ours)| (golden - ours).abs() < 2e-3);
        if tokens(answer) != case.ids
            || answer.text != case.text
            || !same_starts
            || !same_words
            || !same_logprobs
        {
            wrong.push(format!(
                "{}: {:?} instead of {:?} {words:?}",
                case.id, answer.text, case.text
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
fn every_utterance_of_the_tdt_model_equals_the_reference() {
    check_utterances(tdt(), "parakeet-tdt-nano");
}

#[test]
fn every_utterance_of_the_ctc_model_equals_the_reference() {
    check_utterances(ctc(), "parakeet-ctc-nano");
}

fn check_dialogues(model: &TranscriberHandle, folder: &str) {
    let mut wrong = Vec::new();
    for dialogue in golden::<Dialogue>(folder, "dialogues.fp32.jsonl") {
        let samples = audio(&format!("dialogues/{}.wav", dialogue.name));
        let stretches: Vec<&Stretch> = std::iter::once(&dialogue.whole)
            .chain(&dialogue.segments)
            .collect();
        let files = stretches
            .iter()
            .map(|stretch| {
                samples[stretch.start_sample..stretch.end_sample.unwrap_or(samples.len())].to_vec()
            })
            .collect();
        let answers = transcribe_all(model, files, &with_words());
        for (stretch, answer) in stretches.iter().zip(&answers) {
            let starts = word_starts(folder, &stretch.ids, &stretch.timestamps);
            let words = words(answer);
            let same_starts = starts.len() == words.len()
                && starts
                    .iter()
                    .zip(&words)
                    .all(|(golden, word)| (golden - word.1).abs() < SAME_TIME);
            if tokens(answer) != stretch.ids || answer.text != stretch.text || !same_starts {
                wrong.push(format!(
                    "{}: {:?} instead of {:?}",
                    dialogue.name, answer.text, stretch.text
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn every_dialogue_of_the_tdt_model_equals_the_reference() {
    check_dialogues(tdt(), "parakeet-tdt-nano");
}

#[test]
fn every_dialogue_of_the_ctc_model_equals_the_reference() {
    check_dialogues(ctc(), "parakeet-ctc-nano");
}

/// Word error rate of the int8 weights of a model on the bundled utterances.
fn int8_word_errors(folder: &str) -> f64 {
    let goldens: Vec<Utterance> = golden(folder, "utterances.fp32.jsonl");
    let path = models().join("../../tests/audio/utterances.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    let references: Vec<Reference> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let texts: Vec<String> = goldens
        .iter()
        .map(|case| {
            references
                .iter()
                .find(|reference| reference.id == case.id)
                .unwrap()
                .text
                .clone()
        })
        .collect();
    let model = load(&models().join(folder), Precision::Int8, 30.0);
    let files = goldens.iter().map(|case| audio(&case.path)).collect();
    let answers = transcribe_all(&model, files, &with_words());
    let heard: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
    word_error_rate(&texts, &heard)
}

#[test]
fn int8_makes_few_word_errors() {
    for (folder, most) in [("parakeet-tdt-nano", 0.08), ("parakeet-ctc-nano", 0.085)] {
        let rate = int8_word_errors(folder);
        assert!(rate <= most, "{folder}: word error rate {rate:.4}");
    }
}
