//! Greedy decoding of connectionist temporal classification (Graves et al., 2006): the best token of every frame,
//! repetitions joined, blanks dropped.

use ndarray::ArrayView2;

use super::boosting::{Phrases, Step, Trial};
use super::token::{Token, maximum};

/// Where the decoding of a window stands.
#[derive(Clone)]
struct Position {
    frame: usize,
    n_tokens: usize,
    /// Token of the frame before.
    last: usize,
    /// The last token as it was, since repetitions change it.
    open: Option<Token>,
}

/// Decodes the log-probabilities `[frames, tokens and blank]` of a window.
pub(super) fn decode(
    logprobs: ArrayView2<'_, f32>,
    blank: usize,
    phrases: Option<&Phrases>,
) -> Vec<Token> {
    let (n_frames, n_scores) = logprobs.dim();
    let standard = logprobs.as_standard_layout();
    let rows = standard.as_slice().unwrap_or_default();
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = Position {
        frame: 0,
        n_tokens: 0,
        last: blank,
        open: None,
    };
    let mut trial: Option<(Trial, Position)> = None;
    let mut refuted = None;
    loop {
        let is_at_end = at.frame == n_frames;
        let scores = rows
            .get(at.frame * n_scores..(at.frame + 1) * n_scores)
            .unwrap_or_default();
        let mut failed = false;
        let mut chosen = blank;
        if is_at_end {
            failed = matches!((&trial, phrases), (Some((trial, _)), Some(phrases)) if !trial.may_stand_at_end(phrases));
            if !failed {
                return tokens;
            }
        } else {
            chosen = maximum(scores);
            if let Some(phrases) = phrases {
                let idle = [blank, at.last];
                if let Some((running, _)) = &mut trial {
                    match running.step(phrases, scores, chosen, &idle) {
                        Step::Take(token) => chosen = token,
                        Step::Failed => failed = true,
                        Step::Over => trial = None,
                    }
                }
                if trial.is_none()
                    && refuted != Some(at.frame)
                    && let Some((begun, piece)) = phrases.begin(scores, chosen, &idle)
                {
                    trial = Some((begun, at.clone()));
                    chosen = piece;
                }
            }
        }
        if failed {
            if let Some((_, start)) = trial.take() {
                tokens.truncate(start.n_tokens);
                if let (Some(last), Some(open)) = (tokens.last_mut(), start.open) {
                    *last = open;
                }
                refuted = Some(start.frame);
                at = start;
            }
            continue;
        }
        let logprob = scores[chosen];
        match tokens.last_mut() {
            Some(token) if chosen == at.last && chosen != blank => {
                token.n_frames += 1;
                token.logprob += logprob;
            }
            _ if chosen == blank => {}
            _ => tokens.push(Token {
                id: chosen as u32,
                frame: at.frame,
                n_frames: 1,
                logprob,
            }),
        }
        at = Position {
            frame: at.frame + 1,
            n_tokens: tokens.len(),
            last: chosen,
            open: tokens.last().copied(),
        };
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    fn spoken(frames: &[usize]) -> Array2<f32> {
        Array2::from_shape_fn((frames.len(), 3), |(frame, token)| {
            if frames[frame] == token { -0.1 } else { -3.0 }
        })
    }

    #[test]
    fn repetitions_join_blanks_part_and_log_probabilities_add_up() {
        let tokens = decode(spoken(&[0, 0, 2, 0, 1, 1, 1, 2]).view(), 2, None);
        let seen: Vec<_> = tokens
            .iter()
            .map(|token| (token.id, token.frame, token.n_frames))
            .collect();
        assert_eq!(seen, [(0, 0, 2), (0, 3, 1), (1, 4, 3)]);
        assert!((tokens[2].logprob + 0.3).abs() < 1e-6);
        assert!(decode(spoken(&[]).view(), 2, None).is_empty());
    }
}
