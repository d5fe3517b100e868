//! Self-attention over an encoder window, in reduced precision: scores from 8-bit queries and keys (VNNI), weighted
//! sums of bfloat16 values (`vdpbf16ps`), everything between in 32-bit floats.
//!
//! Attention is more than half of a small Whisper encoder, and an int8 export leaves it in f32. Following
//! `SageAttention` (Zhang et al., 2024), the mean key is taken off every key first: softmax does not see it, and what is
//! left fits 8 bits well. Queries and keys carry one scale per row. Probabilities stay in bfloat16: with 8 bits a long
//! tail of small ones would vanish.
//!
//! Needs AVX-512 with VNNI and BF16; elsewhere the rewritten graph uses ONNX Runtime's own attention.
#![cfg_attr(
    not(target_arch = "x86_64"),
    expect(dead_code, reason = "all of it is for one kind of processor")
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::aligned::Scratch;
#[cfg(target_arch = "x86_64")]
use std::f32::consts::LN_2;

/// Queries that are worked on together: their scores stay in the second-level cache, their sums in registers.
const QUERIES: usize = 8;
/// Keys in a vector of 32-bit scores.
const LANES: usize = 16;
/// Vectors of keys per step of the score kernel. `QUERIES` × `KEY_BLOCKS` accumulators fill 24 of 32 registers.
const KEY_BLOCKS: usize = 3;

/// Whether this processor runs [`attend_head`].
pub fn is_supported() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Head sizes the kernels are written for: whole vectors of values, whole quadruples of key bytes.
pub fn is_supported_head(head_dim: usize) -> bool {
    head_dim.is_multiple_of(2 * LANES) && head_dim <= 256
}

/// Buffers of one thread.
#[derive(Default)]
pub struct Buffers {
    keys: Scratch,
    key_scale: Scratch,
    key_bias: Scratch,
    values: Scratch,
    queries: Scratch,
    scores: Scratch,
    weights: Scratch,
}

/// One head of one window: reads `[n_ctx]` rows of `stride` floats at `query`, `key` and `value` offsets of `qkv`
/// (`head_dim` floats each) and writes `[n_ctx]` rows of `out_stride` floats at `out`.
///
/// # Safety
/// [`is_supported`] and [`is_supported_head`] hold; `out` points at `(n_ctx - 1) * out_stride + head_dim` writable
/// floats that nobody else touches.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
#[expect(
    clippy::too_many_arguments,
    reason = "an inner kernel over borrowed buffers"
)]
pub unsafe fn attend_head(
    qkv: &[f32],
    stride: usize,
    offsets: [usize; 3],
    n_ctx: usize,
    head_dim: usize,
    out: *mut f32,
    out_stride: usize,
    buffers: &mut Buffers,
) {
    let padded = n_ctx.next_multiple_of(LANES * KEY_BLOCKS);
    let keys = buffers.keys.get::<u8>(padded * head_dim);
    let key_scale = buffers.key_scale.get::<f32>(padded);
    let key_bias = buffers.key_bias.get::<f32>(padded);
    let values = buffers
        .values
        .get::<u16>(n_ctx.next_multiple_of(2) * head_dim);
    let queries = buffers.queries.get::<i32>(QUERIES * head_dim / 4);
    let scores = buffers.scores.get::<f32>(QUERIES * padded);
    let weights = buffers.weights.get::<u16>(QUERIES * padded);

    let [query_at, key_at, value_at] = offsets;
    let rows = |at: usize| move |t: usize| &qkv[t * stride + at..][..head_dim];
    pack_keys(rows(key_at), n_ctx, head_dim, keys, key_scale, key_bias);
    pack_values(rows(value_at), n_ctx, head_dim, values);

    let to_log2 = std::f32::consts::LOG2_E / (head_dim as f32).sqrt();
    for first in (0..n_ctx).step_by(QUERIES) {
        let count = QUERIES.min(n_ctx - first);
        let mut scale = [0.0; QUERIES];
        let mut correction = [0; QUERIES];
        for i in 0..QUERIES {
            let row = &mut queries[i * head_dim / 4..][..head_dim / 4];
            if i < count {
                let (row_scale, sum) = quantize_query(rows(query_at)(first + i), row);
                scale[i] = row_scale * to_log2;
                // Keys are stored with 128 added, to be unsigned.
                correction[i] = -128 * sum;
            } else {
                row.fill(0);
            }
        }
        let highest = score(
            queries,
            &scale,
            &correction,
            keys,
            key_scale,
            key_bias,
            head_dim,
            padded,
            scores,
        );
        let mut total = [0.0; QUERIES];
        for i in 0..count {
            total[i] = exponentiate(
                &scores[i * padded..][..padded],
                highest[i],
                &mut weights[i * padded..][..padded],
            );
        }
        for i in count..QUERIES {
            weights[i * padded..][..padded].fill(0);
        }
        for dim in (0..head_dim).step_by(2 * LANES) {
            let sums = weigh(weights, padded, values, n_ctx, head_dim, dim);
            for i in 0..count {
                let inverse = _mm512_set1_ps(1.0 / total[i]);
                // SAFETY: row `first + i` of the output has `head_dim` floats from `out`, by this function's contract.
                unsafe {
                    let row = out.add((first + i) * out_stride + dim);
                    _mm512_storeu_ps(row, _mm512_mul_ps(sums[i][0], inverse));
                    _mm512_storeu_ps(row.add(LANES), _mm512_mul_ps(sums[i][1], inverse));
                }
            }
        }
    }
}

