#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use super::*;
use crate::assemble::tests::placed;

fn turn(speaker: &str, start: f64, end: f64) -> SpeakerTurn {
    SpeakerTurn {
        speaker: speaker.to_owned(),
        start,
        end,
        confidence: Some(0.8),
        overlapping_speakers: Vec::new(),
    }
}

/// What everybody says, as `speaker: text`.
fn told(segments: Vec<TranscriptSegment>, turns: &[SpeakerTurn]) -> Vec<String> {
    assign(segments, turns)
        .iter()
        .map(|segment| {
            let speaker = segment.speaker.as_deref().unwrap_or("nobody");
            for word in segment.words.iter().flatten() {
                assert_eq!(word.speaker, segment.speaker);
            }
            format!("{speaker}: {}", segment.text)
        })
        .collect()
}

/// A word every half second from `start` on, each 0.4 s long.
fn spoken_from(start: f64, text: &str) -> TranscriptSegment {
    let words: Vec<(&str, f64)> = text
        .split_whitespace()
        .enumerate()
        .map(|(index, word)| (word, start + 0.5 * index as f64))
        .collect();
    placed(&words)
}

#[test]
fn a_segment_is_split_where_the_speaker_changes() {
    let turns = [turn("A", 0.0, 1.45), turn("B", 1.5, 4.0)];
    let segment = spoken_from(0.0, "how are you? I am fine, thanks");
    let split = assign(vec![segment], &turns);
    assert_eq!(split[0].text, "how are you?");
    assert_eq!(split[1].text, "I am fine, thanks");
    assert_eq!((split[0].start, split[0].end), (0.0, 1.4));
    assert_eq!(split[1].start, 1.5);
    assert_eq!(split[0].speaker_confidence, Some(0.8));
    assert_eq!(split[0].words.as_ref().unwrap().len(), 3);
    assert!(split.iter().all(|segment| segment.tokens.is_none()));
}

#[test]
fn a_word_goes_to_who_covers_most_of_it_and_the_end_of_a_sentence_to_who_began_it() {
    // "end" begins with A and is mostly B's; as the last word of a sentence it is A's all the same.
    let turns = [turn("A", 0.0, 1.1), turn("B", 1.1, 9.0)];
    let sentence = spoken_from(0.0, "this is end. and more of it");
    assert_eq!(
        told(vec![sentence], &turns),
        ["A: this is end.", "B: and more of it"]
    );
    let clause = spoken_from(0.0, "this is end and more of it");
    assert_eq!(
        told(vec![clause], &turns),
        ["A: this is", "B: end and more of it"]
    );
}

#[test]
fn words_outside_of_all_turns_go_to_the_nearest() {
    let turns = [turn("A", 0.0, 2.0), turn("B", 8.0, 9.0)];
    assert_eq!(
        told(
            vec![
                spoken_from(3.0, "near the first"),
                spoken_from(6.6, "near the second")
            ],
            &turns
        ),
        ["A: near the first", "B: near the second"]
    );
}

#[test]
fn a_lone_word_stays_with_its_neighbour_unless_it_is_a_sentence() {
    let turns = [
        turn("A", 0.0, 0.95),
        turn("B", 1.0, 1.45),
        turn("A", 1.5, 4.0),
    ];
    let slip = spoken_from(0.0, "we then went out");
    assert_eq!(told(vec![slip], &turns), ["A: we then went out"]);
    let answer = spoken_from(0.0, "you agree? Yes. then we go");
    assert_eq!(
        told(vec![answer], &turns),
        ["A: you agree?", "B: Yes.", "A: then we go"]
    );
}

#[test]
fn short_turns_are_absorbed_and_overlap_does_not_tear_a_sentence_apart() {
    let blip = [
        turn("A", 0.0, 2.0),
        turn("B", 2.0, 2.2),
        turn("A", 2.2, 5.0),
    ];
    assert_eq!(
        told(vec![spoken_from(0.0, "one two three four five six")], &blip),
        ["A: one two three four five six"]
    );
    let mumble = [turn("A", 0.0, 6.0), turn("B", 1.0, 3.0)];
    assert_eq!(
        told(
            vec![spoken_from(0.0, "one two three four five six")],
            &mumble
        ),
        ["A: one two three four five six"]
    );
}

#[test]
fn text_without_word_times_is_split_in_proportion() {
    let turns = [turn("A", 0.0, 5.0), turn("B", 5.0, 10.0)];
    let segment = TranscriptSegment {
        start: 0.0,
        end: 10.0,
        words: None,
        ..placed(&[("aaaa bbbb cccc dddd", 0.0)])
    };
    let split = assign(vec![segment], &turns);
    assert_eq!(split[0].text, "aaaa bbbb");
    assert_eq!(split[1].text, "cccc dddd");
    assert!((split[1].start - 5.0).abs() < 1e-9 && split[1].words.is_none());
}

#[test]
fn without_turns_nothing_changes() {
    let segment = spoken_from(0.0, "nobody knows");
    assert_eq!(assign(vec![segment.clone()], &[]), [segment]);
}

#[test]
fn every_word_of_a_long_meeting_keeps_its_place_and_gets_a_speaker() {
    let turns: Vec<SpeakerTurn> = (0..2_000)
        .map(|index| {
            let start = f64::from(index) * 3.7;
            turn(["A", "B", "C"][index as usize % 3], start, start + 4.5)
        })
        .collect();
    let segments: Vec<TranscriptSegment> = (0..2_000)
        .map(|index| {
            spoken_from(
                f64::from(index) * 3.7 + 0.1,
                "one two, three four. five six seven",
            )
        })
        .collect();
    let before: Vec<String> = segments
        .iter()
        .flat_map(|segment| segment.text.split_whitespace().map(str::to_owned))
        .collect();
    let split = assign(segments, &turns);
    let after: Vec<String> = split
        .iter()
        .flat_map(|segment| segment.text.split_whitespace().map(str::to_owned))
        .collect();
    assert_eq!(before, after);
    assert!(
        split
            .iter()
            .all(|segment| segment.speaker.is_some() && segment.end >= segment.start)
    );
    assert!(split.iter().all(|segment| !segment.text.is_empty()));
}
