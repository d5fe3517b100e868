//! Cross-attention of the decoder to a window, over keys and values that are packed once when the window is encoded.
//!
//! Every new token reads all keys and values of its window, so the decoder's speed is the speed of memory. In 8 bits
//! they are a quarter of the size: keys less their mean (softmax does not see it) with a scale per position, values
//! with a scale per channel. In 32 bits they are as they come, for exact results. Keys lie in blocks of 16 positions,
//! so that a vector register holds the scores of 16.

use super::aligned::Scratch;
use super::dispatch::{Simd, dispatch};

/// Positions in a block of keys.
pub const BLOCK: usize = 16;
/// Channels of the output that are summed in registers.
const CHANNELS: usize = 32;

/// Shape of one head's packed keys and values.
#[derive(Debug, Clone, Copy)]
pub struct HeadShape {
    /// Positions of the window.
    pub n_ctx: usize,
    /// Channels of a head, a multiple of 4.
    pub head_dim: usize,
}

impl HeadShape {
    /// Positions rounded up to whole blocks.
    pub fn padded(self) -> usize {
        self.n_ctx.next_multiple_of(BLOCK)
    }
}

/// One head's keys and values, packed.
#[derive(Debug, Clone, Copy)]
pub enum Packed<'a> {
    /// 32-bit: keys `[block][head_dim][16]`, values `[n_ctx][head_dim]`.
    Float {
        /// Keys.
        keys: &'a [f32],
        /// Values.
        values: &'a [f32],
    },
    /// 8-bit: keys `round(key / scale) + 128` as `[block][head_dim / 4][16][4]`, values `[n_ctx][head_dim]`.
    Int8 {
        /// Keys.
        keys: &'a [u8],
        /// Scale of each position's key, `[padded]`.
        key_scale: &'a [f32],
        /// Values.
        values: &'a [i8],
        /// Scale of each channel's values, `[head_dim]`.
        value_scale: &'a [f32],
    },
}

/// Buffers of one thread.
#[derive(Default)]
pub struct Buffers {
    weights: Scratch,
    query: Scratch,
}

/// Packs one head in 32 bits from rows of `stride` floats: keys at `key_at`, values at `value_at`.
pub fn pack_float(
    rows: &[f32],
    stride: usize,
    [key_at, value_at]: [usize; 2],
    shape: HeadShape,
    keys: &mut [f32],
    values: &mut [f32],
) {
    let HeadShape { n_ctx, head_dim } = shape;
    keys.fill(0.0);
    for t in 0..n_ctx {
        let row = &rows[t * stride..][..stride];
        let block = &mut keys[t / BLOCK * BLOCK * head_dim..][..BLOCK * head_dim];
        for (d, key) in row[key_at..][..head_dim].iter().enumerate() {
            block[d * BLOCK + t % BLOCK] = *key;
        }
        values[t * head_dim..][..head_dim].copy_from_slice(&row[value_at..][..head_dim]);
    }
}

/// Where 8-bit packing writes one head.
pub struct Int8Output<'a> {
    /// `[padded * head_dim]`.
    pub keys: &'a mut [u8],
    /// `[padded]`.
    pub key_scale: &'a mut [f32],
    /// `[n_ctx * head_dim]`.
    pub values: &'a mut [i8],
    /// `[head_dim]`.
    pub value_scale: &'a mut [f32],
}

/// Packs one head in 8 bits from rows of `stride` floats: keys at `key_at`, values at `value_at`.
pub fn pack_int8(
    simd: Simd,
    rows: &[f32],
    stride: usize,
    at: [usize; 2],
    shape: HeadShape,
    output: Int8Output<'_>,
) {
    dispatch!(simd, pack_int8_kernel::<VNNI>(
        rows: &[f32],
        stride: usize,
        at: [usize; 2],
        shape: HeadShape,
        output: Int8Output<'_>,
    ));
}

