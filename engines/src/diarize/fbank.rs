//! Kaldi's log-mel filter bank as speaker embedding models are trained on it (`compute-fbank-feats`,
//! `torchaudio.compliance.kaldi.fbank`): frames of 25 ms every 10 ms that lie wholly inside the audio, mean removed,
//! pre-emphasis, Hamming window, power spectrum, triangles on Kaldi's mel scale, natural logarithm. No dither, no energy.

use std::sync::Arc;

use ndarray::{Array2, ArrayViewMut1};
use realfft::{RealFftPlanner, RealToComplex};

use crate::audio_source::SAMPLE_RATE;
use crate::error::{EngineError, Result};

/// Samples of a frame: 25 ms.
pub const FRAME_LENGTH: usize = 400;
/// Samples between frames: 10 ms.
pub const FRAME_SHIFT: usize = 160;

const N_FFT: usize = 512;
const PRE_EMPHASIS: f32 = 0.97;
const LOWEST_HERTZ: f64 = 20.0;
/// Smallest energy, before the logarithm: the epsilon of f32.
const ENERGY_FLOOR: f32 = f32::EPSILON;

/// One triangle: weights of the frequency bins from `first_bin` on.
struct Band {
    first_bin: usize,
    weights: Vec<f32>,
}

/// Computes features. Immutable; share it between threads.
pub struct Fbank {
    /// What samples in −1..1 are multiplied by: 32,768 for models trained on 16-bit values.
    scale: f32,
    window: Vec<f32>,
    bands: Vec<Band>,
    fft: Arc<dyn RealToComplex<f32>>,
}

/// Frames that lie wholly inside `n_samples`.
pub fn n_frames(n_samples: usize) -> usize {
    if n_samples < FRAME_LENGTH {
        0
    } else {
        1 + (n_samples - FRAME_LENGTH) / FRAME_SHIFT
    }
}

impl Fbank {
    /// A bank of `n_mels` bands from 20 Hz to 8 kHz.
    pub fn new(n_mels: usize, scale: f32) -> Self {
        let last = (FRAME_LENGTH - 1) as f64;
        let window = (0..FRAME_LENGTH)
            .map(|k| (0.54 - 0.46 * (std::f64::consts::TAU * k as f64 / last).cos()) as f32)
            .collect();
        Self {
            scale,
            window,
            bands: kaldi_bands(n_mels),
            fft: RealFftPlanner::new().plan_fft_forward(N_FFT),
        }
    }

    /// Mel bands.
    pub fn n_mels(&self) -> usize {
        self.bands.len()
    }

    /// The features of all frames of `samples`, `[frames, n_mels]`, not centred.
    ///
    /// # Errors
    /// [`EngineError::Audio`] never in practice: the transform refuses buffers of a wrong size.
    pub fn features(&self, samples: &[f32]) -> Result<Array2<f32>> {
        let mut features = Array2::zeros((n_frames(samples.len()), self.bands.len()));
        let mut frame = self.fft.make_input_vec();
        let mut spectrum = self.fft.make_output_vec();
        let mut scratch = self.fft.make_scratch_vec();
        let mut power = vec![0.0_f32; N_FFT / 2];
        for (row, raw) in features
            .outer_iter_mut()
            .zip(samples.windows(FRAME_LENGTH).step_by(FRAME_SHIFT))
        {
            self.condition(raw, &mut frame);
            self.fft
                .process_with_scratch(&mut frame, &mut spectrum, &mut scratch)
                .map_err(|error| EngineError::Audio(error.to_string()))?;
            for (power, bin) in power.iter_mut().zip(&spectrum) {
                *power = bin.norm_sqr();
            }
            self.log_mel(&power, row);
        }
        Ok(features)
    }

    /// One frame, scaled, centred, emphasised and windowed; zeros up to the transform's length.
    fn condition(&self, raw: &[f32], frame: &mut [f32]) {
        let sum: f64 = raw.iter().map(|&sample| f64::from(sample)).sum();
        let mean = (sum / FRAME_LENGTH as f64) as f32;
        let mut previous = raw[0] - mean;
        for ((out, sample), weight) in frame.iter_mut().zip(raw).zip(&self.window) {
            let centred = sample - mean;
            *out = (centred - PRE_EMPHASIS * previous) * self.scale * weight;
            previous = centred;
        }
        frame[FRAME_LENGTH..].fill(0.0);
    }

    fn log_mel(&self, power: &[f32], mut out: ArrayViewMut1<'_, f32>) {
        for (band, mel) in self.bands.iter().zip(out.iter_mut()) {
            let bins = power[band.first_bin..].iter().zip(&band.weights);
            let energy: f32 = bins.map(|(power, weight)| power * weight).sum();
            *mel = energy.max(ENERGY_FLOOR).ln();
        }
    }
}

/// Triangles equally wide in mel, linear in mel, over the bins below the Nyquist frequency.
fn kaldi_bands(n_mels: usize) -> Vec<Band> {
    let mel = |hertz: f64| 1127.0 * (1.0 + hertz / 700.0).ln();
    let rate = f64::from(SAMPLE_RATE);
    let (low, high) = (mel(LOWEST_HERTZ), mel(rate / 2.0));
    let step = (high - low) / (n_mels + 1) as f64;
    (0..n_mels)
        .map(|band| {
            let left = low + band as f64 * step;
            let weight = |bin: usize| {
                let at = mel(bin as f64 * rate / N_FFT as f64);
                let (rise, fall) = ((at - left) / step, (left + 2.0 * step - at) / step);
                rise.min(fall)
            };
            let bins: Vec<usize> = (0..N_FFT / 2).filter(|&bin| weight(bin) > 0.0).collect();
            Band {
                first_bin: bins.first().copied().unwrap_or(0),
                weights: bins.iter().map(|&bin| weight(bin) as f32).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_frames_wholly_inside_the_audio_count() {
        for (n_samples, frames) in [
            (0, 0),
            (399, 0),
            (400, 1),
            (559, 1),
            (560, 2),
            (160_000, 998),
        ] {
            assert_eq!(n_frames(n_samples), frames, "{n_samples} samples");
        }
    }

    #[test]
    fn silence_is_the_logarithm_of_the_floor() {
        let Ok(features) = Fbank::new(80, 32_768.0).features(&[0.0; 800]) else {
            panic!("silence has features");
        };
        assert_eq!(features.dim(), (3, 80));
        assert!(features.iter().all(|&value| value == f32::EPSILON.ln()));
    }

    #[test]
    fn every_band_has_weight() {
        assert!(kaldi_bands(80).iter().all(|band| !band.weights.is_empty()));
    }
}
