//! Speech that one channel's microphone picked up from another's speaker. The same word at the same time on two channels,
//! where `prepare` found the sound of one in the other, was said once: it stays on the louder channel. Two people who say
//! the same word both said it, whoever is louder.

use std::collections::{HashMap, HashSet};

use dalston_schema::task::PreparedAudio;
use dalston_schema::transcript::{TranscriptSegment, Word};

use super::text::{join_texts, spoken};
use crate::coverage::Interval;

/// Starts of the same word on two channels are at most this far apart, seconds.
const SAME_TIME: f64 = 0.3;
/// The same in a segment that is mostly bled: its other words were bled too, and faint words are timed badly.
const ABOUT_THEN: f64 = 1.5;
/// Share of a word that must lie where the other channel was picked up.
const PICKED_UP: f64 = 0.5;
/// A word timed shorter lasts at least this, seconds.
const SHORTEST: f64 = 0.02;

/// Removes bled words from the channels; `channels[i]` are the segments of `files[i]`, on the job's clock. Answers how
/// many words went.
pub fn remove(
    channels: &mut [Vec<TranscriptSegment>],
    files: &[&PreparedAudio],
    language: &str,
) -> usize {
    let heard: Vec<Vec<Heard>> = channels.iter().map(|segments| hear(segments)).collect();
    let mut bled: Vec<Vec<bool>> = heard.iter().map(|words| vec![false; words.len()]).collect();
    for (here, words) in heard.iter().enumerate() {
        for (there, others) in heard.iter().enumerate().filter(|(there, _)| *there != here) {
            let Some(picked_up) = picked_up(files[here], files[there]) else {
                continue;
            };
            let is_bled = |word: &Heard, within| {
                twin(word, others, within).is_some() && is_picked_up(word, picked_up)
            };
            let mut found: Vec<bool> = words.iter().map(|word| is_bled(word, SAME_TIME)).collect();
            let mostly = mostly_bled(words, &found);
            for (found, word) in found.iter_mut().zip(words) {
                *found = *found || (mostly.contains(&word.segment) && is_bled(word, ABOUT_THEN));
            }
            for (bled, found) in bled[here].iter_mut().zip(found) {
                *bled = *bled || found;
            }
        }
    }
    let mut removed = 0;
    for ((segments, heard), bled) in channels.iter_mut().zip(&heard).zip(&bled) {
        if bled.contains(&true) {
            removed += bled.iter().filter(|bled| **bled).count();
            drop_words(segments, heard, bled, language);
        }
    }
    removed
}

/// A word, or the whole text of a segment without words.
struct Heard {
    segment: usize,
    spoken: String,
    start: f64,
    end: f64,
}

/// In order of start, as segments and their words are.
fn hear(segments: &[TranscriptSegment]) -> Vec<Heard> {
    let mut heard = Vec::new();
    for (index, segment) in segments.iter().enumerate() {
        let mut push = |text: &str, start, end| {
            heard.push(Heard {
                segment: index,
                spoken: spoken(text),
                start,
                end,
            });
        };
        match &segment.words {
            Some(words) => words
                .iter()
                .for_each(|word| push(&word.text, word.start, word.end)),
            None => push(&segment.text, segment.start, segment.end),
        }
    }
    heard.sort_by(|a, b| a.start.total_cmp(&b.start));
    heard
}

/// The segments of which at least half the words are bled.
fn mostly_bled(words: &[Heard], bled: &[bool]) -> HashSet<usize> {
    let mut balance: HashMap<usize, i64> = HashMap::new();
    for (word, bled) in words.iter().zip(bled) {
        *balance.entry(word.segment).or_default() += if *bled { 1 } else { -1 };
    }
    balance
        .into_iter()
        .filter_map(|(segment, balance)| (balance >= 0).then_some(segment))
        .collect()
}

/// The nearest of the same words that begin within so many seconds.
fn twin<'a>(word: &Heard, others: &'a [Heard], within: f64) -> Option<&'a Heard> {
    if word.spoken.is_empty() {
        return None;
    }
    let from = others.partition_point(|other| other.start < word.start - within);
    others[from..]
        .iter()
        .take_while(|other| other.start <= word.start + within)
        .filter(|other| other.spoken == word.spoken)
        .min_by(|a, b| {
            let distance = |other: &Heard| (other.start - word.start).abs();
            distance(a).total_cmp(&distance(b))
        })
}

/// Where `here` holds the sound of `there`, on both files' own clock.
fn picked_up<'a>(here: &'a PreparedAudio, there: &PreparedAudio) -> Option<&'a [Interval]> {
    let from = there.channel?;
    let bleed = here.bleed.iter().find(|bleed| bleed.from == from)?;
    Some(&bleed.regions)
}

