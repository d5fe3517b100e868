//! From paths to words: times in seconds, probabilities, and times between their neighbours for words that have none of
//! their own.

use super::network::FrameGrid;
use super::text::SpelledWord;
use super::trellis::Said;
use super::{AlignRequest, AlignSegment, AlignedSegment, Alignment};
use crate::transcription::Word;

/// A word on the frame grid.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct TimedWord {
    first: usize,
    last: usize,
    symbols: usize,
    /// Sum over its symbols of the geometric mean of their frames' probabilities.
    probability: f64,
}

impl TimedWord {
    /// Takes in the word's next symbol.
    pub(super) fn add(&mut self, said: &Said) {
        if self.symbols == 0 {
            self.first = said.first;
        }
        self.last = said.last;
        self.symbols += 1;
        let frames = (said.last + 1 - said.first) as f64;
        self.probability += (said.log_probability / frames).exp();
    }
}

/// The answer: words from the first frame of their first symbol to the end of the last frame of their last.
pub(super) fn assemble(
    request: &AlignRequest,
    words: &[Vec<SpelledWord>],
    timed: &[Vec<Option<TimedWord>>],
    grid: FrameGrid,
) -> Alignment {
    let duration = request.audio.duration();
    let mut alignment = Alignment::default();
    let mut unfit = 0;
    for ((segment, words), timed) in request.segments.iter().zip(words).zip(timed) {
        let spoken = words.iter().any(|word| !word.symbols.is_empty());
        unfit += usize::from(spoken && timed.iter().all(Option::is_none));
        alignment.unaligned += timed.iter().filter(|time| time.is_none()).count();
        alignment
            .segments
            .push(aligned(segment, words, timed, grid, duration));
    }
    if unfit > 0 {
        alignment.warnings.push(format!(
            "{unfit} of {} segments could not be aligned, since their text does not fit their audio: the times of \
             their words are estimates.",
            request.segments.len()
        ));
    }
    alignment
}

fn aligned(
    segment: &AlignSegment,
    words: &[SpelledWord],
    timed: &[Option<TimedWord>],
    grid: FrameGrid,
    duration: f64,
) -> AlignedSegment {
    let mut answer = AlignedSegment {
        start: segment.start,
        end: segment.end,
        words: Vec::with_capacity(words.len()),
        score: 0.0,
    };
    for (word, time) in words.iter().zip(timed) {
        let (start, end, probability) = time.map_or((0.0, 0.0, 0.0), |time| {
            (
                grid.seconds(time.first).min(duration),
                grid.seconds(time.last + 1).min(duration),
                (time.probability / time.symbols as f64).min(1.0) as f32,
            )
        });
        answer.words.push(Word {
            start,
            end,
            text: word.text.clone(),
            probability,
        });
    }
    let own: Vec<usize> = (0..timed.len()).filter(|&at| timed[at].is_some()).collect();
    if let (Some(&first), Some(&last)) = (own.first(), own.last()) {
        answer.start = answer.words[first].start;
        answer.end = answer.words[last].end;
        let total: f32 = own.iter().map(|&at| answer.words[at].probability).sum();
        answer.score = total / own.len() as f32;
    }
    let (start, end) = (answer.start, answer.end);
    interpolate(&mut answer.words, timed, start, end);
    answer
}

/// Shares the time between two words with times among those between them, by the length of their text.
fn interpolate(words: &mut [Word], timed: &[Option<TimedWord>], start: f64, end: f64) {
    let mut at = 0;
    while at < words.len() {
        if timed[at].is_some() {
            at += 1;
            continue;
        }
        let next = (at..words.len())
            .find(|&i| timed[i].is_some())
            .unwrap_or(words.len());
        let from = at.checked_sub(1).map_or(start, |before| words[before].end);
        let to = words.get(next).map_or(end, |word| word.start).max(from);
        let length = |word: &Word| word.text.trim().chars().count().max(1) as f64;
        let total: f64 = words[at..next].iter().map(length).sum();
        let mut passed = 0.0;
        for word in &mut words[at..next] {
            word.start = from + (to - from) * passed / total;
            passed += length(word);
            word.end = from + (to - from) * passed / total;
        }
        at = next;
    }
}