/// Keys less their mean, as `round(key / scale) + 128`, in blocks of 16 keys: `[block][head_dim / 4][16][4]`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn pack_keys<'a>(
    row: impl Fn(usize) -> &'a [f32],
    n_ctx: usize,
    head_dim: usize,
    keys: &mut [u8],
    key_scale: &mut [f32],
    key_bias: &mut [f32],
) {
    let mut mean = [0.0f32; 256];
    let mean = &mut mean[..head_dim];
    for t in 0..n_ctx {
        for (sum, value) in mean.iter_mut().zip(row(t)) {
            *sum += value;
        }
    }
    for sum in mean.iter_mut() {
        *sum /= n_ctx as f32;
    }
    let mut centred = [0.0f32; 256];
    let centred = &mut centred[..head_dim];
    let n_keys = key_scale.len();
    for t in 0..n_keys {
        let block = &mut keys[t / LANES * LANES * head_dim..][..LANES * head_dim];
        let lane = t % LANES * 4;
        if t >= n_ctx {
            key_scale[t] = 0.0;
            key_bias[t] = f32::NEG_INFINITY;
            for quad in 0..head_dim / 4 {
                block[quad * 64 + lane..][..4].fill(128);
            }
            continue;
        }
        let mut largest = 0.0f32;
        for ((c, value), mean) in centred.iter_mut().zip(row(t)).zip(mean.iter()) {
            *c = value - mean;
            largest = largest.max(c.abs());
        }
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        key_scale[t] = largest / 127.0;
        key_bias[t] = 0.0;
        let mut bytes = [0u8; 256];
        for (byte, c) in bytes.iter_mut().zip(centred.iter()) {
            // Adding 1.5 * 2^23 leaves the rounded integer in the low bits.
            *byte = (c * inverse + 12_582_912.0).to_bits().wrapping_add(128) as u8;
        }
        for quad in 0..head_dim / 4 {
            block[quad * 64 + lane..][..4].copy_from_slice(&bytes[quad * 4..][..4]);
        }
    }
}

/// Values in bfloat16, two positions side by side: `[n_ctx / 2][head_dim][2]`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn pack_values<'a>(
    row: impl Fn(usize) -> &'a [f32],
    n_ctx: usize,
    head_dim: usize,
    values: &mut [u16],
) {
    const NOTHING: [f32; 256] = [0.0; 256];
    for (pair, packed) in values.chunks_exact_mut(2 * head_dim).enumerate() {
        let even = row(2 * pair);
        let odd = if 2 * pair + 1 < n_ctx {
            row(2 * pair + 1)
        } else {
            &NOTHING[..head_dim]
        };
        for ((both, even), odd) in packed.chunks_exact_mut(2).zip(even).zip(odd) {
            both[0] = bfloat16(*even);
            both[1] = bfloat16(*odd);
        }
    }
}

/// Rounds to the nearest bfloat16, ties to even. Finite input only.
#[inline(always)]
fn bfloat16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// A query in 8 bits, four to an `i32`; its scale and the sum of its bytes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn quantize_query(query: &[f32], packed: &mut [i32]) -> (f32, i32) {
    let largest = query
        .iter()
        .fold(0.0f32, |largest, value| largest.max(value.abs()));
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    let mut sum = 0;
    for (quad, four) in packed.iter_mut().zip(query.chunks_exact(4)) {
        let mut bytes = [0u8; 4];
        for (byte, value) in bytes.iter_mut().zip(four) {
            let rounded = (value * inverse).round_ties_even() as i32;
            sum += rounded;
            *byte = rounded as i8 as u8;
        }
        *quad = i32::from_le_bytes(bytes);
    }
    (largest / 127.0, sum)
}

