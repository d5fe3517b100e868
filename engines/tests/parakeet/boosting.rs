//! Words to listen for: rare names are spelt right, and nothing is heard that was not said.

use dalston_engines::{TranscribeOptions, TranscriberHandle};
use serde::Deserialize;

use crate::fixture::{audio, ctc, tdt, tokens, transcribe, transcribe_all};
use crate::word_errors::word_error_rate;

#[derive(Deserialize)]
struct Utterance {
    path: String,
    text: String,
}

fn listening_for(words: &[&str]) -> TranscribeOptions {
    TranscribeOptions {
        vocabulary: words.iter().map(|&word| word.to_owned()).collect(),
        ..TranscribeOptions::default()
    }
}

fn utterances() -> Vec<Utterance> {
    let path = crate::fixture::models().join("../../tests/audio/utterances.jsonl");
    let lines = std::fs::read_to_string(path).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn hears(model: &TranscriberHandle, id: &str, name: &str, sentence: &str) {
    let samples = audio(&format!("utterances/{id}.wav"));
    let plain = transcribe(model, samples.clone(), TranscribeOptions::default()).text;
    assert_ne!(plain, sentence, "{id} needs no help");
    let boosted = transcribe(model, samples, listening_for(&["Zanzibar", name]));
    assert_eq!(boosted.text, sentence, "{id} was {plain:?}");
    assert!(boosted.warnings.is_empty());
}

#[test]
fn names_that_greedy_decoding_misspells_are_spelt_right() {
    hears(
        tdt(),
        "dev-00053",
        "Kevin",
        "I will send it to Rachel and Kevin.",
    );
    hears(
        tdt(),
        "dev-00068",
        "September",
        "My birthday is in September.",
    );
    hears(
        tdt(),
        "dev-00183",
        "Rachel",
        "I will send it to Rachel and Victor.",
    );
    hears(
        ctc(),
        "dev-00196",
        "Oliver",
        "Oliver bought seven yellow tickets.",
    );
    hears(
        ctc(),
        "dev-00199",
        "September",
        "We have sixty five customers in September.",
    );
}

const UNRELATED: [&str; 8] = [
    "Kubernetes",
    "Zanzibar",
    "photosynthesis",
    "Szczecin",
    "Wolfgang Amadeus",
    "hippopotamus",
    "quarterly EBITDA",
    "Thessaloniki",
];
const NAMES: [&str; 26] = [
    "Anna",
    "April",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "January",
    "Julia",
    "June",
    "Kevin",
    "Laura",
    "March",
    "Mark",
    "Nina",
    "October",
    "Oliver",
    "Paul",
    "Rachel",
    "Sam",
    "September",
    "Tina",
    "Victor",
    "Wendy",
];

#[test]
fn words_that_are_not_said_change_nothing() {
    let files: Vec<_> = utterances()
        .iter()
        .map(|utterance| audio(&utterance.path))
        .collect();
    for model in [tdt(), ctc()] {
        let plain = transcribe_all(model, files.clone(), &TranscribeOptions::default());
        let boosted = transcribe_all(model, files.clone(), &listening_for(&UNRELATED));
        for (plain, boosted) in plain.iter().zip(&boosted) {
            assert_eq!(
                tokens(plain),
                tokens(boosted),
                "{} became {}",
                plain.text,
                boosted.text
            );
        }
    }
}

#[test]
fn a_list_of_names_makes_fewer_word_errors_not_more() {
    let utterances = utterances();
    let files: Vec<_> = utterances
        .iter()
        .map(|utterance| audio(&utterance.path))
        .collect();
    let references: Vec<String> = utterances
        .into_iter()
        .map(|utterance| utterance.text)
        .collect();
    for model in [tdt(), ctc()] {
        let rate = |options| {
            let answers = transcribe_all(model, files.clone(), &options);
            let texts: Vec<String> = answers.into_iter().map(|answer| answer.text).collect();
            word_error_rate(&references, &texts)
        };
        let (plain, boosted) = (
            rate(TranscribeOptions::default()),
            rate(listening_for(&NAMES)),
        );
        assert!(
            boosted < plain,
            "{boosted:.4} with names, {plain:.4} without"
        );
    }
}
