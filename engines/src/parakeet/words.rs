//! From tokens to words and segments. Words are timed as NeMo times them: from the start of their first token to the
//! end of their last, punctuation taking no time. Segments end with a sentence, at a long pause, or when they are long.

use std::ops::Range;

use super::token::Token;
use super::vocabulary::Vocabulary;
use crate::transcription::{Segment, Word};
use crate::whisper::compression_ratio;

/// A pause after which a new segment starts whatever the punctuation says, seconds.
const LONG_PAUSE: f64 = 1.5;
/// Longest segment, seconds: two lines of subtitles are read in a third of it.
const LONGEST_SEGMENT: f64 = 20.0;
/// What ends a sentence, quotes and brackets after it aside.
const SENTENCE_ENDS: [char; 7] = ['.', '?', '!', '…', '。', '？', '！'];

/// A word at its place in the audio.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TimedWord {
    /// With the space before it, if there is one, and punctuation.
    pub text: String,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Natural log-probability of each.
    pub logprobs: Vec<f32>,
}

impl TimedWord {
    /// Its letters and digits in lower case.
    pub(crate) fn bare(&self) -> String {
        let letters = self.text.chars().filter(|c| c.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect()
    }
}

/// Words of a window. `frame_s` is the length of an encoder frame, `window` the window in seconds.
pub(crate) fn words(
    tokens: &[Token],
    vocabulary: &Vocabulary,
    frame_s: f64,
    window: Range<f64>,
) -> Vec<TimedWord> {
    let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
    let mut words: Vec<TimedWord> = Vec::new();
    let at = |frame: usize| (window.start + frame as f64 * frame_s).min(window.end);
    for (token, part) in tokens.iter().zip(vocabulary.parts(&ids)) {
        let piece = vocabulary.piece(token.id);
        let starts_word = part.starts_with(char::is_whitespace) || words.is_empty();
        if starts_word {
            words.push(TimedWord {
                // The parts of a window begin without a space; the audio does not begin with the window.
                text: if piece.starts_with(' ') && !part.starts_with(' ') {
                    format!(" {part}")
                } else {
                    part
                },
                start: at(token.frame),
                end: at(token.frame + token.n_frames),
                tokens: vec![token.id],
                logprobs: vec![token.logprob],
            });
        } else if let Some(word) = words.last_mut() {
            word.text.push_str(&part);
            // Punctuation takes no time, and neither does a space that goes before it.
            if !piece.trim().is_empty() && !is_punctuation(piece) {
                word.end = word.end.max(at(token.frame + token.n_frames));
            }
            word.tokens.push(token.id);
            word.logprobs.push(token.logprob);
        }
    }
    words
}

fn is_punctuation(piece: &str) -> bool {
    let mut characters = piece.trim().chars();
    characters.next().is_some_and(|c| !c.is_alphanumeric()) && characters.next().is_none()
}

/// Makes segments of words as they come, in order.
pub(crate) struct Segmenter {
    /// Words stay with their segments.
    with_words: bool,
    open: Vec<TimedWord>,
    closed: Vec<Segment>,
    /// How many of `closed` were told.
    n_told: usize,
}

impl Segmenter {
    /// No words yet.
    pub(crate) fn new(with_words: bool) -> Self {
        Self {
            with_words,
            open: Vec::new(),
            closed: Vec::new(),
            n_told: 0,
        }
    }

    /// Takes the next word, which tells whether the one before ended a segment.
    pub(crate) fn push(&mut self, next: TimedWord) {
        if let (Some(first), Some(last)) = (self.open.first(), self.open.last()) {
            let text = last
                .text
                .trim_end_matches(['"', '\'', ')', ']', '”', '’', '»']);
            if text.ends_with(SENTENCE_ENDS) || next.start - last.end > LONG_PAUSE {
                self.close(self.open.len());
            } else if next.end - first.start > LONGEST_SEGMENT {
                self.close(best_cut(&self.open));
            }
        }
        self.open.push(next);
    }

    fn close(&mut self, n_words: usize) {
        let rest = self.open.split_off(n_words);
        let words = std::mem::replace(&mut self.open, rest);
        if !words.is_empty() {
            self.closed.push(segment(words, self.with_words));
        }
    }

