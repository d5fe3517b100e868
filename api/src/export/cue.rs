//! Cuts segments into cues that fit on a screen: greedy word wrap into lines, and as few cues as the lines allow, of
//! about the same length, so that none is gone before it is read.
//!
//! A cue that is part of a segment gets its times from the words when the segment has them, and otherwise a share of
//! the segment's time by its length in characters.

use dalston_schema::transcript::TranscriptSegment;

use super::Options;

/// What is on screen at one time.
#[derive(Clone, Debug, PartialEq)]
pub struct Cue {
    /// Start in seconds.
    pub start: f64,
    /// End in seconds.
    pub end: f64,
    /// The lines, without any speaker.
    pub lines: Vec<String>,
}

/// Cuts one segment. `indent` characters of each cue's first line are taken by a speaker prefix. A segment without
/// text gives no cue.
#[must_use]
pub fn cut(segment: &TranscriptSegment, options: Options, indent: usize) -> Vec<Cue> {
    let words: Vec<&str> = segment.text.split_whitespace().collect();
    let cues = balanced(&words, options, indent);
    let times = split_times(segment, words.len(), &cues);
    cues.into_iter()
        .zip(times)
        .map(|(cue, (start, end))| Cue {
            start,
            end,
            lines: cue.lines,
        })
        .collect()
}

/// Lines of one cue, with the words (by index) and characters it covers.
struct Wrapped {
    lines: Vec<String>,
    first_word: usize,
    last_word: usize,
    characters: usize,
}

/// As few cues as possible, the longest as short as possible.
fn balanced(words: &[&str], options: Options, indent: usize) -> Vec<Wrapped> {
    let cues = wrap(words, options, indent, usize::MAX);
    let total: usize = cues.iter().map(|cue| cue.characters).sum();
    let longest = cues.iter().map(|cue| cue.characters).max().unwrap_or(0);
    let least = total.div_ceil(cues.len().max(1));
    (least..longest)
        .map(|most| wrap(words, options, indent, most))
        .find(|even| even.len() == cues.len())
        .unwrap_or(cues)
}

/// Fills one cue after the other, each with at most `most` characters.
fn wrap(words: &[&str], options: Options, indent: usize, most: usize) -> Vec<Wrapped> {
    let width = options.max_line_length.max(1);
    let mut cues: Vec<Wrapped> = Vec::new();
    let mut room = 0;
    for (index, piece) in pieces(words, width) {
        let length = piece.chars().count();
        let open = cues
            .last()
            .is_some_and(|cue| cue.characters + length <= most);
        let fits = open && length < room;
        if let (true, Some(cue)) = (fits, cues.last_mut()) {
            if let Some(line) = cue.lines.last_mut() {
                line.push(' ');
                line.push_str(piece);
            }
            room -= length + 1;
            cue.last_word = index;
            cue.characters += length;
            continue;
        }
        match cues.last_mut() {
            Some(cue) if open && cue.lines.len() < options.max_lines.max(1) => {
                cue.lines.push(piece.to_owned());
                cue.last_word = index;
                cue.characters += length;
                room = width.saturating_sub(length);
            }
            _ => {
                cues.push(Wrapped {
                    lines: vec![piece.to_owned()],
                    first_word: index,
                    last_word: index,
                    characters: length,
                });
                room = width.saturating_sub(length + indent);
            }
        }
    }
    cues
}

/// Words with their index; one longer than a line (scripts without spaces, addresses) comes in several pieces.
fn pieces<'a>(words: &[&'a str], width: usize) -> Vec<(usize, &'a str)> {
    let mut pieces = Vec::with_capacity(words.len());
    for (index, word) in words.iter().enumerate() {
        let mut rest = *word;
        while let Some((cut, _)) = rest.char_indices().nth(width) {
            pieces.push((index, &rest[..cut]));
            rest = &rest[cut..];
        }
        pieces.push((index, rest));
    }
    pieces
}

