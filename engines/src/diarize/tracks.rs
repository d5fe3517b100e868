//! The first pass over a file: window by window, who is active when, and the voice of every track.

use ndarray::{Array1, Array2, Array3, ArrayView2, Axis};

use super::classes::Tracks;
use super::embedding::SpeakerEmbedding;
use super::features::FeatureStream;
use super::grid::WindowGrid;
use super::segmentation::SpeakerSegmentation;
use crate::audio_source::AudioSource;
use crate::error::Result;
use crate::session::RunGuard;

/// Share of a window's frames that a track must hold alone for its voice to found a cluster.
const MIN_ACTIVE_RATIO: f64 = 0.2;
/// With so few frames of its own a track is embedded from all its frames.
const FEW_FRAMES: usize = 2;

/// What the models hear in a file. Grows by about six kilobytes a second of speech.
pub struct HeardTracks {
    /// Windows and frames.
    pub grid: WindowGrid,
    /// Tracks active in each frame of each window, `[windows × frames]`.
    pub frames: Vec<Tracks>,
    /// Every track that speaks, by window and track.
    pub tracks: Vec<HeardTrack>,
    /// The voice of each of `tracks`, `[tracks, size]` row by row.
    pub embeddings: Vec<f32>,
}

/// A track that speaks in a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeardTrack {
    /// The window.
    pub window: u32,
    /// The track in it.
    pub track: u8,
    /// Whether it speaks alone for long enough to be trusted.
    pub is_clear: bool,
}

impl HeardTracks {
    /// Windows heard.
    pub fn n_windows(&self) -> usize {
        self.frames.len() / self.grid.n_frames
    }

    /// The frames of a window.
    pub fn window(&self, window: usize) -> &[Tracks] {
        &self.frames[window * self.grid.n_frames..][..self.grid.n_frames]
    }

    /// The voices, `[tracks, size]`.
    pub fn voices(&self) -> ArrayView2<'_, f32> {
        let size = self.embeddings.len() / self.tracks.len().max(1);
        ArrayView2::from_shape((self.tracks.len(), size), &self.embeddings)
            .unwrap_or_else(|_| ArrayView2::from(&[] as &[[f32; 0]]))
    }
}

/// Listens to a whole file in batches of windows. `progress` is told the seconds done.
///
/// # Errors
/// [`crate::EngineError::Audio`], [`crate::EngineError::Graph`], [`crate::EngineError::Cancelled`].
pub fn hear(
    segmentation: &SpeakerSegmentation,
    embedding: &SpeakerEmbedding,
    audio: &dyn AudioSource,
    run: &RunGuard,
    progress: &dyn Fn(f64),
) -> Result<HeardTracks> {
    let grid = segmentation.grid();
    let n_windows = grid.n_windows(audio.n_samples());
    let mut heard = HeardTracks {
        grid,
        frames: Vec::new(),
        tracks: Vec::new(),
        embeddings: Vec::new(),
    };
    let mut features = FeatureStream::new(embedding.fbank());
    let mut walk = segmentation.walk();
    for first in (0..n_windows).step_by(segmentation.batch_size()) {
        run.check()?;
        let batch = first..(first + segmentation.batch_size()).min(n_windows);
        let start = grid.start(batch.start);
        let frames = walk.windows(audio, (start, batch.len()), grid.step, run)?;
        let mut voices = Vec::new();
        for (window, frames) in batch.clone().zip(frames.chunks_exact(grid.n_frames)) {
            let features = features.window(audio, grid.start(window), grid.window)?;
            let mean = features.mean_axis(Axis(0)).unwrap_or_default();
            for track in 0..segmentation.n_tracks() {
                let Some(mask) = TrackMask::of(frames, track) else {
                    continue;
                };
                heard.tracks.push(HeardTrack {
                    window: window as u32,
                    track: track as u8,
                    is_clear: mask.n_alone as f64 >= MIN_ACTIVE_RATIO * grid.n_frames as f64,
                });
                voices.push(mask.kept(features, &mean, features.nrows()));
            }
        }
        heard.frames.extend(frames);
        for row in embed_all(embedding, &voices, run)?.outer_iter() {
            heard.embeddings.extend(row);
        }
        let done = grid.start(batch.end) as f64 / f64::from(crate::SAMPLE_RATE);
        progress(done.min(audio.duration()));
    }
    Ok(heard)
}

