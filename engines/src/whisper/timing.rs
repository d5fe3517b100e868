//! When words are said: dynamic time warping over the cross-attention of the heads that follow time
//! (`whisper/timing.py`; `_extract_token_timestamps` in transformers).
//!
//! The reference warps a window as a whole, and a path that went astray in one sentence is late in all that follow. Here
//! the time tokens hold it: the words of a segment are looked for in the segment.

use std::ops::Range;

use ndarray::{Array2, ArrayView2, ArrayView3, Axis, s};

use crate::transcription::Word;
use crate::whisper::tokenizer::{TIME_PRECISION, Tokenizer};

/// Marks that belong to the word after them.
const PREPENDED: &str = "\"'“¿([{-";
/// Marks that belong to the word before them.
const APPENDED: &str = "\"'.。,，!！?？:：”)]}、";
/// Marks after which a pause is likely.
const SENTENCE_ENDS: &str = ".。!！?？";
/// Longest median word a person is believed to speak, seconds.
const LONGEST_MEDIAN: f64 = 0.7;

/// Shortest time a word is given, seconds.
const SHORTEST_WORD: f64 = 0.06;

/// A word inside its window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WordTiming {
    pub text: String,
    /// Text tokens it is made of.
    pub n_tokens: usize,
    /// Seconds from the start of the window.
    pub start: f64,
    /// Seconds from the start of the window.
    pub end: f64,
    /// Mean probability of its tokens.
    pub probability: f32,
}

/// Seconds at which the path reaches each row of `weights` `[n_heads, n_rows, n_frames]`, cross-attention after softmax
/// with frames of 20 ms.
pub fn token_times(weights: ArrayView3<'_, f32>, median_filter_width: usize) -> Vec<f64> {
    let (_, n_rows, n_frames) = weights.dim();
    if n_rows == 0 || n_frames == 0 {
        return vec![0.0; n_rows];
    }
    let cost = cost(weights, median_filter_width);
    seconds(&dynamic_time_warping(cost.view()))
}

fn seconds(frames: &[usize]) -> Vec<f64> {
    let times = frames.iter().map(|&frame| frame as f64 * TIME_PRECISION);
    times.collect()
}

/// How little each row attends to each frame `[n_rows, n_frames]`, beside the other rows and smoothed.
fn cost(weights: ArrayView3<'_, f32>, median_filter_width: usize) -> Array2<f32> {
    let (_, n_rows, n_frames) = weights.dim();
    let mut cost = Array2::<f32>::zeros((n_rows, n_frames));
    for head in weights.axis_iter(Axis(0)) {
        let mut normalized = head.to_owned();
        for mut frame in normalized.columns_mut() {
            let n = frame.len() as f32;
            let mean = frame.sum() / n;
            let variance = frame.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>() / n;
            let deviation = variance.sqrt().max(f32::MIN_POSITIVE);
            frame.mapv_inplace(|x| (x - mean) / deviation);
        }
        for (row, mut sum) in normalized.rows().into_iter().zip(cost.rows_mut()) {
            let filtered = median_filter(&row.to_vec(), median_filter_width);
            sum.iter_mut().zip(filtered).for_each(|(sum, x)| *sum -= x);
        }
    }
    let n_heads = weights.len_of(Axis(0)) as f32;
    cost.mapv_inplace(|x| x / n_heads);
    cost
}

/// Median of each value's neighbourhood, mirrored at both ends. `width` is odd.
fn median_filter(values: &[f32], width: usize) -> Vec<f32> {
    let reach = width / 2;
    if values.len() <= reach {
        return values.to_vec();
    }
    let mirrored = |at: isize| {
        let last = values.len() as isize - 1;
        let at = if at < 0 { -at } else { at };
        values[if at > last { 2 * last - at } else { at } as usize]
    };
    let mut neighbours = vec![0.0; 2 * reach + 1];
    (0..values.len() as isize)
        .map(|at| {
            for (i, neighbour) in neighbours.iter_mut().enumerate() {
                *neighbour = mirrored(at + i as isize - reach as isize);
            }
            neighbours.sort_by(f32::total_cmp);
            neighbours[reach]
        })
        .collect()
}

