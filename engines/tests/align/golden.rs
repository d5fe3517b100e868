//! Frames and probabilities of an independent implementation on the same weights.

use serde::Deserialize;

use crate::fixture::{align_all, float, int8, mean, model_folder, spoken};
use dalston_engines::Aligner;

#[derive(Deserialize)]
struct Golden {
    aligned: Vec<GoldenFile>,
}

#[derive(Deserialize)]
struct GoldenFile {
    words: Vec<GoldenWord>,
}

#[derive(Deserialize)]
struct GoldenWord {
    word: String,
    start: f64,
    end: f64,
}

fn golden(name: &str) -> Vec<GoldenFile> {
    let json = std::fs::read_to_string(model_folder().join("golden").join(name)).unwrap();
    serde_json::from_str::<Golden>(&json).unwrap().aligned
}

/// How far each start and end is from the reference's, seconds.
fn differences(model: &Aligner, name: &str) -> Vec<f64> {
    let mut differences = Vec::new();
    let files = spoken();
    let reference = golden(name);
    assert_eq!(files.len(), reference.len());
    for (file, reference) in files.iter().zip(&reference) {
        let words = align_all(model, file.samples(), &file.text)
            .segments
            .remove(0)
            .words;
        assert_eq!(words.len(), reference.words.len());
        for (word, reference) in words.iter().zip(&reference.words) {
            assert_eq!(word.text.trim(), reference.word);
            differences.push((word.start - reference.start).abs());
            differences.push((word.end - reference.end).abs());
        }
    }
    differences
}

#[test]
fn the_float_model_gives_the_references_frames() {
    let differences = differences(float(), "alignment.json");
    let exact = differences
        .iter()
        .filter(|difference| **difference < 1e-9)
        .count();
    println!(
        "{exact} of {} float times are the reference's",
        differences.len()
    );
    // Two frames that are equally likely but for rounding may change places.
    assert!(
        differences.iter().all(|difference| *difference < 0.021),
        "{differences:?}"
    );
    assert!(exact * 1000 >= differences.len() * 995);
}

#[test]
fn the_int8_model_gives_the_references_times_within_two_frames() {
    let differences = differences(int8(), "alignment_quantized.json");
    let exact = differences
        .iter()
        .filter(|difference| **difference < 1e-9)
        .count();
    println!(
        "{exact} of {} int8 times are the reference's",
        differences.len()
    );
    assert!(
        differences.iter().all(|difference| *difference < 0.05),
        "{differences:?}"
    );
    assert!(exact * 100 >= differences.len() * 98);
}

#[test]
fn words_start_where_the_synthesiser_spoke_them() {
    for model in [float(), int8()] {
        let mut starts = Vec::new();
        let mut ends = Vec::new();
        for file in spoken() {
            let answer = align_all(model, file.samples(), &file.text);
            assert_eq!((answer.unaligned, answer.warnings.len()), (0, 0));
            for (word, truth) in answer.segments[0].words.iter().zip(&file.words) {
                assert_eq!(word.text.trim(), truth.word);
                assert!((0.0..=1.0).contains(&word.probability));
                starts.push((word.start - truth.start).abs());
                ends.push((word.end - truth.end).abs());
            }
        }
        let (start, end) = (mean(starts), mean(ends));
        println!("mean error of starts {start:.3} s, of ends {end:.3} s");
        assert!(start < 0.135 && end < 0.105, "{start} {end}");
    }
}

#[test]
fn the_right_text_scores_higher_than_a_wrong_one() {
    let files = spoken();
    for pair in files.chunks_exact(2) {
        let score = |text: &str| align_all(float(), pair[0].samples(), text).segments[0].score;
        assert!(score(&pair[0].text) > score(&pair[1].text));
    }
}