#[inline(always)]
fn pack_int8_kernel<const VNNI: bool>(
    rows: &[f32],
    stride: usize,
    [key_at, value_at]: [usize; 2],
    HeadShape { n_ctx, head_dim }: HeadShape,
    output: Int8Output<'_>,
) {
    let mut mean = vec![0.0f32; head_dim];
    let largest_value = &mut *output.value_scale;
    largest_value.fill(0.0);
    for t in 0..n_ctx {
        let row = &rows[t * stride..][..stride];
        for (sum, key) in mean.iter_mut().zip(&row[key_at..][..head_dim]) {
            *sum += key;
        }
        for (largest, value) in largest_value.iter_mut().zip(&row[value_at..][..head_dim]) {
            *largest = largest.max(value.abs());
        }
    }
    mean.iter_mut().for_each(|sum| *sum /= n_ctx as f32);
    let value_inverse: Vec<f32> = largest_value
        .iter()
        .map(|&largest| inverse_scale(largest))
        .collect();
    largest_value
        .iter_mut()
        .for_each(|largest| *largest /= 127.0);

    output.keys.fill(128);
    output.key_scale.fill(0.0);
    let mut bytes = vec![0u8; head_dim];
    for t in 0..n_ctx {
        let row = &rows[t * stride..][..stride];
        let key = &row[key_at..][..head_dim];
        let mut largest = 0.0f32;
        for (key, mean) in key.iter().zip(&mean) {
            largest = largest.max((key - mean).abs());
        }
        let inverse = inverse_scale(largest);
        output.key_scale[t] = largest / 127.0;
        for ((byte, key), mean) in bytes.iter_mut().zip(key).zip(&mean) {
            *byte = round((key - mean) * inverse).wrapping_add(128) as u8;
        }
        let block = &mut output.keys[t / BLOCK * BLOCK * head_dim..][..BLOCK * head_dim];
        for (quad, four) in bytes.chunks_exact(4).enumerate() {
            block[quad * 4 * BLOCK + t % BLOCK * 4..][..4].copy_from_slice(four);
        }
        let values = &mut output.values[t * head_dim..][..head_dim];
        for ((packed, value), inverse) in values
            .iter_mut()
            .zip(&row[value_at..][..head_dim])
            .zip(&value_inverse)
        {
            *packed = round(value * inverse) as i8;
        }
    }
}

#[inline(always)]
fn inverse_scale(largest: f32) -> f32 {
    if largest > 0.0 { 127.0 / largest } else { 0.0 }
}

/// Rounds a number between -2^22 and 2^22: adding 1.5 * 2^23 leaves the integer in the low bits.
#[inline(always)]
fn round(value: f32) -> i32 {
    (value + 12_582_912.0).to_bits() as i32
}

/// One query of one head: `out[head_dim]` is the weighted sum of values; `attention[n_ctx]`, when asked for, the
/// weights after softmax.
pub fn attend(
    simd: Simd,
    query: &[f32],
    packed: Packed<'_>,
    shape: HeadShape,
    out: &mut [f32],
    attention: Option<&mut [f32]>,
    buffers: &mut Buffers,
) {
    dispatch!(simd, attend_kernel::<VNNI>(
        query: &[f32],
        packed: Packed<'_>,
        shape: HeadShape,
        out: &mut [f32],
        attention: Option<&mut [f32]>,
        buffers: &mut Buffers,
    ));
}