/// Embeds voices of any lengths; those of one length go in one call.
fn embed_all(
    embedding: &SpeakerEmbedding,
    voices: &[Array2<f32>],
    run: &RunGuard,
) -> Result<Array2<f32>> {
    let mut order: Vec<usize> = (0..voices.len()).collect();
    order.sort_by_key(|&at| voices[at].nrows());
    let mut all = Array2::zeros((voices.len(), 0));
    for group in order.chunk_by(|&a, &b| voices[a].nrows() == voices[b].nrows()) {
        let (frames, mels) = voices[group[0]].dim();
        let mut features = Array3::zeros((group.len(), frames, mels));
        for (mut row, &at) in features.outer_iter_mut().zip(group) {
            row.assign(&voices[at]);
        }
        let vectors = embedding.embed(features.view(), run)?;
        if all.ncols() == 0 {
            all = Array2::zeros((voices.len(), vectors.ncols()));
        }
        for (row, &at) in vectors.outer_iter().zip(group) {
            all.row_mut(at).assign(&row);
        }
    }
    Ok(all)
}

/// Which of a window's frames a track is embedded from.
pub struct TrackMask {
    kept: Vec<bool>,
    /// Frames where nobody else speaks.
    pub n_alone: usize,
}

impl TrackMask {
    /// The mask of a track; `None` when it is silent. Frames where others speak are left out if enough remain.
    pub fn of(frames: &[Tracks], track: usize) -> Option<Self> {
        let bit: Tracks = 1 << track;
        let speaks = |frame: &&Tracks| **frame & bit != 0;
        frames.iter().find(speaks)?;
        let n_alone = frames.iter().filter(|&&frame| frame == bit).count();
        let kept = if n_alone > FEW_FRAMES {
            frames.iter().map(|&frame| frame == bit).collect()
        } else {
            frames.iter().map(|&frame| frame & bit != 0).collect()
        };
        Some(Self { kept, n_alone })
    }

    /// The features under the mask, less their `mean`. The mask is stretched by nearest to the `n_window` features of a
    /// whole window, of which the first are given.
    pub fn kept(
        &self,
        features: ArrayView2<'_, f32>,
        mean: &Array1<f32>,
        n_window: usize,
    ) -> Array2<f32> {
        let rows: Vec<usize> = (0..features.nrows())
            .filter(|at| self.kept[at * self.kept.len() / n_window])
            .collect();
        let mut kept = features.select(Axis(0), &rows);
        kept -= mean;
        kept
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn a_track_is_embedded_from_the_frames_it_has_alone() {
        let frames = [0b01, 0b01, 0b01, 0b11, 0b10, 0b11, 0, 0];
        let features = Array2::from_shape_fn((16, 1), |(row, _)| row as f32);
        let mean = ndarray::arr1(&[1.0]);
        let first = TrackMask::of(&frames, 0).unwrap();
        assert_eq!(first.n_alone, 3);
        let kept = first.kept(features.view(), &mean, 16);
        assert_eq!(kept.column(0).to_vec(), [-1.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
        // One frame alone is too little to tell a voice from.
        let second = TrackMask::of(&frames, 1).unwrap();
        assert_eq!(second.n_alone, 1);
        let kept = second.kept(features.view(), &mean, 16);
        assert_eq!(kept.column(0).to_vec(), [5.0, 6.0, 7.0, 8.0, 9.0, 10.0]);
        assert!(TrackMask::of(&frames, 2).is_none());
    }
}
