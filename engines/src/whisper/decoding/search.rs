//! How the next tokens of one window are chosen: greedily, by sampling, or by beam search (`GreedyDecoder`,
//! `BeamSearchDecoder` and `MaximumLikelihoodRanker` in `whisper/decoding.py`).

use std::cmp::Ordering;

use crate::whisper::decoding::probability::{self, Random};
use crate::whisper::decoding::repetition::is_looping;

/// A sequence of generated tokens with the log-probability of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hypothesis {
    /// Generated tokens, the end token not among them.
    pub tokens: Vec<u32>,
    /// Natural log-probability of each token.
    pub logprobs: Vec<f32>,
    /// Sum of them, the end token's included once it has ended.
    pub sum_logprob: f32,
    /// Whether it repeats itself without end, and was given up for that.
    pub is_looping: bool,
}

impl Hypothesis {
    fn with(&self, token: u32, logprob: f32) -> Self {
        let mut longer = self.clone();
        longer.push(token, logprob);
        longer
    }

    fn push(&mut self, token: u32, logprob: f32) {
        self.tokens.push(token);
        self.logprobs.push(logprob);
        self.sum_logprob += logprob;
    }

    /// Average log-probability, the end token counted: the reference's measure of how sure the model is.
    pub(crate) fn avg_logprob(&self) -> f32 {
        self.sum_logprob / (self.tokens.len() + 1) as f32
    }
}

/// How to choose.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Strategy {
    /// The likeliest token, or one drawn at a temperature above 0.
    Greedy {
        temperature: f32,
        seed: u64,
        stream: u64,
    },
    /// The likeliest sequences side by side.
    Beam {
        size: usize,
        patience: f32,
        length_penalty: Option<f32>,
    },
}

/// The search for one window's text.
pub(crate) enum Search {
    Greedy(Greedy),
    Beam(Beam),
}

/// What an active sequence becomes: it continues sequence `source` of its window with `token`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Continuation {
    pub source: usize,
    pub token: u32,
}

impl Search {
    pub(crate) fn new(strategy: Strategy, eot: u32, stop_loops: bool) -> Self {
        match strategy {
            Strategy::Greedy {
                temperature,
                seed,
                stream,
            } => Self::Greedy(Greedy {
                eot,
                temperature,
                stop_loops,
                random: Random::new(seed, stream),
                hypothesis: Hypothesis::default(),
            }),
            Strategy::Beam {
                size,
                patience,
                length_penalty,
            } => Self::Beam(Beam {
                eot,
                size,
                n_wanted: ((size as f32 * patience).round() as usize).max(1),
                length_penalty,
                active: vec![Hypothesis::default()],
                ended: Vec::new(),
            }),
        }
    }

    /// Tokens so far of each active sequence.
    pub(crate) fn active(&self) -> &[Hypothesis] {
        match self {
            Self::Greedy(greedy) => std::slice::from_ref(&greedy.hypothesis),
            Self::Beam(beam) => &beam.active,
        }
    }

    /// Chooses from the filtered logits of the active sequences, row after row. Empty when the search has ended.
    pub(crate) fn advance(&mut self, rows: &[f32], n_vocab: usize) -> Vec<Continuation> {
        match self {
            Self::Greedy(greedy) => greedy.advance(rows),
            Self::Beam(beam) => beam.advance(rows, n_vocab),
        }
    }

    /// The best sequence found.
    pub(crate) fn finish(self) -> Hypothesis {
        match self {
            Self::Greedy(greedy) => greedy.hypothesis,
            Self::Beam(beam) => beam.finish(),
        }
    }
}

/// One sequence, one token at a time.
pub(crate) struct Greedy {
    eot: u32,
    temperature: f32,
    stop_loops: bool,
    random: Random,
    hypothesis: Hypothesis,
}

impl Greedy {
    fn advance(&mut self, row: &[f32]) -> Vec<Continuation> {
        let at = if self.temperature > 0.0 {
            self.random.sample(row, self.temperature)
        } else {
            probability::argmax(row)
        };
        // Log-probabilities are the model's own, whatever the temperature.
        let logprob = row[at] - probability::log_sum_exp(row);
        let token = at as u32;
        if token == self.eot {
            self.hypothesis.sum_logprob += logprob;
            return Vec::new();
        }
        self.hypothesis.push(token, logprob);
        if self.stop_loops && is_looping(&self.hypothesis.tokens, self.eot) {
            self.hypothesis.is_looping = true;
            return Vec::new();
        }
        vec![Continuation { source: 0, token }]
    }
}

/// Several sequences; those that end make room until enough have ended.
pub(crate) struct Beam {
    eot: u32,
    size: usize,
    n_wanted: usize,
    length_penalty: Option<f32>,
    active: Vec<Hypothesis>,
    ended: Vec<Hypothesis>,
}

/// A possible longer sequence.
struct Candidate {
    source: usize,
    token: u32,
    logprob: f32,
    sum_logprob: f32,
}