fn split_times(segment: &TranscriptSegment, n_words: usize, cues: &[Wrapped]) -> Vec<(f64, f64)> {
    let timed = segment
        .words
        .as_ref()
        .filter(|timed| timed.len() == n_words && cues.len() > 1);
    let total: usize = cues.iter().map(|cue| cue.characters).sum();
    let length = (segment.end - segment.start).max(0.0);
    let share = |done: usize| segment.start + length * done as f64 / total.max(1) as f64;
    let mut done = 0;
    let mut times: Vec<(f64, f64)> = Vec::with_capacity(cues.len());
    for cue in cues {
        let (start, end) = match timed {
            Some(words) => (words[cue.first_word].start, words[cue.last_word].end),
            None => (share(done), share(done + cue.characters)),
        };
        done += cue.characters;
        let earliest = times.last().map_or(segment.start, |(_, end)| *end);
        let start = start.clamp(earliest, segment.end.max(earliest));
        times.push((start, end.clamp(start, segment.end.max(start))));
    }
    if let Some(first) = times.first_mut() {
        first.0 = segment.start;
    }
    if let Some(last) = times.last_mut() {
        last.1 = segment.end;
    }
    times
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::export::samples::transcript;
    use dalston_schema::transcript::Word;

    const TWENTY: Options = Options {
        include_speakers: true,
        max_line_length: 20,
        max_lines: 2,
    };

    #[test]
    fn no_text_is_lost_at_any_width() {
        let text =
            "one two three four fivefivefivefivefivefive six seven eight nine ten eleven twelve";
        let transcript = transcript(&[(1.0, 9.0, text, None)]);
        for max_line_length in 1..60 {
            for max_lines in 1..4 {
                let options = Options {
                    max_line_length,
                    max_lines,
                    ..TWENTY
                };
                let cues = cut(&transcript.segments[0], options, 3);
                let joined: String = cues
                    .iter()
                    .flat_map(|cue| cue.lines.concat().chars().collect::<Vec<_>>())
                    .filter(|c| *c != ' ')
                    .collect();
                assert_eq!(joined, text.replace(' ', ""));
                assert!(cues.iter().all(|cue| cue.lines.len() <= max_lines));
                assert!(
                    cues.iter()
                        .flat_map(|cue| &cue.lines)
                        .all(|line| line.chars().count() <= max_line_length)
                );
                assert!(
                    cues.windows(2)
                        .all(|pair| pair[0].end <= pair[1].start && pair[0].start <= pair[0].end)
                );
                assert_eq!((cues[0].start, cues.last().unwrap().end), (1.0, 9.0));
            }
        }
    }

    #[test]
    fn a_split_cue_takes_its_times_from_the_words() {
        let mut transcript =
            transcript(&[(0.0, 10.0, "alpha bravo charlie delta echo foxtrot", None)]);
        let segment = &mut transcript.segments[0];
        let word = |index: usize| Word {
            start: index as f64,
            end: index as f64 + 0.5,
            ..Word::default()
        };
        segment.words = Some((0..6).map(word).collect());
        let cues = cut(
            segment,
            Options {
                max_lines: 1,
                ..TWENTY
            },
            0,
        );
        let times: Vec<_> = cues
            .iter()
            .map(|cue| (cue.start, cue.end, cue.lines.join("|")))
            .collect();
        assert_eq!(
            times,
            [
                (0.0, 2.5, "alpha bravo charlie".to_owned()),
                (3.0, 10.0, "delta echo foxtrot".to_owned()),
            ]
        );
    }

    #[test]
    fn the_last_word_is_not_left_alone() {
        let text = "alpha bravo charlie delta echo foxtrot golf";
        let transcript = transcript(&[(0.0, 7.0, text, None)]);
        let cues = cut(&transcript.segments[0], TWENTY, 0);
        let lines: Vec<_> = cues.iter().map(|cue| cue.lines.join("|")).collect();
        assert_eq!(
            lines,
            ["alpha bravo charlie", "delta echo foxtrot|golf"],
            "two lines hold all but the last word"
        );
        assert!(cues[1].end - cues[1].start > 2.0, "{cues:?}");
    }

    #[test]
    fn a_script_without_spaces_is_cut_between_characters() {
        let transcript = transcript(&[(
            0.0,
            4.0,
            "これは空白のない長い文字列でありまして改行が必要です",
            None,
        )]);
        let cues = cut(
            &transcript.segments[0],
            Options {
                max_line_length: 10,
                ..TWENTY
            },
            0,
        );
        assert_eq!(cues.len(), 2);
        assert_eq!(cues[0].lines, ["これは空白のない長い"]);
        assert_eq!(cues[1].lines, ["文字列でありまして改", "行が必要です"]);
    }
}