fn is_picked_up(word: &Heard, regions: &[Interval]) -> bool {
    let end = word.end.max(word.start + SHORTEST);
    let first = regions.partition_point(|region| region.1 <= word.start);
    let shared: f64 = regions[first..]
        .iter()
        .take_while(|region| region.0 < end)
        .map(|region| region.1.min(end) - region.0.max(word.start))
        .sum();
    shared >= PICKED_UP * (end - word.start)
}

fn drop_words(
    segments: &mut Vec<TranscriptSegment>,
    heard: &[Heard],
    bled: &[bool],
    language: &str,
) {
    let gone: Vec<&Heard> = heard
        .iter()
        .zip(bled)
        .filter_map(|(word, bled)| bled.then_some(word))
        .collect();
    let mut index = 0;
    segments.retain_mut(|segment| {
        let of_segment: Vec<&&Heard> = gone.iter().filter(|word| word.segment == index).collect();
        index += 1;
        if of_segment.is_empty() {
            return true;
        }
        let Some(words) = &mut segment.words else {
            return false;
        };
        words.retain(|word| {
            !of_segment
                .iter()
                .any(|gone| gone.start == word.start && gone.spoken == spoken(&word.text))
        });
        let (Some(first), Some(last)) = (words.first(), words.last()) else {
            return false;
        };
        (segment.start, segment.end) = (first.start, last.end);
        segment.text = join_texts(words.iter().map(|word: &Word| word.text.as_str()), language);
        segment.tokens = None;
        true
    });
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use dalston_schema::task::Bleed;

    use super::*;
    use crate::assemble::tests::placed;

    /// A channel that picked up another for a while.
    fn file(channel: u16, from: u16, regions: &[Interval]) -> PreparedAudio {
        PreparedAudio {
            channel: Some(channel),
            duration: 10.0,
            bleed: vec![Bleed {
                from,
                regions: regions.to_vec(),
            }],
            ..PreparedAudio::default()
        }
    }

    fn texts(segments: &[TranscriptSegment]) -> Vec<&str> {
        segments
            .iter()
            .map(|segment| segment.text.as_str())
            .collect()
    }

    #[test]
    fn bled_words_stay_on_the_louder_channel_and_what_both_said_stays_on_both() {
        let files = [file(0, 1, &[(6.0, 8.0)]), file(1, 0, &[(0.0, 1.8)])];
        let mut channels = vec![
            vec![
                placed(&[("Good", 0.5), ("morning.", 1.0)]),
                placed(&[("fine", 6.5)]),
                placed(&[("Bye.", 8.5)]),
            ],
            vec![
                placed(&[("good", 0.6), ("morning", 1.1), ("Hello", 5.2)]),
                placed(&[("fine", 6.4), ("thanks", 7.0)]),
                placed(&[("Bye", 8.5)]),
            ],
        ];
        let removed = remove(&mut channels, &[&files[0], &files[1]], "en");
        assert_eq!(removed, 3);
        assert_eq!(texts(&channels[0]), ["Good morning.", "Bye."]);
        assert_eq!(texts(&channels[1]), ["Hello", "fine thanks", "Bye"]);
        assert_eq!(channels[1][0].start, 5.2);
    }

    #[test]
    fn the_same_word_said_by_two_people_stays_with_both() {
        let files = [file(0, 1, &[]), file(1, 0, &[(3.0, 9.0)])];
        let mut channels = vec![
            vec![placed(&[("Yes", 1.0), ("the", 1.5), ("list", 2.0)])],
            vec![
                placed(&[("yes", 1.1)]),
                placed(&[("The", 1.6), ("list", 2.1)]),
            ],
        ];
        assert_eq!(remove(&mut channels, &[&files[0], &files[1]], "en"), 0);
        assert_eq!(texts(&channels[1]), ["yes", "The list"]);
    }

    #[test]
    fn segments_without_words_are_compared_as_they_are() {
        let wordless = |text: &str, start| TranscriptSegment {
            words: None,
            ..placed(&[(text, start)])
        };
        let files = [file(0, 1, &[]), file(1, 0, &[(0.0, 3.0)])];
        let mut channels = vec![
            vec![wordless("All the same", 1.0)],
            vec![wordless("all the same.", 1.1), wordless("but this", 3.0)],
        ];
        assert_eq!(remove(&mut channels, &[&files[0], &files[1]], "en"), 1);
        assert_eq!(texts(&channels[1]), ["but this"]);
    }
}
