//! NeMo's front end (`AudioToMelSpectrogramPreprocessor`, `FilterbankFeatures`): pre-emphasis, a centred transform over
//! zeros, a symmetric Hann window, Slaney mel bands, natural logarithm, each band normalised over the utterance. Equal
//! to the exported `nemo128.onnx` within 1e-4.

use std::sync::Arc;

use ndarray::{ArrayViewMut2, Axis};
use realfft::{RealFftPlanner, RealToComplex};

use crate::audio_source::AudioSource;
use crate::error::{EngineError, Result};
use crate::mel::{MelBand, slaney_bands};

/// Samples of a transform.
const N_FFT: usize = 512;
/// Samples of the window inside a transform: 25 ms.
const WINDOW: usize = 400;
/// Samples between frames: 10 ms.
pub const HOP: usize = 160;
const PRE_EMPHASIS: f32 = 0.97;
/// Added to energies before the logarithm: 2^-24.
const GUARD: f32 = 1.0 / 16_777_216.0;
/// Audio that never gets louder than four steps of 16 bits is silence. Normalised, its rounding noise would be as loud as
/// speech.
const SILENCE: f32 = 4.0 / 32_768.0;
/// Added to a band's deviation before it divides.
const DEVIATION_GUARD: f64 = 1e-5;

/// Computes features. Immutable; share it between threads.
pub struct NemoFeatures {
    window: Vec<f32>,
    bands: Vec<MelBand>,
    fft: Arc<dyn RealToComplex<f32>>,
}

impl NemoFeatures {
    /// A bank of `n_mels` bands over 0–8 kHz.
    pub fn new(n_mels: usize) -> Self {
        let before = (N_FFT - WINDOW) / 2;
        let hann =
            |i: usize| 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / (WINDOW - 1) as f64).cos();
        let window = (0..N_FFT)
            .map(|i| match i.checked_sub(before) {
                Some(inside) if inside < WINDOW => hann(inside) as f32,
                _ => 0.0,
            })
            .collect();
        Self {
            window,
            bands: slaney_bands(n_mels, N_FFT),
            fft: RealFftPlanner::new().plan_fft_forward(N_FFT),
        }
    }

    /// Mel bands.
    pub fn n_mels(&self) -> usize {
        self.bands.len()
    }

    /// Frames of so many samples.
    pub fn n_frames(n_samples: u64) -> usize {
        usize::try_from(n_samples / HOP as u64).unwrap_or(usize::MAX)
    }

    /// Fills the first frames of `out` `[n_mels, n]` with the features of `n_samples` samples from `start` on, and
    /// the rest with zeros, as the encoder expects padding. Answers the number of frames that hold audio: none where
    /// all is silence.
    ///
    /// # Errors
    /// Whatever the source's `read` answers.
    pub fn compute(
        &self,
        source: &dyn AudioSource,
        start: u64,
        n_samples: u64,
        mut out: ArrayViewMut2<'_, f32>,
    ) -> Result<usize> {
        let n_frames = Self::n_frames(n_samples).min(out.len_of(Axis(1)));
        let n_samples = usize::try_from(n_samples).unwrap_or(usize::MAX);
        // Zeros on both sides of the audio: half a transform.
        let mut samples = vec![0.0; n_samples + N_FFT];
        source.read(start, &mut samples[N_FFT / 2..][..n_samples])?;
        if samples.iter().all(|sample| sample.abs() <= SILENCE) {
            out.fill(0.0);
            return Ok(0);
        }
        for at in (N_FFT / 2 + 1..N_FFT / 2 + n_samples).rev() {
            samples[at] -= PRE_EMPHASIS * samples[at - 1];
        }
        self.log_energies(&samples, n_frames, &mut out)?;
        for mut band in out.rows_mut() {
            let (mut frames, mut padding) = band.view_mut().split_at(Axis(0), n_frames);
            padding.fill(0.0);
            let n = n_frames as f64;
            let mean = frames.iter().copied().map(f64::from).sum::<f64>() / n;
            let squares: f64 = frames.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum();
            let deviation = (squares / (n - 1.0).max(1.0)).sqrt() + DEVIATION_GUARD;
            frames.mapv_inplace(|x| ((f64::from(x) - mean) / deviation) as f32);
        }
        Ok(n_frames)
    }

    fn log_energies(
        &self,
        samples: &[f32],
        n_frames: usize,
        out: &mut ArrayViewMut2<'_, f32>,
    ) -> Result<()> {
        let mut frame = self.fft.make_input_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = vec![0.0_f32; spectrum.len()];
        for t in 0..n_frames {
            let raw = &samples[t * HOP..][..N_FFT];
            for ((x, sample), weight) in frame.iter_mut().zip(raw).zip(&self.window) {
                *x = sample * weight;
            }
            self.fft
                .process_with_scratch(&mut frame, &mut spectrum, &mut scratch)
                .map_err(|error| EngineError::Audio(error.to_string()))?;
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                *power = bin.norm_sqr();
            }
            for (band, mel) in self.bands.iter().zip(out.column_mut(t)) {
                let bins = power[band.first_bin..].iter().zip(&band.weights);
                let energy: f32 = bins.map(|(power, weight)| power * weight).sum();
                *mel = (energy + GUARD).ln();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use ndarray::Array2;

    use super::*;

    #[test]
    fn bands_have_zero_mean_and_unit_deviation_and_padding_is_zero() {
        let audio: Vec<f32> = (0..16_000)
            .map(|i| (i as f32 * 0.11).sin() * (i % 700) as f32 / 700.0)
            .collect();
        let mut out = Array2::from_elem((80, 120), 7.0);
        let n = NemoFeatures::new(80)
            .compute(&audio, 0, 16_000, out.view_mut())
            .unwrap();
        assert_eq!(n, 100);
        for band in out.rows() {
            let (frames, padding) = band.split_at(Axis(0), n);
            assert!(frames.sum().abs() < 1e-2);
            let variance = frames.iter().map(|x| x * x).sum::<f32>() / 99.0;
            assert!((variance - 1.0).abs() < 1e-2, "{variance}");
            assert!(padding.iter().all(|x| *x == 0.0));
        }
    }

    #[test]
    fn silence_has_no_features() {
        let mut out = Array2::from_elem((128, 50), 1.0);
        NemoFeatures::new(128)
            .compute(&vec![0.0_f32; 8_000], 0, 8_000, out.view_mut())
            .unwrap();
        assert!(out.iter().all(|x| x.abs() < 1e-6));
    }
}
