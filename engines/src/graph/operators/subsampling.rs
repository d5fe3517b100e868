//! The front of a FastConformer (Rekesh et al., 2023): three convolutions of stride 2 over time and mel bands, the last
//! two of them by channel with a product over channels behind each. What a published graph does layer by layer over the
//! whole batch, hundreds of megabytes at a time, is done here for a few output frames at once, in the cache.
//!
//! Values lie channel by channel beside each other. Frames and bands outside a window are zeros at every layer.

use std::ops::Range;

use super::Shared;
use super::activation::multiply_add;
use super::aligned::Scratch;
use super::dispatch::{Simd, dispatch};
use super::linear::{Activation, Matrix, Output, Rows, Scale, Weights, quantize};

/// Output frames that are computed together; a neighbour's edge is computed twice.
pub const FRAMES: usize = 8;
/// Frames, and bands, that one convolution sees.
const TAPS: usize = 3;

/// Convolutions of three frames by three bands, one for each channel.
#[derive(Clone, Copy)]
pub struct Convolution<'a> {
    /// `[3, 3, channels]`.
    pub kernel: &'a [f32],
    /// `[channels]`.
    pub bias: &'a [f32],
}

/// All layers.
#[derive(Clone, Copy)]
pub struct Layers<'a> {
    /// One channel to all.
    pub first: Convolution<'a>,
    /// Each channel to itself, and the product behind.
    pub second: (Convolution<'a>, Matrix<'a>),
    /// The same again.
    pub third: (Convolution<'a>, Matrix<'a>),
}

/// Features of a window, `[bands, stride]` of which the first frames count.
#[derive(Clone, Copy)]
pub struct Features<'a> {
    /// The numbers.
    pub values: &'a [f32],
    /// Between bands.
    pub stride: usize,
    /// Mel bands.
    pub n_bands: usize,
    /// Frames that count.
    pub n_frames: usize,
}

/// Buffers of one thread.
#[derive(Default)]
pub struct Buffers {
    first: Scratch,
    convolved: Scratch,
    multiplied: Scratch,
    bytes: Scratch,
    scales: Vec<Scale>,
}

/// Half, rounded up: what a layer of stride 2 leaves.
pub fn halved(n: usize) -> usize {
    n.div_ceil(2)
}

/// Output frames of so many.
pub fn n_output(n_frames: usize) -> usize {
    halved(halved(halved(n_frames)))
}

/// Output frames `frames` of a window, `[frames, bands / 8 * channels]`.
pub fn subsample(
    simd: Simd,
    features: Features<'_>,
    layers: &Layers<'_>,
    frames: Range<usize>,
    out: &mut [f32],
    buffers: &mut Buffers,
) {
    let channels = layers.first.bias.len();
    let Buffers {
        first,
        convolved,
        multiplied,
        bytes,
        scales,
    } = buffers;
    let n_first = halved(features.n_frames);
    let n_second = halved(n_first);
    let (bands_first, bands_second) = (halved(features.n_bands), halved(halved(features.n_bands)));
    let bands_third = halved(bands_second);

    // Frames of the second layer that the outputs see.
    let seen = (2 * frames.start).saturating_sub(1)..n_second.min(2 * frames.end);
    let row = bands_second * channels;
    let convolved = convolved.get::<f32>(seen.len() * row);
    let ring = first.get::<f32>(TAPS * bands_first * channels);
    let ring_row = bands_first * channels;
    let mut next = (2 * seen.start).saturating_sub(1);
    for (frame, out) in seen.clone().zip(convolved.chunks_exact_mut(row)) {
        let needed = n_first.min(2 * frame + 2);
        while next < needed {
            let row = &mut ring[next % TAPS * ring_row..][..ring_row];
            first_frame(simd, features, layers.first, next, row);
            next += 1;
        }
        let taps =
            taps(frame, n_first).map(|tap| tap.map(|at| &ring[at % TAPS * ring_row..][..ring_row]));
        by_channel(simd, taps, layers.second.0, bands_first, out);
    }
    let multiplied = multiplied.get::<f32>(seen.len() * row);
    multiply(simd, &layers.second.1, convolved, multiplied, bytes, scales);

    let row_out = bands_third * channels;
    let convolved = &mut convolved[..frames.len() * row_out];
    for (frame, out) in frames.zip(convolved.chunks_exact_mut(row_out)) {
        let taps = taps(frame, n_second)
            .map(|tap| tap.map(|at| &multiplied[(at - seen.start) * row..][..row]));
        by_channel(simd, taps, layers.third.0, bands_second, out);
    }
    multiply(simd, &layers.third.1, convolved, out, bytes, scales);
}

