//! The best path of a row of symbols through a CTC trellis: Viterbi over the symbols with a blank before, between and
//! after them (Graves et al., 2006), each symbol only in the frames it is allowed in.

use std::ops::Range;

use super::vocabulary::Symbol;

/// A symbol and the frames it may be said in. From one token to the next, neither bound decreases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its column in the emissions.
    pub symbol: Symbol,
    /// First frame and one past the last.
    pub allowed: Range<usize>,
}

/// Emissions of consecutive frames.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// Number of the first frame.
    pub first: usize,
    /// Values of a row.
    pub columns: usize,
    /// Natural log-probabilities `[frames, columns]`.
    pub values: &'a [f32],
}

/// How a path may end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// All symbols are said.
    Complete,
    /// Any number of symbols is said: the text goes on after the last frame.
    Open,
}

/// When a symbol is said.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Said {
    /// First frame.
    pub first: usize,
    /// Last frame, itself included.
    pub last: usize,
    /// Sum of its log-probabilities over these frames.
    pub log_probability: f64,
}

/// A path: the symbols said, in order, and the log-probability of all its frames.
#[derive(Debug, Clone, PartialEq)]
pub struct AlignedPath {
    /// One entry per symbol; with [`Ending::Open`] perhaps fewer than there are tokens.
    pub said: Vec<Said>,
    /// Natural log-probability of the path.
    pub log_probability: f64,
}

/// The likeliest path of `tokens` through `rows`; `None` when there is none. A symbol that cannot be told from the
/// next (other than `wildcard`) has a blank between.
///
/// State `2 i` is the blank before token `i`, state `2 i + 1` the token itself. Scores are kept for the allowed states
/// of two frames; of a path, one byte for each allowed state of each frame (how many states back it came from).
pub fn align(
    rows: Rows<'_>,
    tokens: &[Token],
    blank: Symbol,
    wildcard: Symbol,
    ending: Ending,
) -> Option<AlignedPath> {
    let n_frames = rows.values.len() / rows.columns;
    if n_frames == 0 || (ending == Ending::Complete && tokens.len() > n_frames) {
        return None;
    }
    let last_state = 2 * tokens.len();
    let symbol_of = |state: usize| {
        if state.is_multiple_of(2) {
            blank
        } else {
            tokens[state / 2].symbol
        }
    };
    let may_skip = |state: usize| {
        state % 2 == 1 && state > 1 && {
            let (before, this) = (tokens[state / 2 - 1].symbol, tokens[state / 2].symbol);
            before != this || this == wildcard
        }
    };
    let mut band = Band { first: 0, begun: 0 };
    let mut scores = vec![f64::NEG_INFINITY; last_state + 1];
    let mut before = scores.clone();
    let mut steps: Vec<u8> = Vec::new();
    // Of each frame, its first allowed state and where its steps begin.
    let mut frames: Vec<(usize, usize)> = Vec::with_capacity(n_frames);
    let mut reached = 0..0;
    for (at, row) in rows.values.chunks_exact(rows.columns).enumerate() {
        let states = band.states(tokens, rows.first + at);
        frames.push((states.start, steps.len()));
        std::mem::swap(&mut scores, &mut before);
        scores[states.clone()].fill(f64::NEG_INFINITY);
        let from = |state: usize| {
            if reached.contains(&state) {
                before[state]
            } else {
                f64::NEG_INFINITY
            }
        };
        for state in states.clone() {
            let (mut best, mut step) = (from(state), 0);
            if at == 0 {
                best = if state < 2 { 0.0 } else { f64::NEG_INFINITY };
            } else {
                // On a tie the shorter step wins, so that equal frames always give the same path.
                if state > 0 && from(state - 1) > best {
                    (best, step) = (from(state - 1), 1);
                }
                if may_skip(state) && from(state - 2) > best {
                    (best, step) = (from(state - 2), 2);
                }
            }
            scores[state] = best + f64::from(row[symbol_of(state)]);
            steps.push(step);
        }
        reached = states;
    }
    let first_end = match ending {
        Ending::Complete => last_state.saturating_sub(1),
        Ending::Open => 0,
    };
    let mut state = (first_end.max(reached.start)..reached.end).reduce(|best, state| {
        if scores[state] > scores[best] {
            state
        } else {
            best
        }
    })?;
    let log_probability = scores[state];
    if log_probability == f64::NEG_INFINITY {
        return None;
    }
    let mut said: Vec<Said> = Vec::new();
    let mut after = None;
    for at in (0..n_frames).rev() {
        let frame = rows.first + at;
        let log_probability = f64::from(rows.values[at * rows.columns + symbol_of(state)]);
        if state % 2 == 1 {
            match said.last_mut() {
                Some(open) if after == Some(state) => {
                    open.first = frame;
                    open.log_probability += log_probability;
                }
                _ => said.push(Said {
                    first: frame,
                    last: frame,
                    log_probability,
                }),
            }
        }
        after = Some(state);
        let (first_state, first_step) = frames[at];
        state -= usize::from(steps[first_step + state - first_state]);
    }
    said.reverse();
    Some(AlignedPath {
        said,
        log_probability,
    })
}

/// The allowed states of one frame after another.
struct Band {
    /// The first token that has not ended.
    first: usize,
    /// Tokens that have begun.
    begun: usize,
}

