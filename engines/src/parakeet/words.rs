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

/// Segments of all words of a file, in order. The words themselves stay out unless `with_words`.
pub(crate) fn segments(words: Vec<TimedWord>, with_words: bool) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut open: Vec<TimedWord> = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let ends_sentence = word
            .text
            .trim_end_matches(['"', '\'', ')', ']', '”', '’', '»'])
            .ends_with(SENTENCE_ENDS);
        open.push(word);
        let start = open.first().map_or(0.0, |word| word.start);
        let end = open.last().map_or(0.0, |word| word.end);
        let closes = match words.peek() {
            None => true,
            Some(next) => ends_sentence || next.start - end > LONG_PAUSE,
        };
        if closes {
            segments.push(segment(std::mem::take(&mut open), with_words));
        } else if words
            .peek()
            .is_some_and(|next| next.end - start > LONGEST_SEGMENT)
        {
            let rest = open.split_off(best_cut(&open));
            segments.push(segment(std::mem::replace(&mut open, rest), with_words));
        }
    }
    segments
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
        no_speech_prob: 0.0,
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
