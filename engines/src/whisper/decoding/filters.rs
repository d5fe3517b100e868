//! What a sequence may not say next: Whisper's rules on logits (`SuppressBlank`, `SuppressTokens` and
//! `ApplyTimestampRules` in `whisper/decoding.py`). Each sets logits to −∞.

use crate::whisper::decoding::probability;

/// All rules of one decode, applied in the order of the reference.
#[derive(Debug, Clone, Default)]
pub(crate) struct LogitFilters {
    /// Tokens not to begin with: a lone space, the end.
    pub suppress_at_begin: Vec<u32>,
    /// Tokens never to emit.
    pub suppress: Vec<u32>,
    /// Present when the model predicts times.
    pub timestamps: Option<TimestampRules>,
}

/// Times come in pairs, never fall, start the text, and win when their probabilities together do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimestampRules {
    pub eot: u32,
    pub no_timestamps: u32,
    pub timestamp_begin: u32,
    /// Latest first time, counted from `timestamp_begin`.
    pub max_initial_index: Option<u32>,
}

impl LogitFilters {
    /// Applies the rules to the logits of the position after `tokens`, those generated so far.
    pub(crate) fn apply(&self, logits: &mut [f32], tokens: &[u32]) {
        if tokens.is_empty() {
            forbid(logits, &self.suppress_at_begin);
        }
        forbid(logits, &self.suppress);
        if let Some(rules) = &self.timestamps {
            rules.apply(logits, tokens);
        }
    }
}

fn forbid(logits: &mut [f32], tokens: &[u32]) {
    for &token in tokens {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

impl TimestampRules {
    fn is_timestamp(&self, token: u32) -> bool {
        token >= self.timestamp_begin
    }

    fn apply(&self, logits: &mut [f32], tokens: &[u32]) {
        let begin = self.timestamp_begin as usize;
        forbid(logits, &[self.no_timestamps]);

        let last_was_timestamp = tokens.last().is_some_and(|&token| self.is_timestamp(token));
        // The start counts as a time: what follows a first time is text.
        let before_last = tokens.len().checked_sub(2).map(|at| tokens[at]);
        let penultimate_was_timestamp = before_last.is_none_or(|token| self.is_timestamp(token));
        if last_was_timestamp {
            if penultimate_was_timestamp {
                logits[begin..].fill(f32::NEG_INFINITY);
            } else {
                logits[..self.eot as usize].fill(f32::NEG_INFINITY);
            }
        }
        if let Some(&last) = tokens.iter().rev().find(|&&token| self.is_timestamp(token)) {
            // The second of a pair may repeat the first; everything later must be later, so that no segment is empty.
            let pairs_up = last_was_timestamp && !penultimate_was_timestamp;
            let earliest = last as usize + usize::from(!pairs_up);
            let earliest = earliest.min(logits.len());
            logits[begin..earliest].fill(f32::NEG_INFINITY);
        }
        if tokens.is_empty() {
            logits[..begin].fill(f32::NEG_INFINITY);
            if let Some(index) = self.max_initial_index {
                let after = (begin + index as usize + 1).min(logits.len());
                logits[after..].fill(f32::NEG_INFINITY);
            }
        }
        // Both sides share the normaliser, so logits compare as log-probabilities do.
        if probability::log_sum_exp(&logits[begin..]) > probability::max(&logits[..begin]) {
            logits[..begin].fill(f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text 0–4, end 5, a task token 6, "no timestamps" 7, times from 8 to 15.
    const RULES: TimestampRules = TimestampRules {
        eot: 5,
        no_timestamps: 7,
        timestamp_begin: 8,
        max_initial_index: Some(3),
    };

    fn allowed(tokens: &[u32], mut logits: Vec<f32>) -> Vec<usize> {
        RULES.apply(&mut logits, tokens);
        (0..logits.len())
            .filter(|&at| logits[at] > f32::NEG_INFINITY)
            .collect()
    }

    /// Text far likelier than all times together.
    fn text_wins() -> Vec<f32> {
        let mut logits = vec![0.0; 16];
        logits[..6].fill(9.0);
        logits
    }

    #[test]
    fn a_window_begins_with_an_early_time() {
        assert_eq!(allowed(&[], text_wins()), [8, 9, 10, 11]);
    }

    #[test]
    fn text_follows_the_first_time() {
        assert_eq!(allowed(&[9], text_wins()), [0, 1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_time_after_text_is_followed_by_its_pair_or_the_end() {
        assert_eq!(allowed(&[9, 1, 11], vec![0.0; 16]), [11, 12, 13, 14, 15]);
        let mut end_wins = vec![0.0; 16];
        end_wins[5] = 9.0;
        assert_eq!(allowed(&[9, 1, 11], end_wins), [5, 6, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn times_never_fall_and_no_segment_is_empty() {
        assert_eq!(
            allowed(&[9, 1, 11, 11, 2], text_wins()),
            [0, 1, 2, 3, 4, 5, 6, 12, 13, 14, 15]
        );
    }

    #[test]
    fn times_win_when_their_sum_is_above_every_word() {
        let mut logits = vec![0.0; 16];
        logits[2] = 1.0;
        assert_eq!(allowed(&[9, 1], logits), [10, 11, 12, 13, 14, 15]);
    }

    #[test]
    fn suppressed_tokens_are_never_allowed_and_blanks_only_not_at_the_beginning() {
        let filters = LogitFilters {
            suppress_at_begin: vec![1, 5],
            suppress: vec![3],
            timestamps: None,
        };
        let mut first = vec![0.0; 6];
        filters.apply(&mut first, &[]);
        let mut later = vec![0.0; 6];
        filters.apply(&mut later, &[2]);
        let open = |row: &[f32]| (0..6).filter(|&at| row[at] == 0.0).collect::<Vec<_>>();
        assert_eq!(open(&first), [0, 2, 4]);
        assert_eq!(open(&later), [0, 1, 2, 4, 5]);
    }
}