impl Band {
    fn states(&mut self, tokens: &[Token], frame: usize) -> Range<usize> {
        while tokens
            .get(self.first)
            .is_some_and(|token| token.allowed.end <= frame)
        {
            self.first += 1;
        }
        while tokens
            .get(self.begun)
            .is_some_and(|token| token.allowed.start <= frame)
        {
            self.begun += 1;
        }
        2 * self.first..2 * self.begun + 1
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    const BLANK: Symbol = 0;
    const WILDCARD: Symbol = 3;

    fn tokens(symbols: &[Symbol], allowed: Range<usize>) -> Vec<Token> {
        let token = |&symbol| Token {
            symbol,
            allowed: allowed.clone(),
        };
        symbols.iter().map(token).collect()
    }

    /// Rows of four columns in which one symbol has most of the probability; the wildcard follows the highest.
    fn rows(likely: &[Symbol]) -> Vec<f32> {
        let row = |symbol: &Symbol| {
            let mut row = [0.1_f32.ln(); 4];
            row[*symbol] = 0.8_f32.ln();
            row[WILDCARD] = 0.7_f32.ln();
            row
        };
        likely.iter().flat_map(row).collect()
    }

    fn frames(path: &AlignedPath) -> Vec<(usize, usize)> {
        path.said
            .iter()
            .map(|said| (said.first, said.last))
            .collect()
    }

    fn run(likely: &[Symbol], tokens: &[Token], ending: Ending) -> Option<AlignedPath> {
        let rows = Rows {
            first: 100,
            columns: 4,
            values: &rows(likely),
        };
        align(rows, tokens, BLANK, WILDCARD, ending)
    }

    #[test]
    fn symbols_are_said_where_they_are_likely() {
        let path = run(
            &[0, 1, 1, 0, 2, 0],
            &tokens(&[1, 2], 100..106),
            Ending::Complete,
        )
        .unwrap();
        assert_eq!(frames(&path), [(101, 102), (104, 104)]);
        assert!((path.log_probability - 6.0 * f64::from(0.8_f32.ln())).abs() < 1e-6);
        assert!((path.said[0].log_probability - 2.0 * f64::from(0.8_f32.ln())).abs() < 1e-6);
    }

    #[test]
    fn a_symbol_that_repeats_has_a_blank_between_and_needs_the_room() {
        let twice = tokens(&[1, 1], 100..103);
        let path = run(&[1, 1, 1], &twice, Ending::Complete).unwrap();
        assert_eq!(frames(&path), [(100, 100), (102, 102)]);
        assert_eq!(
            run(&[1, 1], &tokens(&[1, 1], 100..102), Ending::Complete),
            None
        );
        let wild = run(
            &[1, 2],
            &tokens(&[WILDCARD, WILDCARD], 100..102),
            Ending::Complete,
        )
        .unwrap();
        assert_eq!(frames(&wild), [(100, 100), (101, 101)]);
    }

    #[test]
    fn a_wildcard_covers_any_sound_and_leaves_the_rest_to_symbols_that_fit() {
        let path = run(
            &[1, 0, 2, 1, 2, 0, 1],
            &tokens(&[1, WILDCARD, 1], 100..107),
            Ending::Complete,
        )
        .unwrap();
        assert_eq!(frames(&path), [(100, 100), (102, 104), (106, 106)]);
    }

    #[test]
    fn a_token_keeps_to_its_frames() {
        let mut said = tokens(&[1, 2], 100..104);
        said[0].allowed = 100..101;
        said[1].allowed = 103..104;
        let path = run(&[0, 1, 2, 0], &said, Ending::Complete).unwrap();
        assert_eq!(frames(&path), [(100, 100), (103, 103)]);
        said[0].allowed = 99..100;
        assert_eq!(run(&[0, 1, 2, 0], &said, Ending::Complete), None);
    }

    #[test]
    fn an_open_ending_says_what_was_heard_so_far() {
        let text = tokens(&[1, 2, 1, 2], 100..200);
        let path = run(&[1, 0, 2, 0, 0], &text, Ending::Open).unwrap();
        assert_eq!(frames(&path), [(100, 100), (102, 102)]);
        let silence = run(&[0, 0], &text, Ending::Open).unwrap();
        assert_eq!(frames(&silence), []);
    }

    /// Every way to pass through the trellis, tried one by one.
    fn by_hand(rows: &[f32], symbols: &[Symbol], state: usize, at: usize) -> f64 {
        let states = 2 * symbols.len() + 1;
        let symbol = |state: usize| {
            if state.is_multiple_of(2) {
                BLANK
            } else {
                symbols[state / 2]
            }
        };
        let here = f64::from(rows[at * 4 + symbol(state)]);
        if at + 1 == rows.len() / 4 {
            return if state + 2 >= states {
                here
            } else {
                f64::NEG_INFINITY
            };
        }
        let mut best = f64::NEG_INFINITY;
        for next in state..(state + 3).min(states) {
            let skips = next == state + 2;
            if !skips || (next % 2 == 1 && symbol(next) != symbol(state)) {
                best = best.max(by_hand(rows, symbols, next, at + 1));
            }
        }
        here + best
    }

    #[test]
    fn no_other_path_is_likelier() {
        let mut state = 7_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 24) as f32
        };
        for symbols in [&[1, 2][..], &[1, 1, 2], &[2, 1, 1], &[1]] {
            for _ in 0..20 {
                let values: Vec<f32> = (0..8 * 4).map(|_| -3.0 * random()).collect();
                let rows = Rows {
                    first: 0,
                    columns: 4,
                    values: &values,
                };
                let path = align(
                    rows,
                    &tokens(symbols, 0..8),
                    BLANK,
                    WILDCARD,
                    Ending::Complete,
                )
                .unwrap();
                let best = by_hand(&values, symbols, 0, 0).max(by_hand(&values, symbols, 1, 0));
                assert!((path.log_probability - best).abs() < 1e-9);
                assert_eq!(path.said.len(), symbols.len());
            }
        }
    }
}