#[inline(always)]
fn attend_kernel<const VNNI: bool>(
    query: &[f32],
    packed: Packed<'_>,
    shape: HeadShape,
    out: &mut [f32],
    attention: Option<&mut [f32]>,
    buffers: &mut Buffers,
) {
    let scale = 1.0 / (shape.head_dim as f32).sqrt();
    let weights = buffers.weights.get::<f32>(shape.padded());
    match packed {
        Packed::Float { keys, .. } => score_float(query, scale, keys, shape, weights),
        Packed::Int8 {
            keys, key_scale, ..
        } => {
            let quantized = buffers.query.get::<i8>(shape.head_dim);
            let largest = query
                .iter()
                .fold(0.0f32, |largest, value| largest.max(value.abs()));
            let inverse = inverse_scale(largest);
            for (byte, value) in quantized.iter_mut().zip(query) {
                *byte = round(value * inverse) as i8;
            }
            score_int8::<VNNI>(
                quantized,
                scale * largest / 127.0,
                keys,
                key_scale,
                shape,
                weights,
            );
        }
    }
    let weights = &mut weights[..shape.n_ctx];
    let total = exponentiate(weights);
    let inverse = 1.0 / total;
    match packed {
        Packed::Float { values, .. } => {
            weigh::<VNNI, _>(weights, values, shape.head_dim, out, |value| value);
        }
        Packed::Int8 {
            values,
            value_scale,
            ..
        } => {
            weigh::<VNNI, _>(weights, values, shape.head_dim, out, f32::from);
            for (sum, scale) in out.iter_mut().zip(value_scale) {
                *sum *= scale;
            }
        }
    }
    out.iter_mut().for_each(|sum| *sum *= inverse);
    if let Some(attention) = attention {
        for (share, weight) in attention.iter_mut().zip(weights.iter()) {
            *share = weight * inverse;
        }
    }
}

#[inline(always)]
fn score_float(query: &[f32], scale: f32, keys: &[f32], shape: HeadShape, scores: &mut [f32]) {
    for (block, scores) in keys
        .chunks_exact(BLOCK * shape.head_dim)
        .zip(scores.chunks_exact_mut(BLOCK))
    {
        let mut sums = [0.0f32; BLOCK];
        for (keys, query) in block.chunks_exact(BLOCK).zip(query) {
            for (sum, key) in sums.iter_mut().zip(keys) {
                *sum += key * query;
            }
        }
        for (score, sum) in scores.iter_mut().zip(sums) {
            *score = sum * scale;
        }
    }
}

#[inline(always)]
fn score_int8<const VNNI: bool>(
    query: &[i8],
    scale: f32,
    keys: &[u8],
    key_scale: &[f32],
    shape: HeadShape,
    scores: &mut [f32],
) {
    // Keys are stored with 128 added, to be unsigned.
    let correction = -128 * query.iter().map(|&byte| i32::from(byte)).sum::<i32>();
    let blocks = keys.chunks_exact(BLOCK * shape.head_dim);
    for ((block, scores), key_scale) in blocks
        .zip(scores.chunks_exact_mut(BLOCK))
        .zip(key_scale.chunks_exact(BLOCK))
    {
        let dots = dot_block::<VNNI>(block, query, correction);
        for ((score, dot), key_scale) in scores.iter_mut().zip(dots).zip(key_scale) {
            *score = dot as f32 * (key_scale * scale);
        }
    }
}

/// `correction` plus the products of 16 keys with a query.
#[inline(always)]
fn dot_block<const VNNI: bool>(block: &[u8], query: &[i8], correction: i32) -> [i32; BLOCK] {
    #[cfg(target_arch = "x86_64")]
    if VNNI {
        use std::arch::x86_64::*;
        // SAFETY: VNNI is true only inside a function compiled for AVX-512 VNNI; every chunk has 64 bytes.
        return unsafe {
            let mut even = _mm512_set1_epi32(correction);
            let mut odd = _mm512_setzero_si512();
            for (keys, four) in block.chunks_exact(8 * BLOCK).zip(query.chunks_exact(8)) {
                let pair = four.as_ptr().cast::<i32>();
                let first = _mm512_set1_epi32(pair.read_unaligned());
                let second = _mm512_set1_epi32(pair.add(1).read_unaligned());
                even = _mm512_dpbusd_epi32(even, _mm512_loadu_si512(keys.as_ptr().cast()), first);
                odd = _mm512_dpbusd_epi32(
                    odd,
                    _mm512_loadu_si512(keys.as_ptr().add(64).cast()),
                    second,
                );
            }
            let mut dots = [0; BLOCK];
            _mm512_storeu_si512(dots.as_mut_ptr().cast(), _mm512_add_epi32(even, odd));
            dots
        };
    }
    let mut dots = [correction; BLOCK];
    for (keys, four) in block.chunks_exact(4 * BLOCK).zip(query.chunks_exact(4)) {
        for (dot, keys) in dots.iter_mut().zip(keys.chunks_exact(4)) {
            for (key, query) in keys.iter().zip(four) {
                *dot += i32::from(*key) * i32::from(*query);
            }
        }
    }
    dots
}