/// The cheapest monotonic path from the first to the last corner of `cost` `[n_rows, n_columns]`; answers the column at
/// which it enters each row.
fn dynamic_time_warping(cost: ArrayView2<'_, f32>) -> Vec<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Step {
        Diagonal,
        Down,
        Right,
    }
    let (n_rows, n_columns) = cost.dim();
    let mut steps = Array2::from_elem((n_rows, n_columns), Step::Right);
    // Sums of the row above and of this one; outside the matrix nothing can be reached but the corner.
    let mut above = vec![f64::INFINITY; n_columns + 1];
    above[0] = 0.0;
    for i in 0..n_rows {
        let mut here = vec![f64::INFINITY; n_columns + 1];
        for j in 0..n_columns {
            let (diagonal, down, right) = (above[j], above[j + 1], here[j]);
            let (least, step) = if diagonal < down && diagonal < right {
                (diagonal, Step::Diagonal)
            } else if down < diagonal && down < right {
                (down, Step::Down)
            } else {
                (right, Step::Right)
            };
            here[j + 1] = f64::from(cost[[i, j]]) + least;
            steps[[i, j]] = step;
        }
        above = here;
    }
    let mut entered = vec![0; n_rows];
    let (mut i, mut j) = (n_rows - 1, n_columns - 1);
    loop {
        entered[i] = j;
        let step = match (i, j) {
            (0, 0) => return entered,
            (0, _) => Step::Right,
            (_, 0) => Step::Down,
            _ => steps[[i, j]],
        };
        if step != Step::Right {
            i -= 1;
        }
        if step != Step::Down {
            j -= 1;
        }
    }
}

/// Cross-attention of a window's text, `weights` being `[n_heads, n_rows, n_audio_ctx]` for a sequence of `n_before` tokens,
/// the text tokens and the end token; row `t` is the attention paid to predict token `t + 1`.
pub(crate) struct TextAttention<'a> {
    pub weights: ArrayView3<'a, f32>,
    pub n_before: usize,
    /// Mel frames of the window that hold audio.
    pub n_frames: usize,
    pub median_filter_width: usize,
}

/// Where the text of a segment is said.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SegmentSpan {
    /// Its text tokens among the window's.
    pub tokens: Range<usize>,
    /// Frames of 20 ms in the window.
    pub frames: Range<usize>,
}

impl SegmentSpan {
    /// The span of the next `n_tokens` after `first`, said in these seconds of the window.
    pub(crate) fn new(first: usize, n_tokens: usize, start: f64, end: f64) -> Self {
        Self {
            tokens: first..first + n_tokens,
            frames: (start / TIME_PRECISION).round() as usize
                ..(end / TIME_PRECISION).round() as usize,
        }
    }

    /// Its frames among `n_columns`; at least one.
    fn columns(&self, n_columns: usize) -> Range<usize> {
        let start = self.frames.start.min(n_columns - 1);
        start..self.frames.end.clamp(start + 1, n_columns)
    }
}

