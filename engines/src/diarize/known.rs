//! Speakers with a name: the voice of a short clip is embedded like a track, and names go to the speakers whose voices
//! are most similar, each name to one speaker at most, so that the sum of similarities is greatest.

use std::sync::Arc;

use ndarray::{Array1, ArrayView2, Axis};

use super::embedding::SpeakerEmbedding;
use super::fbank::n_frames;
use super::segmentation::SpeakerSegmentation;
use super::tracks::TrackMask;
use crate::audio_source::AudioSource;
use crate::error::Result;
use crate::session::RunGuard;

/// Cosine similarity from which a speaker is the one of the clip. Voices that clustering holds for one are at least
/// 0.75 alike; a clip of a few seconds from another recording is less alike than that.
pub const SAME_SPEAKER: f32 = 0.5;
/// Most names: the search for the best assignment looks at all their sets.
pub const MAX_KNOWN: usize = 16;

/// A speaker whose name is known by a clip of their voice.
#[derive(Clone)]
pub struct KnownSpeaker {
    /// The name to give.
    pub name: String,
    /// Two to ten seconds of this speaker alone, 16 kHz mono.
    pub audio: Arc<dyn AudioSource>,
}

/// The voice of a clip: the direction of its most active track. `None` when nobody speaks in it.
///
/// # Errors
/// [`crate::EngineError::Audio`], [`crate::EngineError::Graph`], [`crate::EngineError::Cancelled`].
pub fn voice_of_clip(
    segmentation: &SpeakerSegmentation,
    embedding: &SpeakerEmbedding,
    clip: &dyn AudioSource,
    run: &RunGuard,
) -> Result<Option<Array1<f32>>> {
    let grid = segmentation.grid();
    let mut sum: Option<Array1<f32>> = None;
    let mut samples = vec![0.0; grid.window];
    let mut walk = segmentation.walk();
    for start in (0..clip.n_samples()).step_by(grid.window) {
        clip.read(start, &mut samples)?;
        let frames = walk.windows(clip, (start, 1), grid.window, run)?;
        let masks = (0..segmentation.n_tracks()).filter_map(|track| TrackMask::of(&frames, track));
        let Some(mask) = masks.max_by_key(|mask| mask.n_alone) else {
            continue;
        };
        // Silence after the clip's end would count in the mean.
        let held = (clip.n_samples() - start).min(grid.window as u64) as usize;
        let features = embedding.fbank().features(&samples[..held])?;
        let Some(mean) = features.mean_axis(Axis(0)) else {
            continue;
        };
        let kept = mask.kept(features.view(), &mean, n_frames(grid.window));
        if kept.nrows() == 0 {
            continue;
        }
        let weight = kept.nrows() as f32;
        let voice = embedding.embed(kept.view().insert_axis(Axis(0)), run)?;
        let voice = unit(voice.row(0).to_owned()) * weight;
        sum = Some(match sum {
            Some(sum) => sum + voice,
            None => voice,
        });
    }
    Ok(sum.map(unit))
}

/// The vector of length 1 in the same direction.
pub fn unit(vector: Array1<f32>) -> Array1<f32> {
    let length = vector.dot(&vector).sqrt().max(f32::MIN_POSITIVE);
    vector / length
}

/// The speaker each name goes to. `similarity` is `[names, speakers]`, cosines; pairs below `threshold` never match.
pub fn assign_names(similarity: ArrayView2<'_, f32>, threshold: f32) -> Vec<Option<usize>> {
    let (n_names, n_speakers) = similarity.dim();
    let n_sets = 1_usize << n_names;
    // The best sum with a set of names given to the speakers so far, and who got which name.
    let mut best: Vec<Option<(f32, Vec<Option<usize>>)>> = vec![None; n_sets];
    best[0] = Some((0.0, vec![None; n_names]));
    for speaker in 0..n_speakers {
        for set in (0..n_sets).rev() {
            let Some((sum, given)) = best[set].clone() else {
                continue;
            };
            for name in (0..n_names).filter(|name| set & 1 << name == 0) {
                let alike = similarity[[name, speaker]];
                if alike < threshold || alike.is_nan() {
                    continue;
                }
                let with = set | 1 << name;
                if best[with]
                    .as_ref()
                    .is_none_or(|(best, _)| sum + alike > *best)
                {
                    let mut given = given.clone();
                    given[name] = Some(speaker);
                    best[with] = Some((sum + alike, given));
                }
            }
        }
    }
    best.into_iter()
        .flatten()
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map_or_else(|| vec![None; n_names], |(_, given)| given)
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, arr2};

    use super::*;

    #[test]
    fn names_go_where_the_sum_is_greatest_and_to_nobody_below_the_threshold() {
        let similarity = arr2(&[[0.9, 0.8, 0.1], [0.85, 0.2, 0.1], [0.3, 0.3, 0.3]]);
        // The best pair alone would leave the second name without a speaker.
        assert_eq!(
            assign_names(similarity.view(), 0.5),
            [Some(1), Some(0), None]
        );
    }

    #[test]
    fn more_names_than_speakers_leave_the_least_alike_out() {
        let similarity = arr2(&[[0.6], [0.9], [0.7]]);
        assert_eq!(assign_names(similarity.view(), 0.5), [None, Some(0), None]);
        assert_eq!(
            assign_names(Array2::zeros((2, 0)).view(), 0.5),
            [None, None]
        );
    }
}
