//! Words the model cannot spell, and texts that do not fit.

use std::sync::Arc;

use crate::fixture::{align_all, float, mean, request, seconds, segment, spoken};

#[test]
fn a_word_of_characters_the_model_lacks_gets_the_time_it_is_said_at() {
    let mut starts = Vec::new();
    let mut ends = Vec::new();
    let mut neighbours = Vec::new();
    for file in spoken() {
        let plain = align_all(float(), file.samples(), &file.text)
            .segments
            .remove(0)
            .words;
        for hidden in 1..file.words.len() - 1 {
            let mut said: Vec<&str> = file.words.iter().map(|word| word.word.as_str()).collect();
            said[hidden] = ["3", "€20", "двадцать", "2025"][hidden % 4];
            let answer = align_all(float(), file.samples(), &said.join(" "));
            assert_eq!(answer.unaligned, 0);
            let words = &answer.segments[0].words;
            assert!(words[hidden].start < words[hidden].end);
            starts.push((words[hidden].start - plain[hidden].start).abs());
            ends.push((words[hidden].end - plain[hidden].end).abs());
            neighbours.push((words[hidden - 1].start - plain[hidden - 1].start).abs());
            neighbours.push((words[hidden + 1].start - plain[hidden + 1].start).abs());
        }
    }
    let (start, end, neighbour) = (mean(starts), mean(ends), mean(neighbours));
    println!(
        "mean difference of a hidden word: start {start:.3} s, end {end:.3} s, neighbours {neighbour:.3} s"
    );
    assert!(
        start < 0.05 && end < 0.1 && neighbour < 0.05,
        "{start} {end} {neighbour}"
    );
}

#[test]
fn a_word_with_nothing_spoken_stands_between_its_neighbours() {
    let file = &spoken()[0];
    let text = format!(" ♪ {} — you, 'see' …", file.text);
    let answer = align_all(float(), file.samples(), &text);
    let words = &answer.segments[0].words;
    assert_eq!(
        words
            .iter()
            .map(|word| word.text.as_str())
            .collect::<String>(),
        text
    );
    assert_eq!(answer.unaligned, 3);
    assert!(answer.warnings.is_empty());
    for pair in words.windows(2) {
        assert!(pair[0].end <= pair[1].start + 1e-9, "{pair:?}");
    }
    assert_eq!((words[0].probability, words[0].end), (0.0, words[1].start));
}

#[test]
fn a_text_that_does_not_fit_costs_its_neighbours_nothing_and_is_named() {
    let files = spoken();
    let (first, second) = (&files[0], &files[1]);
    let mut samples = first.samples();
    let middle = seconds(samples.len());
    samples.extend(second.samples());
    let end = seconds(samples.len());
    let crowd = "far too many words ".repeat(40);
    let segments = vec![
        segment(0.0, middle, &first.text),
        segment(middle, middle + 0.1, &crowd),
        segment(middle, end, &second.text),
        segment(end + 5.0, end + 6.0, "after the end"),
        segment(end, end, ""),
    ];
    let answer = float().align(request(Arc::new(samples), segments)).unwrap();
    assert_eq!(answer.segments.len(), 5);
    assert_eq!(answer.unaligned, 160 + 3);
    assert!(
        answer.warnings[0].starts_with("2 of 5 segments"),
        "{:?}",
        answer.warnings
    );
    for (aligned, file, offset) in [(0, first, 0.0), (2, second, middle)] {
        for (word, truth) in answer.segments[aligned].words.iter().zip(&file.words) {
            assert!(
                (word.start - offset - truth.start).abs() < 0.4,
                "{word:?} {truth:?}"
            );
        }
    }
    let crowded = &answer.segments[1];
    assert_eq!(
        (crowded.start, crowded.end, crowded.score),
        (middle, middle + 0.1, 0.0)
    );
    assert!(
        crowded
            .words
            .iter()
            .all(|word| word.start >= middle && word.end <= middle + 0.1 + 1e-9)
    );
    assert!(answer.segments[4].words.is_empty());
}

#[test]
fn people_who_speak_at_once_are_aligned_each_for_themselves() {
    let files = spoken();
    let (one, other) = (files[0].samples(), files[5].samples());
    let pause = vec![0.0; 16_000];
    let alone = [&pause[..], &one].concat();
    let mut both = alone.clone();
    both.resize(both.len().max(other.len()), 0.0);
    let end = seconds(both.len());
    let text = |index: usize| files[index].text.as_str();
    let segments = vec![segment(0.0, end, text(0)), segment(0.0, end, text(0))];
    let answer = float().align(request(Arc::new(both), segments)).unwrap();
    assert_eq!(answer.segments[0], answer.segments[1]);
    assert_eq!(answer.unaligned, 0);
}