/// Replaces scores by `e^(score - highest)` and answers their sum.
#[inline(always)]
pub(super) fn exponentiate(scores: &mut [f32]) -> f32 {
    let mut highest = [f32::NEG_INFINITY; BLOCK];
    let chunks = scores.chunks_exact(BLOCK);
    let rest = chunks
        .remainder()
        .iter()
        .fold(f32::NEG_INFINITY, |highest, score| highest.max(*score));
    for chunk in chunks {
        for (highest, score) in highest.iter_mut().zip(chunk) {
            *highest = if *score > *highest { *score } else { *highest };
        }
    }
    let highest = highest.into_iter().fold(rest, f32::max);
    let mut total = [0.0f32; BLOCK];
    let mut chunks = scores.chunks_exact_mut(BLOCK);
    for chunk in &mut chunks {
        for (total, score) in total.iter_mut().zip(chunk) {
            *score = exp(*score - highest);
            *total += *score;
        }
    }
    let mut rest = 0.0;
    for score in chunks.into_remainder() {
        *score = exp(*score - highest);
        rest += *score;
    }
    rest + total.iter().sum::<f32>()
}

/// `e^x` for `x <= 0` within 2e-7 of its value: 2 to the whole part of `x / ln 2`, times a Taylor polynomial of the
/// rest. No call, so that it runs in vectors.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + 12_582_912.0;
    let whole = shifted - 12_582_912.0;
    // ln 2 in two parts, so that the subtraction loses nothing (Cody and Waite).
    let rest = x - whole * 0.693_359_4 + whole * 2.121_944_4e-4;
    let mut value = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        value = value * rest + coefficient;
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    value * power
}

/// `out[d]` = sum over positions of weight times value.
#[inline(always)]
fn weigh<const VNNI: bool, T: Copy>(
    weights: &[f32],
    values: &[T],
    head_dim: usize,
    out: &mut [f32],
    widen: impl Fn(T) -> f32,
) {
    let mut first = 0;
    while first + 2 * CHANNELS <= head_dim {
        weigh_channels::<VNNI, T, { 2 * CHANNELS }>(weights, values, head_dim, first, out, &widen);
        first += 2 * CHANNELS;
    }
    while first + CHANNELS <= head_dim {
        weigh_channels::<VNNI, T, CHANNELS>(weights, values, head_dim, first, out, &widen);
        first += CHANNELS;
    }
    while first < head_dim {
        weigh_channels::<VNNI, T, 4>(weights, values, head_dim, first, out, &widen);
        first += 4;
    }
}

