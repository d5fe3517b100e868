//! Log-mel features as Whisper was trained on them: centred short-time Fourier transform with a periodic Hann window,
//! Slaney mel bands, log10, clamped to eight decades below the maximum (`log_mel_spectrogram` in openai/whisper,
//! `WhisperFeatureExtractor` in transformers). Works on any stretch of an [`AudioSource`], so that a long file never
//! has to be in memory; equal to the reference within 1e-4.

use std::ops::Range;
use std::sync::Arc;

use ndarray::{Array2, ArrayViewMut2, Axis};
use realfft::{RealFftPlanner, RealToComplex};

use crate::audio_source::{AudioSource, SAMPLE_RATE};
use crate::error::Result;

/// Frames that one thread computes before it is worth starting another.
const FRAMES_PER_THREAD: usize = 750;

/// Frames of one chunk when a whole file is walked for its maximum: 30 s.
const CHUNK_FRAMES: usize = 3000;

/// Smallest mel energy, before the logarithm.
const ENERGY_FLOOR: f32 = 1e-10;

/// Decades below the maximum at which features are clamped.
const DYNAMIC_RANGE: f32 = 8.0;

/// A stretch of audio as features see it: `n_samples` samples of `source` from `start`, zeros where the source has
/// ended, mirrored at both ends (the transform is centred).
#[derive(Clone, Copy)]
pub struct Stretch<'a> {
    /// Where the samples are.
    pub source: &'a dyn AudioSource,
    /// First sample of the stretch.
    pub start: u64,
    /// Length of the stretch in samples; may reach past the source's end, which then counts as silence.
    pub n_samples: u64,
}

impl<'a> Stretch<'a> {
    /// A whole source.
    pub fn whole(source: &'a dyn AudioSource) -> Self {
        Self {
            source,
            start: 0,
            n_samples: source.n_samples(),
        }
    }

    /// Reads samples from `at` on, where positions before 0 and past the end are mirrored into the stretch.
    fn read_mirrored(&self, at: i64, out: &mut [f32]) -> Result<()> {
        let n = i64::try_from(self.n_samples).unwrap_or(i64::MAX);
        let end = at + out.len() as i64;
        let inside = at.clamp(0, n)..end.clamp(0, n);
        if !inside.is_empty() {
            let first = (inside.start - at) as usize;
            let length = (inside.end - inside.start) as usize;
            self.source.read(
                self.start + inside.start as u64,
                &mut out[first..first + length],
            )?;
        }
        for (position, sample) in (at..end)
            .zip(out.iter_mut())
            .filter(|(position, _)| !inside.contains(position))
        {
            let mirrored = if position < 0 {
                -position
            } else {
                2 * (n - 1) - position
            };
            let mut one = [0.0];
            if (0..n).contains(&mirrored) {
                self.source.read(self.start + mirrored as u64, &mut one)?;
            }
            *sample = one[0];
        }
        Ok(())
    }
}

/// One triangle of the filter bank: weights of the frequency bins from `first_bin` on.
pub(crate) struct MelBand {
    pub(crate) first_bin: usize,
    pub(crate) weights: Vec<f32>,
}

/// Computes log-mel features. Immutable; share it between threads.
pub struct LogMel {
    n_mels: usize,
    n_fft: usize,
    hop_length: usize,
    window: Vec<f32>,
    bands: Vec<MelBand>,
    fft: Arc<dyn RealToComplex<f32>>,
}

