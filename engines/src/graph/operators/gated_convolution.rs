//! The middle of a Conformer's convolution block (Gulati et al., 2020): half of the channels gates the other half, every
//! channel is convolved over neighbouring frames, and the result goes through `x * sigmoid(x)`. Frames outside a window
//! are zeros.

use std::ops::Range;

use super::activation::{multiply_add, sigmoid};
use super::aligned::Scratch;
use super::dispatch::{Simd, dispatch};

/// Frames that are worked on together: their gated values stay in the cache.
pub const FRAMES: usize = 32;

/// The kernel, one for each channel.
#[derive(Clone, Copy)]
pub struct Convolution<'a> {
    /// `[taps, channels]`.
    pub kernel: &'a [f32],
    /// `[channels]`.
    pub bias: &'a [f32],
}

/// Some frames of a window `[frames, 2 channels]`; writes them `[frames, channels]` to `out`.
pub fn convolve(
    simd: Simd,
    window: &[f32],
    convolution: Convolution<'_>,
    frames: Range<usize>,
    out: &mut [f32],
    buffer: &mut Scratch,
) {
    dispatch!(simd, convolve_frames::<VNNI>(
        window: &[f32],
        convolution: Convolution<'_>,
        frames: Range<usize>,
        out: &mut [f32],
        buffer: &mut Scratch,
    ));
}

#[inline(always)]
fn convolve_frames<const FUSED: bool>(
    window: &[f32],
    convolution: Convolution<'_>,
    frames: Range<usize>,
    out: &mut [f32],
    buffer: &mut Scratch,
) {
    let channels = convolution.bias.len();
    let n_frames = window.len() / (2 * channels);
    let reach = convolution.kernel.len() / channels / 2;
    // Gated frames from `reach` before the first on.
    let gated = buffer.get::<f32>((frames.len() + 2 * reach) * channels);
    for (at, gated) in gated.chunks_exact_mut(channels).enumerate() {
        match (frames.start + at).checked_sub(reach) {
            Some(frame) if frame < n_frames => {
                let (values, gates) =
                    window[frame * 2 * channels..][..2 * channels].split_at(channels);
                for ((gated, value), gate) in gated.iter_mut().zip(values).zip(gates) {
                    *gated = value * sigmoid::<FUSED>(*gate);
                }
            }
            _ => gated.fill(0.0),
        }
    }
    for (at, out) in out.chunks_exact_mut(channels).enumerate() {
        out.copy_from_slice(convolution.bias);
        for (tap, weights) in convolution.kernel.chunks_exact(channels).enumerate() {
            let gated = &gated[(at + tap) * channels..][..channels];
            for ((out, value), weight) in out.iter_mut().zip(gated).zip(weights) {
                *out = multiply_add::<FUSED>(*value, *weight, *out);
            }
        }
        for out in out.iter_mut() {
            *out *= sigmoid::<FUSED>(*out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_in_pieces_equals_the_plain_sums() {
        let (n_frames, channels, taps) = (45, 20, 9);
        let number = |at: usize| ((at * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
        let window: Vec<f32> = (0..n_frames * 2 * channels).map(number).collect();
        let kernel: Vec<f32> = (0..taps * channels).map(|at| number(at + 5)).collect();
        let bias: Vec<f32> = (0..channels).map(|at| number(at + 9)).collect();
        let convolution = Convolution {
            kernel: &kernel,
            bias: &bias,
        };
        let gated = |frame: usize, channel: usize| {
            let at = frame * 2 * channels + channel;
            window[at] / (1.0 + (-window[at + channels]).exp())
        };
        for simd in [Simd::detect(), Simd::Baseline] {
            let mut out = vec![0.0; n_frames * channels];
            for (at, out) in out.chunks_mut(FRAMES * channels).enumerate() {
                let frames = at * FRAMES..at * FRAMES + out.len() / channels;
                convolve(
                    simd,
                    &window,
                    convolution,
                    frames,
                    out,
                    &mut Scratch::default(),
                );
            }
            for (frame, channel) in
                (0..n_frames).flat_map(|frame| (0..channels).map(move |channel| (frame, channel)))
            {
                let sum: f32 = (0..taps)
                    .filter(|tap| (taps / 2..n_frames + taps / 2).contains(&(frame + tap)))
                    .map(|tap| {
                        gated(frame + tap - taps / 2, channel) * kernel[tap * channels + channel]
                    })
                    .sum::<f32>()
                    + bias[channel];
                let wanted = sum / (1.0 + (-sum).exp());
                assert!((out[frame * channels + channel] - wanted).abs() < 1e-4);
            }
        }
    }
}