    /// The segments closed since the last call.
    pub(crate) fn news(&mut self) -> Vec<Segment> {
        let told = std::mem::replace(&mut self.n_told, self.closed.len());
        self.closed[told..].to_vec()
    }

    /// All segments.
    pub(crate) fn finish(mut self) -> Vec<Segment> {
        self.close(self.open.len());
        self.closed
    }
}

/// Where a long run of words is best cut: before the word after the longest pause of its second half.
fn best_cut(words: &[TimedWord]) -> usize {
    let pause = |at: usize| words[at].start - words[at - 1].end;
    (words.len().div_ceil(2).max(1)..words.len())
        .max_by(|&a, &b| pause(a).total_cmp(&pause(b)))
        .unwrap_or(words.len())
}

fn segment(words: Vec<TimedWord>, with_words: bool) -> Segment {
    let mut segment = Segment {
        start: words.first().map_or(0.0, |word| word.start),
        end: words.iter().map(|word| word.end).fold(0.0, f64::max),
        text: words.iter().map(|word| word.text.as_str()).collect(),
        tokens: Vec::new(),
        token_logprobs: Vec::new(),
        words: Vec::new(),
        avg_logprob: 0.0,
        // The model has no estimate of silence: where it hears none it says nothing.
        no_speech_prob: None,
        compression_ratio: 0.0,
        temperature: 0.0,
    };
    for word in words {
        if with_words {
            let probabilities = word.logprobs.iter().map(|logprob| logprob.exp());
            segment.words.push(Word {
                start: word.start,
                end: word.end,
                probability: probabilities.sum::<f32>() / word.logprobs.len().max(1) as f32,
                text: word.text,
            });
        }
        segment.tokens.extend(word.tokens);
        segment.token_logprobs.extend(word.logprobs);
    }
    let n_tokens = segment.token_logprobs.len().max(1) as f32;
    segment.avg_logprob = segment.token_logprobs.iter().sum::<f32>() / n_tokens;
    segment.compression_ratio = compression_ratio(segment.text.trim());
    segment
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str, start: f64, end: f64) -> TimedWord {
        TimedWord {
            text: format!(" {text}"),
            start,
            end,
            tokens: vec![1],
            logprobs: vec![-0.5],
        }
    }

    fn segments(words: Vec<TimedWord>, with_words: bool) -> Vec<Segment> {
        let mut segmenter = Segmenter::new(with_words);
        let mut told = Vec::new();
        for word in words {
            segmenter.push(word);
            told.extend(segmenter.news());
        }
        let all = segmenter.finish();
        assert_eq!(told, all[..told.len()]);
        assert!(told.len() + 1 >= all.len());
        all
    }

    fn texts(words: Vec<TimedWord>) -> Vec<String> {
        let segments = segments(words, true);
        segments.into_iter().map(|segment| segment.text).collect()
    }

    #[test]
    fn segments_end_with_sentences_and_at_long_pauses() {
        let words = vec![
            word("One", 0.0, 0.4),
            word("two.", 0.5, 0.9),
            word("Three", 1.0, 1.2),
            word("four", 4.0, 4.2),
            word("\"five?\"", 4.3, 4.5),
            word("six", 4.6, 4.8),
        ];
        assert_eq!(
            texts(words),
            [" One two.", " Three", " four \"five?\"", " six"]
        );
    }

    #[test]
    fn a_sentence_without_end_is_cut_at_its_longest_pause() {
        let mut words: Vec<TimedWord> = (0..40)
            .map(|i| word("la", f64::from(i) * 0.8, f64::from(i) * 0.8 + 0.7))
            .collect();
        for word in &mut words[20..] {
            word.start += 0.6;
            word.end += 0.6;
        }
        let segments = segments(words, false);
        assert_eq!(segments.len(), 2);
        assert_eq!(segments[0].tokens.len(), 20);
        assert!(
            segments
                .iter()
                .all(|segment| segment.end - segment.start < LONGEST_SEGMENT)
        );
        assert!(segments[0].words.is_empty());
        assert!((segments[0].avg_logprob + 0.5).abs() < 1e-6);
    }
}