/// The frames that an output frame sees, `None` where there are none.
fn taps(frame: usize, n_frames: usize) -> [Option<usize>; TAPS] {
    std::array::from_fn(|tap| (2 * frame + tap).checked_sub(1).filter(|&at| at < n_frames))
}

/// One frame of the first layer `[bands, channels]`.
fn first_frame(
    simd: Simd,
    features: Features<'_>,
    convolution: Convolution<'_>,
    frame: usize,
    out: &mut [f32],
) {
    dispatch!(simd, first_frame_of::<VNNI>(
        features: Features<'_>, convolution: Convolution<'_>, frame: usize, out: &mut [f32],
    ));
}

#[inline(always)]
fn first_frame_of<const FUSED: bool>(
    features: Features<'_>,
    convolution: Convolution<'_>,
    frame: usize,
    out: &mut [f32],
) {
    let channels = convolution.bias.len();
    let taps = taps(frame, features.n_frames);
    for (band, out) in out.chunks_exact_mut(channels).enumerate() {
        let mut seen = [0.0; TAPS * TAPS];
        for (at, seen) in seen.iter_mut().enumerate() {
            let band = (2 * band + at % TAPS)
                .checked_sub(1)
                .filter(|&band| band < features.n_bands);
            if let (Some(frame), Some(band)) = (taps[at / TAPS], band) {
                *seen = features.values[band * features.stride + frame];
            }
        }
        out.copy_from_slice(convolution.bias);
        for (value, weights) in seen.iter().zip(convolution.kernel.chunks_exact(channels)) {
            for (out, weight) in out.iter_mut().zip(weights) {
                *out = multiply_add::<FUSED>(*value, *weight, *out);
            }
        }
        for out in out {
            *out = out.max(0.0);
        }
    }
}

/// One frame of a layer by channel: rows `[bands, channels]` to `[bands / 2, channels]`.
fn by_channel(
    simd: Simd,
    rows: [Option<&[f32]>; TAPS],
    convolution: Convolution<'_>,
    n_bands: usize,
    out: &mut [f32],
) {
    dispatch!(simd, by_channel_of::<VNNI>(
        rows: [Option<&[f32]>; TAPS], convolution: Convolution<'_>, n_bands: usize, out: &mut [f32],
    ));
}

#[inline(always)]
fn by_channel_of<const FUSED: bool>(
    rows: [Option<&[f32]>; TAPS],
    convolution: Convolution<'_>,
    n_bands: usize,
    out: &mut [f32],
) {
    let channels = convolution.bias.len();
    for (band, out) in out.chunks_exact_mut(channels).enumerate() {
        out.copy_from_slice(convolution.bias);
        for (at, weights) in convolution.kernel.chunks_exact(channels).enumerate() {
            let band = (2 * band + at % TAPS)
                .checked_sub(1)
                .filter(|&band| band < n_bands);
            if let (Some(row), Some(band)) = (rows[at / TAPS], band) {
                let values = &row[band * channels..][..channels];
                for ((out, value), weight) in out.iter_mut().zip(values).zip(weights) {
                    *out = multiply_add::<FUSED>(*value, *weight, *out);
                }
            }
        }
    }
}

/// The product over channels of all places, and no number below zero.
fn multiply(
    simd: Simd,
    matrix: &Matrix<'_>,
    values: &[f32],
    out: &mut [f32],
    bytes: &mut Scratch,
    scales: &mut Vec<Scale>,
) {
    let n = values.len() / matrix.n_in;
    let rows = match matrix.weights {
        Weights::Float { .. } => Rows::Float(values),
        Weights::Int8 { .. } => {
            scales.resize(n, Scale::default());
            let bytes = bytes.get::<i8>(n * matrix.row_bytes());
            quantize(simd, values, matrix.n_in, bytes, scales);
            Rows::Int8(bytes, scales)
        }
    };
    let output = Output {
        out: Shared(out.as_mut_ptr()),
        activation: Activation::Relu,
        residual: None,
    };
    for piece in 0..matrix.n_pieces(n) {
        // SAFETY: `out` is as large as `values`, the matrix is square, and nobody else has it.
        unsafe { matrix.multiply(simd, rows, piece, output) };
    }
}
