//! The filter bank of window after window. Windows share nine tenths of their audio, so each frame is computed once and
//! kept until no window needs it.

use ndarray::{ArrayView2, s};

use super::fbank::{FRAME_LENGTH, FRAME_SHIFT, Fbank, n_frames};
use crate::audio_source::AudioSource;
use crate::error::Result;

/// Features of the stretch of audio that the walk is at. Windows must come in order.
pub struct FeatureStream<'a> {
    fbank: &'a Fbank,
    /// Sample at which frame 0 of `rows` begins.
    start: u64,
    /// `[frames, n_mels]`, row by row.
    rows: Vec<f32>,
}

impl<'a> FeatureStream<'a> {
    /// A walk from the start of a file.
    pub fn new(fbank: &'a Fbank) -> Self {
        Self {
            fbank,
            start: 0,
            rows: Vec::new(),
        }
    }

    /// The features of the `length` samples from `start` on, `[frames, n_mels]`; past the audio's end is silence.
    ///
    /// # Errors
    /// [`crate::EngineError::Audio`].
    pub fn window(
        &mut self,
        audio: &dyn AudioSource,
        start: u64,
        length: usize,
    ) -> Result<ArrayView2<'_, f32>> {
        let n_mels = self.fbank.n_mels();
        let ahead = start.saturating_sub(self.start);
        let held = self.rows.len() / n_mels;
        let passed = (ahead / FRAME_SHIFT as u64) as usize;
        // A window that starts between two frames shares none of them.
        if start < self.start || !ahead.is_multiple_of(FRAME_SHIFT as u64) || passed >= held {
            self.rows.clear();
        } else {
            self.rows.drain(..passed * n_mels);
        }
        self.start = start;
        let wanted = n_frames(length);
        let held = self.rows.len() / n_mels;
        if wanted > held {
            let mut samples = vec![0.0; (wanted - held - 1) * FRAME_SHIFT + FRAME_LENGTH];
            audio.read(start + (held * FRAME_SHIFT) as u64, &mut samples)?;
            let new = self.fbank.features(&samples)?;
            self.rows.extend(new.iter());
        }
        let rows = ArrayView2::from_shape((self.rows.len() / n_mels, n_mels), &self.rows);
        let rows = rows.map_err(|error| crate::EngineError::Audio(error.to_string()))?;
        Ok(rows.slice_move(s![..wanted, ..]))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn every_window_has_the_features_it_has_alone() {
        let audio: Vec<f32> = (0..64_000).map(|i| (i as f32 * 0.37).sin() * 0.3).collect();
        let fbank = Fbank::new(80, 32_768.0);
        let mut stream = FeatureStream::new(&fbank);
        for start in [0, 16_000, 17_600, 17_650, 50_000, 60_000] {
            let mut samples = vec![0.0; 32_000];
            audio.read(start, &mut samples).unwrap();
            let alone = fbank.features(&samples).unwrap();
            let window = stream.window(&audio, start, 32_000).unwrap();
            assert_eq!(window, alone, "from sample {start}");
        }
    }
}