impl Beam {
    fn advance(&mut self, rows: &[f32], n_vocab: usize) -> Vec<Continuation> {
        let mut candidates = Vec::with_capacity(self.active.len() * (self.size + 1));
        for (source, (row, beam)) in rows.chunks_exact(n_vocab).zip(&self.active).enumerate() {
            let normalizer = probability::log_sum_exp(row);
            for at in probability::top_n(row, self.size + 1) {
                let logprob = row[at] - normalizer;
                let sum_logprob = beam.sum_logprob + logprob;
                candidates.push(Candidate {
                    source,
                    token: at as u32,
                    logprob,
                    sum_logprob,
                });
            }
        }
        // Stable, so that equal sums keep the order of beams.
        candidates.sort_by(|a, b| {
            b.sum_logprob
                .partial_cmp(&a.sum_logprob)
                .unwrap_or(Ordering::Equal)
        });

        let mut next = Vec::with_capacity(self.size);
        let mut continuations = Vec::with_capacity(self.size);
        let mut newly_ended = Vec::new();
        for candidate in candidates
            .iter()
            .filter(|candidate| candidate.logprob > f32::NEG_INFINITY)
        {
            let beam = &self.active[candidate.source];
            if candidate.token == self.eot {
                newly_ended.push(Hypothesis {
                    sum_logprob: candidate.sum_logprob,
                    ..beam.clone()
                });
                continue;
            }
            next.push(beam.with(candidate.token, candidate.logprob));
            continuations.push(Continuation {
                source: candidate.source,
                token: candidate.token,
            });
            if next.len() == self.size {
                break;
            }
        }
        let room = self.n_wanted.saturating_sub(self.ended.len());
        self.ended.extend(newly_ended.into_iter().take(room));
        self.active = next;
        if self.ended.len() >= self.n_wanted {
            Vec::new()
        } else {
            continuations
        }
    }

    fn finish(mut self) -> Hypothesis {
        if self.ended.len() < self.size {
            self.active.sort_by(|a, b| {
                b.sum_logprob
                    .partial_cmp(&a.sum_logprob)
                    .unwrap_or(Ordering::Equal)
            });
            self.ended.append(&mut self.active);
            self.ended.truncate(self.size);
        }
        let penalty = self.length_penalty;
        let score = |hypothesis: &Hypothesis| {
            let length = hypothesis.tokens.len().max(1) as f32;
            // Google NMT (Wu et al., 2016), equation 14.
            hypothesis.sum_logprob
                / penalty.map_or(length, |alpha| ((5.0 + length) / 6.0).powf(alpha))
        };
        let mut best: Option<(f32, Hypothesis)> = None;
        for hypothesis in self.ended {
            let score = score(&hypothesis);
            if best.as_ref().is_none_or(|(highest, _)| score > *highest) {
                best = Some((score, hypothesis));
            }
        }
        best.map(|(_, hypothesis)| hypothesis).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOT: u32 = 3;

    fn greedy() -> Strategy {
        Strategy::Greedy {
            temperature: 0.0,
            seed: 0,
            stream: 0,
        }
    }

    #[test]
    fn greedy_takes_the_likeliest_until_the_end_token() {
        let mut search = Search::new(greedy(), EOT, false);
        assert_eq!(
            search.advance(&[0.0, 2.0, 1.0, 0.0], 4),
            [Continuation {
                source: 0,
                token: 1
            }]
        );
        assert_eq!(search.advance(&[0.0, 0.0, 0.0, 5.0], 4), []);
        let found = search.finish();
        assert_eq!(found.tokens, [1]);
        assert!(
            found.avg_logprob() < 0.0 && found.avg_logprob() > -0.5,
            "{}",
            found.avg_logprob()
        );
    }

    #[test]
    fn a_beam_finds_the_likelier_sequence_that_starts_worse() {
        let strategy = Strategy::Beam {
            size: 2,
            patience: 1.0,
            length_penalty: None,
        };
        let mut search = Search::new(strategy, EOT, false);
        let none = f32::NEG_INFINITY;
        // Token 0 is likelier than token 1 ...
        let first = search.advance(&[0.6_f32.ln(), 0.4_f32.ln(), none, none], 4);
        assert_eq!(
            first,
            [
                Continuation {
                    source: 0,
                    token: 0
                },
                Continuation {
                    source: 0,
                    token: 1
                }
            ]
        );
        // ... but what follows token 1 is certain, and what follows token 0 is not.
        let after_0 = [0.2_f32.ln(), 0.2_f32.ln(), none, 0.6_f32.ln()];
        let after_1 = [none, none, 1e-6_f32.ln(), 0.999_999_f32.ln()];
        search.advance(&[after_0, after_1].concat(), 4);
        assert_eq!(search.finish().tokens, [1]);
    }

    #[test]
    fn a_beam_ends_when_enough_sequences_have() {
        let strategy = Strategy::Beam {
            size: 2,
            patience: 1.0,
            length_penalty: None,
        };
        let mut search = Search::new(strategy, EOT, false);
        assert_eq!(search.advance(&[1.0, 0.5, 0.0, 0.2], 4).len(), 2);
        assert!(
            search
                .advance(&[0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 0.0, 9.0], 4)
                .is_empty()
        );
    }
}