/// Groups the text tokens of a window's segments, given with their log-probabilities, into timed words.
pub(crate) fn align_words(
    tokenizer: &Tokenizer,
    language: &str,
    text_tokens: &[u32],
    logprobs: &[f32],
    attention: &TextAttention<'_>,
    segments: &[SegmentSpan],
) -> Vec<WordTiming> {
    let TextAttention {
        weights,
        n_before,
        n_frames,
        median_filter_width,
    } = *attention;
    if text_tokens.is_empty() {
        return Vec::new();
    }
    let rows = n_before - 1..n_before + text_tokens.len();
    let n_columns = n_frames.div_ceil(2).clamp(1, weights.len_of(Axis(2)));
    let cost = cost(
        weights.slice(s![.., rows, ..n_columns]),
        median_filter_width,
    );
    let mut words = Vec::new();
    for segment in segments.iter().filter(|segment| !segment.tokens.is_empty()) {
        let (tokens, columns) = (segment.tokens.clone(), segment.columns(n_columns));
        // The row after the last token is where its last word ends.
        let part = cost.slice(s![tokens.start..=tokens.end, columns.clone()]);
        let entered = dynamic_time_warping(part);
        let time = |row: usize| (columns.start + entered[row]) as f64 * TIME_PRECISION;
        let mut at = 0;
        for (text, n_tokens) in tokenizer.split_to_words(&text_tokens[tokens.clone()], language) {
            let to = at + n_tokens;
            let probability = logprobs[tokens.start + at..tokens.start + to]
                .iter()
                .map(|logprob| logprob.exp())
                .sum::<f32>()
                / n_tokens as f32;
            words.push(WordTiming {
                text,
                n_tokens,
                start: time(at),
                end: time(to),
                probability,
            });
            at = to;
        }
    }
    shorten_long_words(&mut words);
    merge_punctuation(words)
}

/// Makes words of a segment that begin and end at once last [`SHORTEST_WORD`], or as long as the segment has room for, at
/// the expense of their neighbours. Words stay in order and inside the segment.
pub(crate) fn give_length(words: &mut [Word], start: f64, end: f64) {
    let shortest = SHORTEST_WORD.min((end - start).max(0.0) / words.len().max(1) as f64);
    let mut from = start;
    for word in words.iter_mut() {
        word.start = word.start.max(from);
        word.end = word.end.max(word.start + shortest);
        from = word.end;
    }
    let mut until = end;
    for word in words.iter_mut().rev() {
        word.end = word.end.min(until);
        word.start = word.start.min(word.end - shortest).max(start);
        until = word.start;
    }
}

/// A word next to a sentence's end swallows the pause; it is cut to twice the median word.
fn shorten_long_words(words: &mut [WordTiming]) {
    let longest = 2.0 * median_duration(words);
    if longest <= 0.0 {
        return;
    }
    for at in 1..words.len() {
        if words[at].end - words[at].start <= longest {
            continue;
        }
        if is_mark(&words[at].text, SENTENCE_ENDS) {
            words[at].end = words[at].start + longest;
        } else if is_mark(&words[at - 1].text, SENTENCE_ENDS) {
            words[at].start = words[at].end - longest;
        }
    }
}

/// Median length of the words that have one, at most [`LONGEST_MEDIAN`]; 0 when none has.
pub(crate) fn median_duration(words: &[WordTiming]) -> f64 {
    let mut durations: Vec<f64> = words
        .iter()
        .map(|word| word.end - word.start)
        .filter(|&d| d > 0.0)
        .collect();
    durations.sort_by(f64::total_cmp);
    match durations.len() {
        0 => 0.0,
        n if n % 2 == 1 => durations[n / 2].min(LONGEST_MEDIAN),
        n => ((durations[n / 2 - 1] + durations[n / 2]) / 2.0).min(LONGEST_MEDIAN),
    }
}

fn is_mark(text: &str, marks: &str) -> bool {
    let text = text.trim();
    !text.is_empty() && marks.contains(text)
}

/// Joins marks to the words they belong to; a word keeps its own times.
fn merge_punctuation(words: Vec<WordTiming>) -> Vec<WordTiming> {
    let mut merged: Vec<WordTiming> = Vec::with_capacity(words.len());
    for word in words {
        match merged.last_mut() {
            Some(last) if !word.text.starts_with(' ') && is_mark(&word.text, APPENDED) => {
                absorb(last, word);
            }
            // A mark that opens (" (") waits for the word it opens.
            Some(last) if last.text.starts_with(' ') && is_mark(&last.text, PREPENDED) => {
                let (start, end) = (word.start, word.end);
                absorb(last, word);
                (last.start, last.end) = (start, end);
            }
            _ => merged.push(word),
        }
    }
    merged
}