impl LogMel {
    /// A bank of `n_mels` bands over 0–8 kHz, with transforms of `n_fft` samples every `hop_length`.
    pub fn new(n_mels: usize, n_fft: usize, hop_length: usize) -> Self {
        // Periodic Hann: the window's period is n_fft, as torch.hann_window.
        let window = (0..n_fft)
            .map(|i| (0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / n_fft as f64).cos()) as f32)
            .collect();
        let fft = RealFftPlanner::new().plan_fft_forward(n_fft);
        Self {
            n_mels,
            n_fft,
            hop_length,
            window,
            bands: slaney_bands(n_mels, n_fft),
            fft,
        }
    }

    /// Mel bands.
    pub fn n_mels(&self) -> usize {
        self.n_mels
    }

    /// Samples between two frames.
    pub fn hop_length(&self) -> usize {
        self.hop_length
    }

    /// Frames of a stretch: one per started hop but the last.
    pub fn n_frames(&self, n_samples: u64) -> usize {
        usize::try_from(n_samples / self.hop_length as u64).unwrap_or(usize::MAX)
    }

    /// log10 of the mel energies of the frames from `first_frame` on, not yet normalised, into `out` `[n_mels, n]`.
    /// Spread over up to `threads` threads.
    ///
    /// # Errors
    /// Whatever the source's `read` answers.
    pub fn log10_frames(
        &self,
        stretch: &Stretch<'_>,
        first_frame: usize,
        mut out: ArrayViewMut2<'_, f32>,
        threads: usize,
    ) -> Result<()> {
        let n_frames = out.len_of(Axis(1));
        let shares = threads.min(n_frames.div_ceil(FRAMES_PER_THREAD)).max(1);
        if shares == 1 {
            return self.log10_share(stretch, first_frame, out);
        }
        let share = n_frames.div_ceil(shares);
        std::thread::scope(|scope| {
            let workers: Vec<_> = out
                .axis_chunks_iter_mut(Axis(1), share)
                .enumerate()
                .map(|(i, part)| {
                    scope.spawn(move || self.log10_share(stretch, first_frame + i * share, part))
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| match worker.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
        })
    }

    fn log10_share(
        &self,
        stretch: &Stretch<'_>,
        first_frame: usize,
        mut out: ArrayViewMut2<'_, f32>,
    ) -> Result<()> {
        let n_frames = out.len_of(Axis(1));
        if n_frames == 0 {
            return Ok(());
        }
        let mut samples = vec![0.0; (n_frames - 1) * self.hop_length + self.n_fft];
        let first_sample = (first_frame * self.hop_length) as i64 - (self.n_fft / 2) as i64;
        stretch.read_mirrored(first_sample, &mut samples)?;

        let mut frame = self.fft.make_input_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = vec![0.0_f32; spectrum.len()];
        for t in 0..n_frames {
            let raw = &samples[t * self.hop_length..][..self.n_fft];
            for ((x, s), w) in frame.iter_mut().zip(raw).zip(&self.window) {
                *x = s * w;
            }
            self.fft
                .process_with_scratch(&mut frame, &mut spectrum, &mut scratch)
                .map_err(|error| crate::EngineError::Audio(error.to_string()))?;
            for (p, c) in power.iter_mut().zip(&spectrum) {
                *p = c.norm_sqr();
            }
            for (band, mel) in self.bands.iter().zip(out.column_mut(t)) {
                let energy: f32 = power[band.first_bin..]
                    .iter()
                    .zip(&band.weights)
                    .map(|(p, w)| p * w)
                    .sum();
                *mel = energy.max(ENERGY_FLOOR).log10();
            }
        }
        Ok(())
    }

    /// The largest log10 mel energy of some frames of a stretch, in constant memory.
    ///
    /// # Errors
    /// Whatever the source's `read` answers.
    pub fn maximum(
        &self,
        stretch: &Stretch<'_>,
        frames: Range<usize>,
        threads: usize,
    ) -> Result<f32> {
        let mut maximum = ENERGY_FLOOR.log10();
        let mut chunk = Array2::zeros((self.n_mels, CHUNK_FRAMES.min(frames.len())));
        for first in frames.clone().step_by(CHUNK_FRAMES) {
            let held = CHUNK_FRAMES.min(frames.end - first);
            let mut part = chunk.slice_mut(ndarray::s![.., ..held]);
            self.log10_frames(stretch, first, part.view_mut(), threads)?;
            maximum = part.iter().copied().fold(maximum, f32::max);
        }
        Ok(maximum)
    }
}

/// Brings log10 energies to the range the network expects, given the maximum they are measured against.
pub fn normalize(log10: &mut ArrayViewMut2<'_, f32>, maximum: f32) {
    let floor = maximum - DYNAMIC_RANGE;
    log10.mapv_inplace(|x| (x.max(floor) + 4.0) / 4.0);
}

/// Triangles equally spaced on Slaney's mel scale, each of unit area (librosa's and transformers' default).
pub(crate) fn slaney_bands(n_mels: usize, n_fft: usize) -> Vec<MelBand> {
    let n_bins = n_fft / 2 + 1;
    let nyquist = f64::from(SAMPLE_RATE) / 2.0;
    let top = hertz_to_mel(nyquist);
    let edges: Vec<f64> = (0..n_mels + 2)
        .map(|i| mel_to_hertz(top * i as f64 / (n_mels + 1) as f64))
        .collect();
    edges
        .windows(3)
        .map(|edge| {
            let unit_area = 2.0 / (edge[2] - edge[0]);
            let weight = |bin: usize| {
                let hertz = nyquist * bin as f64 / (n_bins - 1) as f64;
                let rise = (hertz - edge[0]) / (edge[1] - edge[0]);
                let fall = (edge[2] - hertz) / (edge[2] - edge[1]);
                rise.min(fall).max(0.0) * unit_area
            };
            let bins: Vec<usize> = (0..n_bins).filter(|&bin| weight(bin) > 0.0).collect();
            MelBand {
                first_bin: bins.first().copied().unwrap_or(0),
                weights: bins.iter().map(|&bin| weight(bin) as f32).collect(),
            }
        })
        .collect()
}

// Slaney's scale: linear up to 1 kHz (15 mel), logarithmic above.
const LINEAR_STEP: f64 = 200.0 / 3.0;
const LOG_START_HERTZ: f64 = 1000.0;
const LOG_START_MEL: f64 = LOG_START_HERTZ / LINEAR_STEP;
const LOG_STEP: f64 = 27.0;

fn hertz_to_mel(hertz: f64) -> f64 {
    if hertz < LOG_START_HERTZ {
        hertz / LINEAR_STEP
    } else {
        LOG_START_MEL + (hertz / LOG_START_HERTZ).ln() * LOG_STEP / 6.4_f64.ln()
    }
}

fn mel_to_hertz(mel: f64) -> f64 {
    if mel < LOG_START_MEL {
        mel * LINEAR_STEP
    } else {
        LOG_START_HERTZ * ((mel - LOG_START_MEL) * 6.4_f64.ln() / LOG_STEP).exp()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn tone(n_samples: usize) -> Vec<f32> {
        (0..n_samples)
            .map(|i| (i as f32 * 0.31).sin() * (1.0 - i as f32 / n_samples as f32))
            .collect()
    }

    #[test]
    fn any_stretch_of_frames_equals_the_same_frames_of_the_whole() {
        let audio = tone(16_000 * 3 + 77);
        let mel = LogMel::new(80, 400, 160);
        let stretch = Stretch::whole(&audio);
        let n_frames = mel.n_frames(stretch.n_samples);
        let mut whole = Array2::zeros((80, n_frames));
        mel.log10_frames(&stretch, 0, whole.view_mut(), 1).unwrap();
        for (first, n) in [(0, 7), (100, 50), (n_frames - 5, 5)] {
            let mut part = Array2::zeros((80, n));
            mel.log10_frames(&stretch, first, part.view_mut(), 1)
                .unwrap();
            assert_eq!(part, whole.slice(ndarray::s![.., first..first + n]));
        }
    }

    #[test]
    fn threads_change_nothing() {
        let audio = tone(16_000 * 20);
        let mel = LogMel::new(128, 400, 160);
        let stretch = Stretch::whole(&audio);
        let (mut one, mut many) = (Array2::zeros((128, 2000)), Array2::zeros((128, 2000)));
        mel.log10_frames(&stretch, 0, one.view_mut(), 1).unwrap();
        mel.log10_frames(&stretch, 0, many.view_mut(), 4).unwrap();
        assert_eq!(one, many);
    }

    #[test]
    fn the_maximum_by_chunks_is_the_maximum_of_all_frames() {
        let audio = tone(16_000 * 65);
        let mel = LogMel::new(80, 400, 160);
        let stretch = Stretch::whole(&audio);
        let mut whole = Array2::zeros((80, mel.n_frames(stretch.n_samples)));
        mel.log10_frames(&stretch, 0, whole.view_mut(), 2).unwrap();
        let expected = whole.iter().copied().fold(f32::MIN, f32::max);
        assert_eq!(
            mel.maximum(&stretch, 0..whole.ncols(), 2).unwrap(),
            expected
        );
    }

    #[test]
    fn every_band_of_both_banks_has_weight() {
        for n_mels in [80, 128] {
            assert!(
                slaney_bands(n_mels, 400)
                    .iter()
                    .all(|band| !band.weights.is_empty())
            );
        }
    }
}
