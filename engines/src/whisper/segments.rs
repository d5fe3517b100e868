//! Cuts the tokens of a window into segments at its time tokens, and says how far the window got: the middle part of
//! `transcribe()` in `whisper/transcribe.py`, `_retrieve_segment` in transformers.

use std::ops::Range;

use crate::whisper::tokenizer::{TIME_PRECISION, Tokenizer};

/// Mel frames per time token: 20 ms over 10 ms.
const INPUT_STRIDE: usize = 2;
/// Seconds per mel frame.
const FRAME: f64 = TIME_PRECISION / INPUT_STRIDE as f64;

/// A segment inside its window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WindowSegment {
    /// Seconds from the start of the window.
    pub start: f64,
    /// Seconds from the start of the window.
    pub end: f64,
    /// Its tokens among the window's.
    pub tokens: Range<usize>,
}

/// The segments of a window.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WindowSegments {
    pub segments: Vec<WindowSegment>,
    /// Frames after which the next window starts.
    pub advance: usize,
    /// Tokens after the last finished segment: text the window's end cut off. Empty if there are none.
    pub unfinished: Range<usize>,
}

/// Cuts the tokens of a window of `n_frames` frames.
pub(crate) fn split_segments(
    tokens: &[u32],
    n_frames: usize,
    tokenizer: &Tokenizer,
) -> WindowSegments {
    let is_time = |at: usize| tokenizer.is_timestamp(tokens[at]);
    let time = |at: usize| {
        if is_time(at) {
            tokenizer.timestamp(tokens[at])
        } else {
            0.0
        }
    };
    let ends_on_single_time =
        tokens.len() >= 2 && !is_time(tokens.len() - 2) && is_time(tokens.len() - 1);
    // A segment ends between two neighbouring times.
    let mut cuts: Vec<usize> = (1..tokens.len())
        .filter(|&at| is_time(at - 1) && is_time(at))
        .collect();
    if cuts.is_empty() {
        return whole_window(tokens, n_frames, tokenizer);
    }
    if ends_on_single_time {
        cuts.push(tokens.len());
    } else if let Some(last) = cuts.last_mut() {
        // The second time of the last pair stays with the last segment, to tell that it was no single ending.
        *last += 1;
    }
    let mut segments = Vec::with_capacity(cuts.len());
    let mut from = 0;
    for (i, &to) in cuts.iter().enumerate() {
        let is_last = i + 1 == cuts.len();
        let end_at = if is_last && !ends_on_single_time {
            to - 2
        } else {
            to - 1
        };
        segments.push(WindowSegment {
            start: time(from),
            end: time(end_at),
            tokens: from..to,
        });
        from = to;
    }
    let advance = if ends_on_single_time {
        // One time at the end: nothing is said after it.
        n_frames
    } else {
        INPUT_STRIDE * (tokens[from - 2] - tokenizer.special().timestamp_begin) as usize
    };
    // A window that never gets anywhere would be decoded for ever.
    let advance = if advance == 0 {
        n_frames
    } else {
        advance.min(n_frames)
    };
    WindowSegments {
        segments,
        advance,
        unfinished: from..tokens.len(),
    }
}

/// Without a pair of times the window is one segment, up to its last time if it has one.
fn whole_window(tokens: &[u32], n_frames: usize, tokenizer: &Tokenizer) -> WindowSegments {
    let begin = tokenizer.special().timestamp_begin;
    let last = tokens
        .iter()
        .rev()
        .copied()
        .find(|&token| tokenizer.is_timestamp(token));
    let end = match last {
        Some(token) if token != begin => tokenizer.timestamp(token),
        _ => n_frames as f64 * FRAME,
    };
    let segments = if tokens.is_empty() {
        Vec::new()
    } else {
        vec![WindowSegment {
            start: 0.0,
            end,
            tokens: 0..tokens.len(),
        }]
    };
    WindowSegments {
        segments,
        advance: n_frames,
        unfinished: tokens.len()..tokens.len(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use std::path::Path;

    use super::*;
    use crate::model_folder::{ModelFolder, Precision};
    use crate::session::Device;

    fn tokenizer() -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/whisper-nano");
        let model = ModelFolder::read(&folder, Precision::Auto, Device::Cpu).unwrap();
        Tokenizer::read(&folder, model.tokens).unwrap()
    }

    /// `<|0.00|>` of the nano model.
    const T: u32 = 955;

    fn split(tokens: &[u32]) -> (Vec<(f64, f64, Range<usize>)>, usize) {
        let split = split_segments(tokens, 3000, &tokenizer());
        (
            split
                .segments
                .into_iter()
                .map(|s| (s.start, s.end, s.tokens))
                .collect(),
            split.advance,
        )
    }

    #[test]
    fn a_single_time_at_the_end_finishes_the_window() {
        assert_eq!(
            split(&[T + 50, 1, 2, T + 100]),
            (vec![(0.0, 2.0, 0..4)], 3000)
        );
        let two = split(&[T + 50, 1, T + 100, T + 150, 2, T + 200]);
        assert_eq!(two, (vec![(1.0, 2.0, 0..3), (3.0, 4.0, 3..6)], 3000));
    }

    #[test]
    fn a_pair_at_the_end_continues_there_and_drops_what_was_cut_off() {
        let one = split(&[T + 50, 1, T + 100, T + 100]);
        assert_eq!(one, (vec![(1.0, 2.0, 0..4)], 200));
        let cut_off = split(&[T + 50, 1, T + 100, T + 100, 5, 6]);
        assert_eq!(cut_off, (vec![(1.0, 2.0, 0..4)], 200));
    }

    #[test]
    fn without_times_the_window_is_one_segment() {
        assert_eq!(split(&[1, 2]), (vec![(0.0, 30.0, 0..2)], 3000));
        assert_eq!(split(&[]), (vec![], 3000));
    }

    #[test]
    fn a_window_that_ends_where_it_began_is_left_behind() {
        assert_eq!(split(&[T, 1, T, T]).1, 3000);
    }
}