/// `a * b + c`: in one instruction where there surely is one, as a call would be slow.
#[inline(always)]
fn multiply_add<const VNNI: bool>(a: f32, b: f32, c: f32) -> f32 {
    if VNNI { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn weigh_channels<const VNNI: bool, T: Copy, const N: usize>(
    weights: &[f32],
    values: &[T],
    head_dim: usize,
    first: usize,
    out: &mut [f32],
    widen: &impl Fn(T) -> f32,
) {
    let mut sums = [0.0f32; N];
    for (row, weight) in values.chunks_exact(head_dim).zip(weights) {
        for (sum, value) in sums.iter_mut().zip(&row[first..][..N]) {
            *sum = multiply_add::<VNNI>(*weight, widen(*value), *sum);
        }
    }
    out[first..][..N].copy_from_slice(&sums);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    /// Repeatable numbers between -1 and 1.
    fn noise(len: usize, seed: u64) -> Vec<f32> {
        let mut state = seed * 2 + 1;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect()
    }

    fn reference(query: &[f32], rows: &[f32], shape: HeadShape) -> (Vec<f64>, Vec<f64>) {
        let HeadShape { n_ctx, head_dim } = shape;
        let dot = |t: usize| -> f64 {
            let key = &rows[t * 2 * head_dim..][..head_dim];
            key.iter()
                .zip(query)
                .map(|(k, q)| f64::from(*k) * f64::from(*q))
                .sum::<f64>()
                / (head_dim as f64).sqrt()
        };
        let scores: Vec<f64> = (0..n_ctx).map(dot).collect();
        let highest = scores.iter().copied().fold(f64::MIN, f64::max);
        let powers: Vec<f64> = scores.iter().map(|s| (s - highest).exp()).collect();
        let total: f64 = powers.iter().sum();
        let attention: Vec<f64> = powers.iter().map(|p| p / total).collect();
        let out = (0..head_dim)
            .map(|d| {
                (0..n_ctx)
                    .map(|t| attention[t] * f64::from(rows[t * 2 * head_dim + head_dim + d]))
                    .sum()
            })
            .collect();
        (out, attention)
    }

    fn check(shape: HeadShape, simd: Simd) {
        let HeadShape { n_ctx, head_dim } = shape;
        let rows = noise(n_ctx * 2 * head_dim, 7);
        let query: Vec<f32> = noise(head_dim, 3).iter().map(|q| q * 4.0).collect();
        let (wanted, wanted_attention) = reference(&query, &rows, shape);
        let at = [0, head_dim];
        let mut out = vec![0.0; head_dim];
        let mut attention = vec![0.0; n_ctx];
        let worst = |out: &[f32], wanted: &[f64]| {
            out.iter()
                .zip(wanted)
                .map(|(a, b)| (f64::from(*a) - b).abs())
                .fold(0.0, f64::max)
        };

        let (mut keys, mut values) = (
            vec![0.0; shape.padded() * head_dim],
            vec![0.0; n_ctx * head_dim],
        );
        pack_float(&rows, 2 * head_dim, at, shape, &mut keys, &mut values);
        let packed = Packed::Float {
            keys: &keys,
            values: &values,
        };
        attend(
            simd,
            &query,
            packed,
            shape,
            &mut out,
            Some(&mut attention),
            &mut Buffers::default(),
        );
        assert!(
            worst(&out, &wanted) < 1e-5,
            "float {simd:?} {shape:?}: {}",
            worst(&out, &wanted)
        );
        assert!(worst(&attention, &wanted_attention) < 1e-6);

        let (mut keys, mut values) = (
            vec![0; shape.padded() * head_dim],
            vec![0; n_ctx * head_dim],
        );
        let (mut key_scale, mut value_scale) = (vec![0.0; shape.padded()], vec![0.0; head_dim]);
        let output = Int8Output {
            keys: &mut keys,
            key_scale: &mut key_scale,
            values: &mut values,
            value_scale: &mut value_scale,
        };
        pack_int8(simd, &rows, 2 * head_dim, at, shape, output);
        let packed = Packed::Int8 {
            keys: &keys,
            key_scale: &key_scale,
            values: &values,
            value_scale: &value_scale,
        };
        attend(
            simd,
            &query,
            packed,
            shape,
            &mut out,
            Some(&mut attention),
            &mut Buffers::default(),
        );
        assert!(
            worst(&out, &wanted) < 0.01,
            "int8 {simd:?} {shape:?}: {}",
            worst(&out, &wanted)
        );
        assert!((attention.iter().sum::<f32>() - 1.0).abs() < 1e-4);
    }

    #[test]
    fn every_instruction_set_agrees_with_double_precision() {
        let mut sets = vec![Simd::Baseline, Simd::detect()];
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            sets.push(Simd::Avx2);
        }
        for simd in sets {
            for (n_ctx, head_dim) in [(1500, 64), (1500, 32), (17, 64), (33, 96), (1, 32)] {
                check(HeadShape { n_ctx, head_dim }, simd);
            }
        }
    }

    #[test]
    fn exp_is_exact_to_single_precision() {
        for step in 0..8700 {
            let x = -(step as f32) / 100.0;
            let wanted = f64::from(x).exp();
            assert!((f64::from(exp(x)) - wanted).abs() <= wanted * 3e-7, "{x}");
        }
    }
}
