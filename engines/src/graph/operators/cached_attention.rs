//! Causal self-attention of the decoder over a cache of fixed size that is written in place: nothing is concatenated,
//! and a batch is rearranged by renumbering its slots.

use super::aligned::Scratch;
use super::cross_attention::exponentiate;
use super::dispatch::{Simd, dispatch};

/// Partial sums of a product, a vector register's worth.
const LANES: usize = 16;

/// One head of one sequence: writes the keys and values of its new tokens into the cache and answers their attention.
pub struct Step<'a> {
    /// Query, key and value of each new token: rows of `stride` floats.
    pub qkv: &'a [f32],
    /// Floats from one token's row to the next.
    pub stride: usize,
    /// Where query, key and value of this head start in a row.
    pub at: [usize; 3],
    /// Channels of a head.
    pub head_dim: usize,
    /// Tokens in the cache before these.
    pub past: usize,
    /// Keys `[n_text_ctx, head_dim]`.
    pub keys: &'a mut [f32],
    /// Values `[n_text_ctx, head_dim]`.
    pub values: &'a mut [f32],
}

/// Runs a step: token `i` sees the cache and tokens `0..=i`, and its result goes to `out(i)`, `[head_dim]`.
pub fn attend<'o>(
    simd: Simd,
    step: Step<'_>,
    out: impl Fn(usize) -> &'o mut [f32],
    buffer: &mut Scratch,
) {
    let mut step = step;
    for i in 0..step.qkv.len() / step.stride {
        let (step, out) = (&mut step, out(i));
        dispatch!(simd, attend_kernel::<VNNI>(step: &mut Step<'_>, i: usize, out: &mut [f32], buffer: &mut Scratch));
    }
}

#[inline(always)]
fn attend_kernel<const VNNI: bool>(
    step: &mut Step<'_>,
    i: usize,
    out: &mut [f32],
    buffer: &mut Scratch,
) {
    let head_dim = step.head_dim;
    let [query_at, key_at, value_at] = step.at;
    let row = &step.qkv[i * step.stride..][..step.stride];
    let position = step.past + i;
    step.keys[position * head_dim..][..head_dim].copy_from_slice(&row[key_at..][..head_dim]);
    step.values[position * head_dim..][..head_dim].copy_from_slice(&row[value_at..][..head_dim]);
    let query = &row[query_at..][..head_dim];
    let scale = 1.0 / (head_dim as f32).sqrt();
    let weights = buffer.get::<f32>(position + 1);
    for (weight, key) in weights.iter_mut().zip(step.keys.chunks_exact(head_dim)) {
        *weight = dot(query, key) * scale;
    }
    let inverse = 1.0 / exponentiate(weights);
    out.fill(0.0);
    for (weight, value) in weights.iter().zip(step.values.chunks_exact(head_dim)) {
        let weight = weight * inverse;
        for (sum, value) in out.iter_mut().zip(value) {
            *sum += weight * value;
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks
        .remainder()
        .iter()
        .zip(b_chunks.remainder())
        .map(|(a, b)| a * b)
        .sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    // Halves onto halves: adding one lane after the other would wait for every sum.
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
        half /= 2;
    }
    rest + sums[0]
}
