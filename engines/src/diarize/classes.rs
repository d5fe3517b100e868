//! From the scores of a segmentation model to who is active: a powerset model names one set of tracks per frame, a
//! multilabel model scores each track by itself. Either way a frame becomes a byte with a bit per track.

use std::cmp::Reverse;

use crate::diarize::segmentation::SegmentationConfig;

/// The bits of the tracks active in a frame; track 0 is the lowest bit.
pub type Tracks = u8;

/// Most tracks a model may have.
pub const MAX_TRACKS: usize = Tracks::BITS as usize;
/// Probability from which a track of a multilabel model is active.
const ACTIVE: f32 = 0.5;

/// How a model's classes are to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Classes {
    /// One class for each set of tracks; the highest score wins.
    Powerset(Vec<Tracks>),
    /// One class for each track.
    Multilabel {
        /// Whether scores are logits rather than probabilities.
        logits: bool,
    },
}

impl Classes {
    /// Recognises the kind of a model with `n` classes by what its files say, and by `probe`, scores `[frames, n]` of
    /// some audio: log-probabilities of one choice add up to 1. `None` for a number of classes that is neither.
    pub fn recognize(n: usize, config: &SegmentationConfig, probe: &[f32]) -> Option<Self> {
        if let Some(sets) = config.class_sets.as_ref().filter(|sets| sets.len() == n) {
            let is_powerset = sets.contains(&0) || sets.iter().any(|set| set.count_ones() > 1);
            return Some(if is_powerset {
                Self::Powerset(sets.clone())
            } else {
                Self::multilabel(probe)
            });
        }
        let one_choice = probe.chunks_exact(n.max(1)).all(|scores| {
            let total: f32 = scores.iter().map(|score| score.exp()).sum();
            (total - 1.0).abs() < 1e-2
        });
        // Two tracks at most speak at once in the models that are published.
        let sizes = (1..=MAX_TRACKS)
            .flat_map(|tracks| (1..=tracks).map(move |most| (tracks, most)))
            .filter(|&(tracks, most)| powerset(tracks, most).len() == n);
        let fitting = sizes.min_by_key(|&(_, most)| most.abs_diff(2));
        match (config.powerset, fitting) {
            (Some((tracks, most)), _) if powerset(tracks, most).len() == n => {
                Some(Self::Powerset(powerset(tracks, most)))
            }
            (_, Some((tracks, most))) if one_choice => Some(Self::Powerset(powerset(tracks, most))),
            _ => (1..=MAX_TRACKS)
                .contains(&n)
                .then(|| Self::multilabel(probe)),
        }
    }

    fn multilabel(probe: &[f32]) -> Self {
        Self::Multilabel {
            logits: probe.iter().any(|score| !(0.0..=1.0).contains(score)),
        }
    }

    /// Tracks the model tells apart within a window.
    pub fn n_tracks(&self, n_classes: usize) -> usize {
        match self {
            Self::Powerset(sets) => {
                let all = sets.iter().fold(0, |all, set| all | set);
                (Tracks::BITS - all.leading_zeros()) as usize
            }
            Self::Multilabel { .. } => n_classes,
        }
    }

    /// The tracks active in a frame with these scores.
    pub fn decode(&self, scores: &[f32]) -> Tracks {
        match self {
            Self::Powerset(sets) => {
                let mut best = 0;
                for (class, score) in scores.iter().enumerate() {
                    if *score > scores[best] {
                        best = class;
                    }
                }
                sets[best]
            }
            Self::Multilabel { logits } => {
                let threshold = if *logits { 0.0 } else { ACTIVE };
                let active = scores
                    .iter()
                    .enumerate()
                    .filter(|(_, score)| **score > threshold);
                active.fold(0, |tracks, (track, _)| tracks | 1 << track)
            }
        }
    }
}

/// All sets of at most `most` of `tracks` tracks, by size and then in lexicographic order, as pyannote numbers them.
pub fn powerset(tracks: usize, most: usize) -> Vec<Tracks> {
    let mut sets: Vec<Tracks> = (0..=Tracks::MAX)
        .filter(|set| {
            set.count_ones() as usize <= most
                && (Tracks::BITS - set.leading_zeros()) as usize <= tracks
        })
        .collect();
    sets.sort_by_key(|set| (set.count_ones(), Reverse(set.reverse_bits())));
    sets
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn config() -> SegmentationConfig {
        SegmentationConfig::default()
    }

    #[test]
    fn sets_come_by_size_and_then_by_their_first_track() {
        assert_eq!(
            powerset(3, 2),
            [0, 0b001, 0b010, 0b100, 0b011, 0b101, 0b110]
        );
        assert_eq!(powerset(2, 2), [0, 0b01, 0b10, 0b11]);
        assert_eq!(powerset(4, 2).len(), 11);
        assert_eq!(
            powerset(4, 2)[5..],
            [0b0011, 0b0101, 0b1001, 0b0110, 0b1010, 0b1100]
        );
    }

    #[test]
    fn log_probabilities_of_one_choice_are_a_powerset() {
        let probe = [(1.0_f32 / 7.0).ln(); 14];
        let classes = Classes::recognize(7, &config(), &probe).unwrap();
        assert_eq!(classes, Classes::Powerset(powerset(3, 2)));
        assert_eq!(classes.n_tracks(7), 3);
        assert_eq!(
            classes.decode(&[-9.0, -9.0, -9.0, -9.0, -9.0, -0.1, -9.0]),
            0b101
        );
    }

    #[test]
    fn independent_scores_are_a_track_each() {
        let classes = Classes::recognize(3, &config(), &[0.1, 0.9, 0.2]).unwrap();
        assert_eq!(classes, Classes::Multilabel { logits: false });
        assert_eq!(classes.decode(&[0.6, 0.4, 0.51]), 0b101);
        let classes = Classes::recognize(3, &config(), &[-4.0, 2.0, 1.0]).unwrap();
        assert_eq!(classes, Classes::Multilabel { logits: true });
        assert_eq!(classes.decode(&[-0.1, 0.1, 3.0]), 0b110);
    }

    #[test]
    fn what_the_files_say_stands_above_the_scores() {
        let stated = SegmentationConfig {
            powerset: Some((2, 1)),
            ..config()
        };
        let classes = Classes::recognize(3, &stated, &[3.0, -1.0, 0.5]).unwrap();
        assert_eq!(classes, Classes::Powerset(vec![0, 0b01, 0b10]));
        let labelled = SegmentationConfig {
            class_sets: Some(vec![0b01, 0b10, 0b100]),
            ..config()
        };
        let classes = Classes::recognize(3, &labelled, &[0.5; 3]).unwrap();
        assert_eq!(classes, Classes::Multilabel { logits: false });
        assert_eq!(Classes::recognize(9, &config(), &[0.5; 9]), None);
    }
}
