//! Whether a text repeats itself: Whisper's way of failing. The compression ratio is the reference's test of a finished
//! text; the loop test ends a hopeless decode early, and what still loops after every temperature is cut to one turn.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;

/// A loop is this many turns of the same tokens ...
const MIN_TURNS: usize = 4;
/// ... that are together at least this long. A person may well say "no" four times.
const MIN_LOOP_TOKENS: usize = 40;
/// Longest turn looked for, in tokens.
const MAX_TURN: usize = 60;

/// Bytes of a text over its bytes compressed by zlib at its default level; 0 for an empty text.
pub(crate) fn compression_ratio(text: &str) -> f32 {
    if text.is_empty() {
        return 0.0;
    }
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
    // Writing to a vector cannot fail; were it to, a ratio of 1 says "no repetition".
    let compressed = encoder
        .write_all(text.as_bytes())
        .and_then(|()| encoder.finish());
    compressed.map_or(1.0, |bytes| text.len() as f32 / bytes.len() as f32)
}

/// Whether the text tokens (those below `eot`) end in a loop.
pub(crate) fn is_looping(tokens: &[u32], eot: u32) -> bool {
    // Looking at every token would cost more than it saves.
    if tokens.len() < MIN_LOOP_TOKENS || !tokens.len().is_multiple_of(8) {
        return false;
    }
    let text: Vec<u32> = tokens
        .iter()
        .copied()
        .filter(|&token| token < eot)
        .collect();
    loop_at_end(&text, MIN_TURNS, MIN_LOOP_TOKENS).is_some()
}

/// The loop a sequence ends in: `(start of the loop, length of a turn)`, for the shortest turn there is.
fn loop_at_end(tokens: &[u32], min_turns: usize, min_tokens: usize) -> Option<(usize, usize)> {
    (1..=MAX_TURN.min(tokens.len() / min_turns)).find_map(|turn| {
        let same = tokens
            .iter()
            .rev()
            .zip(tokens.iter().rev().skip(turn))
            .take_while(|(a, b)| a == b)
            .count();
        let length = same + turn;
        (length >= min_turns * turn && length >= min_tokens)
            .then_some((tokens.len() - length, turn))
    })
}

/// Cuts a loop at the end of a run of text to its first turn. Answers how many tokens to keep.
pub(crate) fn without_loop(text: &[u32]) -> usize {
    match loop_at_end(text, MIN_TURNS, 2 * MIN_TURNS) {
        Some((start, turn)) => start + turn,
        None => text.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_text_compresses_better_than_speech() {
        let speech = " Thank you for calling, my name is Nina. What time does the interview start on Monday?";
        assert!(compression_ratio(speech) < 1.5);
        assert!(compression_ratio(&" and then".repeat(30)) > 2.4);
        assert_eq!(compression_ratio(""), 0.0);
    }

    #[test]
    fn a_phrase_said_over_and_over_is_a_loop_whatever_times_stand_between() {
        let eot = 100;
        let mut tokens = vec![1, 2, 3];
        for turn in 0..9_u32 {
            tokens.extend([200 + turn, 7, 8, 9, 10, 11, 201 + turn]);
        }
        tokens.truncate(64);
        assert!(is_looping(&tokens, eot));
        let varied: Vec<u32> = (0..64).collect();
        assert!(!is_looping(&varied, eot));
        assert!(!is_looping(&[1, 5, 5, 5, 5, 5, 5, 5], eot));
    }

    #[test]
    fn a_loop_is_cut_to_one_turn() {
        let text = [1, 2, 7, 8, 9, 7, 8, 9, 7, 8, 9, 7, 8, 9, 7];
        assert_eq!(without_loop(&text), 5);
        assert_eq!(without_loop(&[1, 2, 3]), 3);
    }
}