fn absorb(word: &mut WordTiming, next: WordTiming) {
    word.text.push_str(&next.text);
    word.n_tokens += next.n_tokens;
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array3;

    #[test]
    fn the_path_follows_the_attention() {
        // Token 0 attends to frames 0–9, token 1 to 10–29, token 2 to 30–39.
        let weights = Array3::from_shape_fn((2, 3, 40), |(_, token, frame)| {
            let own = match token {
                0 => 0..10,
                1 => 10..30,
                _ => 30..40,
            };
            if own.contains(&frame) { 0.9 } else { 0.05 }
        });
        let times = token_times(weights.view(), 7);
        let expected = [0.0, 0.2, 0.6];
        for (time, expected) in times.iter().zip(expected) {
            assert!((time - expected).abs() < 0.021, "{times:?}");
        }
    }

    #[test]
    fn the_median_filter_removes_spikes_and_keeps_edges() {
        let mut values = vec![0.0; 20];
        values[5] = 9.0;
        values[12..].fill(1.0);
        let filtered = median_filter(&values, 7);
        assert_eq!(filtered[5], 0.0);
        assert_eq!((filtered[11], filtered[12]), (0.0, 1.0));
    }

    #[test]
    fn words_that_begin_and_end_at_once_are_given_time() {
        let lengths = |times: &[(f64, f64)], end| {
            let mut words: Vec<Word> = times
                .iter()
                .map(|&(start, end)| Word {
                    start,
                    end,
                    text: String::new(),
                    probability: 1.0,
                })
                .collect();
            give_length(&mut words, 1.0, end);
            words
                .iter()
                .map(|word| [word.start, word.end].map(|time| (time * 1e3).round() / 1e3))
                .collect::<Vec<_>>()
        };
        let kept = [(1.0, 1.4), (1.5, 2.0)];
        assert_eq!(lengths(&kept, 2.0), [[1.0, 1.4], [1.5, 2.0]]);
        let squeezed = [(1.0, 1.0), (1.0, 1.5), (2.0, 2.0), (2.0, 2.0)];
        assert_eq!(
            lengths(&squeezed, 2.0),
            [[1.0, 1.06], [1.06, 1.5], [1.88, 1.94], [1.94, 2.0]]
        );
        assert_eq!(
            lengths(&squeezed, 1.08),
            [[1.0, 1.02], [1.02, 1.04], [1.04, 1.06], [1.06, 1.08]]
        );
        assert_eq!(lengths(&[(1.0, 1.0)], 1.0), [[1.0, 1.0]]);
    }

    fn word(text: &str, start: f64, end: f64) -> WordTiming {
        WordTiming {
            text: text.to_owned(),
            n_tokens: 1,
            start,
            end,
            probability: 1.0,
        }
    }

    #[test]
    fn marks_join_their_words_without_moving_them() {
        let words = vec![
            word(" \"", 0.0, 0.1),
            word("Stop", 0.1, 0.5),
            word("!", 0.5, 0.9),
            word("\"", 0.9, 1.0),
        ];
        assert_eq!(
            merge_punctuation(words)[0],
            WordTiming {
                n_tokens: 4,
                ..word(" \"Stop!\"", 0.1, 0.5)
            }
        );
    }

    #[test]
    fn a_word_after_a_full_stop_does_not_swallow_the_pause() {
        let mut words = vec![
            word(" a", 0.0, 0.3),
            word(".", 0.3, 0.4),
            word(" b", 0.4, 5.0),
            word(" c", 5.0, 5.3),
        ];
        shorten_long_words(&mut words);
        assert!(words[2].start > 4.0 && words[2].end == 5.0, "{words:?}");
    }
}