/// Scores `[QUERIES][padded]` in units of log 2, and the highest of each query.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
#[expect(
    clippy::too_many_arguments,
    reason = "an inner kernel over borrowed buffers"
)]
fn score(
    queries: &[i32],
    scale: &[f32; QUERIES],
    correction: &[i32; QUERIES],
    keys: &[u8],
    key_scale: &[f32],
    key_bias: &[f32],
    head_dim: usize,
    padded: usize,
    scores: &mut [f32],
) -> [f32; QUERIES] {
    let quads = head_dim / 4;
    assert!(queries.len() >= QUERIES * quads && scores.len() >= QUERIES * padded);
    assert!(
        keys.len() >= padded * head_dim && key_scale.len() >= padded && key_bias.len() >= padded
    );
    let mut highest = [_mm512_set1_ps(f32::NEG_INFINITY); QUERIES];
    for first in (0..padded).step_by(LANES * KEY_BLOCKS) {
        let mut dots = [[_mm512_setzero_si512(); KEY_BLOCKS]; QUERIES];
        for (dots, correction) in dots.iter_mut().zip(correction) {
            *dots = [_mm512_set1_epi32(*correction); KEY_BLOCKS];
        }
        // SAFETY: `first + 48 <= padded`, so every load and store below lies inside the slices checked above.
        unsafe {
            let block = keys.as_ptr().add(first * head_dim);
            for quad in 0..quads {
                let mut key = [_mm512_setzero_si512(); KEY_BLOCKS];
                for (k, key) in key.iter_mut().enumerate() {
                    *key = _mm512_loadu_si512(block.add(k * LANES * head_dim + quad * 64).cast());
                }
                for (i, dots) in dots.iter_mut().enumerate() {
                    let query = _mm512_set1_epi32(*queries.get_unchecked(i * quads + quad));
                    for (dot, key) in dots.iter_mut().zip(key) {
                        *dot = _mm512_dpbusd_epi32(*dot, key, query);
                    }
                }
            }
            #[expect(
                clippy::needless_range_loop,
                reason = "the same index counts keys and accumulators"
            )]
            for k in 0..KEY_BLOCKS {
                let at = first + k * LANES;
                let by_key = _mm512_loadu_ps(key_scale.as_ptr().add(at));
                let bias = _mm512_loadu_ps(key_bias.as_ptr().add(at));
                for i in 0..QUERIES {
                    let both = _mm512_mul_ps(by_key, _mm512_set1_ps(scale[i]));
                    let value = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[i][k]), both, bias);
                    highest[i] = _mm512_max_ps(highest[i], value);
                    _mm512_storeu_ps(scores.as_mut_ptr().add(i * padded + at), value);
                }
            }
        }
    }
    highest.map(|vector| _mm512_reduce_max_ps(vector))
}

/// `2^(score - highest)` in bfloat16, and their sum.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn exponentiate(scores: &[f32], highest: f32, weights: &mut [u16]) -> f32 {
    let highest = _mm512_set1_ps(highest);
    let mut total = _mm512_setzero_ps();
    for (score, weight) in scores
        .chunks_exact(LANES)
        .zip(weights.chunks_exact_mut(LANES))
    {
        // SAFETY: both chunks hold 16 elements.
        unsafe {
            let x = _mm512_sub_ps(_mm512_loadu_ps(score.as_ptr()), highest);
            let power = exp2(x);
            total = _mm512_add_ps(total, power);
            let rounded: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(power));
            _mm256_storeu_si256(weight.as_mut_ptr().cast(), rounded);
        }
    }
    _mm512_reduce_add_ps(total)
}

/// `2^x` for `x <= 0` within 5e-5 of its value, far below a step of bfloat16; next to 0 for minus infinity.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
#[inline]
fn exp2(x: __m512) -> __m512 {
    let x = _mm512_max_ps(x, _mm512_set1_ps(-150.0));
    let whole = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
    let fraction = _mm512_sub_ps(x, whole);
    let mut value = _mm512_set1_ps(LN_2 * LN_2 * LN_2 * LN_2 / 24.0);
    for coefficient in [LN_2 * LN_2 * LN_2 / 6.0, LN_2 * LN_2 / 2.0, LN_2, 1.0] {
        value = _mm512_fmadd_ps(value, fraction, _mm512_set1_ps(coefficient));
    }
    _mm512_scalef_ps(value, whole)
}

/// Sums of values weighted for each query, dimensions `dim .. dim + 32`.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
fn weigh(
    weights: &[u16],
    padded: usize,
    values: &[u16],
    n_ctx: usize,
    head_dim: usize,
    dim: usize,
) -> [[__m512; 2]; QUERIES] {
    let pairs = n_ctx.div_ceil(2);
    assert!(values.len() >= pairs * 2 * head_dim && dim + 2 * LANES <= head_dim);
    assert!(weights.len() >= QUERIES * padded && padded >= 2 * pairs);
    let mut sums = [[_mm512_setzero_ps(); 2]; QUERIES];
    // SAFETY: pair `p < pairs` reads 64 values from `p * 2 * head_dim + 2 * dim`, and two weights of each query; all
    // inside the slices by the checks above.
    unsafe {
        let mut value = values.as_ptr().add(2 * dim);
        let mut weight = weights.as_ptr();
        for _ in 0..pairs {
            let low: __m512bh = std::mem::transmute(_mm512_loadu_si512(value.cast()));
            let high: __m512bh =
                std::mem::transmute(_mm512_loadu_si512(value.add(2 * LANES).cast()));
            for (i, sums) in sums.iter_mut().enumerate() {
                let both = weight.add(i * padded).cast::<i32>().read_unaligned();
                let both: __m512bh = std::mem::transmute(_mm512_set1_epi32(both));
                sums[0] = _mm512_dpbf16_ps(sums[0], both, low);
                sums[1] = _mm512_dpbf16_ps(sums[1], both, high);
            }
            value = value.add(2 * head_dim);
            weight = weight.add(2);
        }
    }
    sums
}
