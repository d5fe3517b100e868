//! A decoded token and the arithmetic of choosing one.

/// A token at its place in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Token {
    /// Id in the vocabulary.
    pub id: u32,
    /// Encoder frame it was said at.
    pub frame: usize,
    /// Encoder frames it lasts; 0 is possible with durations.
    pub n_frames: usize,
    /// Natural log-probability.
    pub logprob: f32,
}

/// The place of the largest score, the first of equals.
pub(crate) fn maximum(scores: &[f32]) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (at, &score) in scores.iter().enumerate() {
        if score > best.1 {
            best = (at, score);
        }
    }
    best.0
}

/// Log-probability of one of several scores.
pub(crate) fn log_probability(scores: &[f32], at: usize) -> f32 {
    let most = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f32 = scores.iter().map(|score| (score - most).exp()).sum();
    (scores[at] - most - sum.ln()).min(0.0)
}
