//! Self-attention with relative positions (Dai et al., 2019, as Conformers have it): the score of a query and a key is
//! the query, with one bias, times the key, plus the query, with another bias, times the position of the one relative
//! to the other. Published graphs compute the second product for every query and every position and then shift rows
//! through padding and reshaping; here each few queries are multiplied by the run of positions they need.
//!
//! A window of `n` frames is a sum over its own frames only, in an order that depends on `n` alone.

use super::activation::exp;
use super::aligned::Scratch;
use super::dispatch::{Simd, dispatch};
use super::tiles::{PANEL, ROWS, multiply_float};

/// One head of one window.
#[derive(Clone, Copy)]
pub struct Head<'a> {
    /// Rows of queries, keys and values of the window, `stride` floats each.
    pub rows: &'a [f32],
    /// Floats of a row.
    pub stride: usize,
    /// Where in a row the query, the key and the value begin.
    pub offsets: [usize; 3],
    /// Frames of the window.
    pub n_frames: usize,
    /// Size of the head.
    pub head_dim: usize,
    /// Rows of positions, from `n_frames - 1` frames before down to as many after, `position_stride` floats each.
    pub positions: &'a [f32],
    /// Floats of a row of positions.
    pub position_stride: usize,
    /// Biases of the query, towards keys and towards positions.
    pub biases: [&'a [f32]; 2],
}

/// Buffers of one thread.
#[derive(Default)]
pub struct Buffers {
    keys: Scratch,
    positions: Scratch,
    values: Scratch,
    queries: Scratch,
    scores: Scratch,
    shifted: Scratch,
}

/// Writes the head's part of every frame; `out` gives the `head_dim` floats of a frame.
pub fn attend<'o>(
    simd: Simd,
    head: Head<'_>,
    out: impl Fn(usize) -> &'o mut [f32],
    buffers: &mut Buffers,
) {
    let Head {
        n_frames,
        head_dim,
        stride,
        ..
    } = head;
    let padded = n_frames.next_multiple_of(PANEL);
    let n_positions = 2 * n_frames - 1;
    // A run of positions may begin anywhere in a panel and end anywhere in another.
    let run = (n_frames + ROWS).next_multiple_of(PANEL) + PANEL;
    let [query_at, key_at, value_at] = head.offsets;

    let keys = buffers.keys.get::<f32>(padded * head_dim);
    pack_turned(&head.rows[key_at..], stride, n_frames, head_dim, keys);
    let positions = buffers
        .positions
        .get::<f32>(n_positions.next_multiple_of(PANEL) * head_dim);
    pack_turned(
        head.positions,
        head.position_stride,
        n_positions,
        head_dim,
        positions,
    );
    let values = buffers
        .values
        .get::<f32>(n_frames * head_dim.next_multiple_of(PANEL));
    pack_values(&head.rows[value_at..], stride, n_frames, head_dim, values);
    let queries = buffers.queries.get::<f32>(2 * ROWS * head_dim);
    let (towards_keys, towards_positions) = queries.split_at_mut(ROWS * head_dim);
    let scores = buffers.scores.get::<f32>(ROWS * padded);
    let shifted = buffers.shifted.get::<f32>(ROWS * run);

    let factor = 1.0 / (head_dim as f32).sqrt();
    let panel_len = head_dim * PANEL;
    let mut sums = [[0.0; PANEL]; ROWS];
    for first in (0..n_frames).step_by(ROWS) {
        let count = ROWS.min(n_frames - first);
        for i in 0..count {
            let query = &head.rows[(first + i) * stride + query_at..][..head_dim];
            for (d, value) in query.iter().enumerate() {
                towards_keys[i * head_dim + d] = (value + head.biases[0][d]) * factor;
                towards_positions[i * head_dim + d] = (value + head.biases[1][d]) * factor;
            }
        }
        for (at, panel) in keys.chunks_exact(panel_len).enumerate() {
            multiply_float(simd, towards_keys, head_dim, count, panel, &mut sums);
            for (i, sums) in sums[..count].iter().enumerate() {
                scores[i * padded + at * PANEL..][..PANEL].copy_from_slice(sums);
            }
        }
        // Query `i` and key `j` meet at position `n_frames - 1 - i + j`.
        let lowest = (n_frames - first - count) / PANEL;
        let highest = (n_positions - 1 - first) / PANEL;
        for at in lowest..=highest {
            let panel = &positions[at * panel_len..][..panel_len];
            multiply_float(simd, towards_positions, head_dim, count, panel, &mut sums);
            for (i, sums) in sums[..count].iter().enumerate() {
                shifted[i * run + (at - lowest) * PANEL..][..PANEL].copy_from_slice(sums);
            }
        }
        let mut inverse = [0.0; ROWS];
        for (i, inverse) in inverse[..count].iter_mut().enumerate() {
            let scores = &mut scores[i * padded..][..n_frames];
            let start = n_frames - 1 - first - i - lowest * PANEL;
            let shifted = &shifted[i * run + start..][..n_frames];
            *inverse = 1.0
                / dispatch!(simd, exponentiate::<VNNI>(scores: &mut [f32], shifted: &[f32]) -> f32);
        }
        for (at, panel) in values.chunks_exact(n_frames * PANEL).enumerate() {
            multiply_float(simd, scores, padded, count, panel, &mut sums);
            let columns = PANEL.min(head_dim - at * PANEL);
            for (i, (sums, inverse)) in sums[..count].iter().zip(&inverse).enumerate() {
                let out = &mut out(first + i)[at * PANEL..][..columns];
                for (out, sum) in out.iter_mut().zip(sums) {
                    *out = sum * inverse;
                }
            }
        }
    }
}

/// `[n, head_dim]` in rows of `stride` floats to panels `[n / PANEL, head_dim, PANEL]`, zeros past the last.
fn pack_turned(rows: &[f32], stride: usize, n: usize, head_dim: usize, packed: &mut [f32]) {
    for (at, panel) in packed.chunks_exact_mut(head_dim * PANEL).enumerate() {
        for column in 0..PANEL {
            let row = at * PANEL + column;
            let panel = panel[column..].iter_mut().step_by(PANEL);
            if row < n {
                let row = &rows[row * stride..][..head_dim];
                panel.zip(row).for_each(|(packed, value)| *packed = *value);
            } else {
                panel.for_each(|packed| *packed = 0.0);
            }
        }
    }
}

/// `[n, head_dim]` in rows of `stride` floats to panels `[head_dim / PANEL, n, PANEL]`, zeros past the last column.
fn pack_values(rows: &[f32], stride: usize, n: usize, head_dim: usize, packed: &mut [f32]) {
    for (at, panel) in packed.chunks_exact_mut(n * PANEL).enumerate() {
        let columns = PANEL.min(head_dim - at * PANEL);
        for (row, packed) in panel.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
            packed.fill(0.0);
            packed[..columns].copy_from_slice(&rows[row * stride + at * PANEL..][..columns]);
        }
    }
}

/// Adds the scores of positions to those of keys, and takes the power of e less the highest; answers their sum.
#[inline(always)]
fn exponentiate<const FUSED: bool>(scores: &mut [f32], shifted: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut highest = [f32::NEG_INFINITY; LANES];
    for (scores, shifted) in scores.chunks_mut(LANES).zip(shifted.chunks(LANES)) {
        for ((score, shifted), highest) in scores.iter_mut().zip(shifted).zip(&mut highest) {
            *score += shifted;
            *highest = if *score > *highest { *score } else { *highest };
        }
    }
    let highest = highest.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut totals = [0.0; LANES];
    for scores in scores.chunks_mut(LANES) {
        for (score, total) in scores.iter_mut().zip(&mut totals) {
            *score = exp::<FUSED>(*score - highest);
            *total += *score;
        }
    }
    totals.into_iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_equals_the_plain_sums_and_rows_of_other_windows_do_not_count() {
        for (n_frames, head_dim) in [(1, 24), (13, 24), (50, 64)] {
            let number = |at: usize| ((at * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
            let stride = 3 * head_dim + 5;
            let rows: Vec<f32> = (0..n_frames * stride).map(number).collect();
            let positions: Vec<f32> = (0..(2 * n_frames - 1) * head_dim)
                .map(|at| number(at + 7))
                .collect();
            let biases: Vec<f32> = (0..2 * head_dim).map(|at| number(at + 3)).collect();
            let head = Head {
                rows: &rows,
                stride,
                offsets: [0, head_dim, 2 * head_dim],
                n_frames,
                head_dim,
                positions: &positions,
                position_stride: head_dim,
                biases: [&biases[..head_dim], &biases[head_dim..]],
            };
            for simd in [Simd::detect(), Simd::Baseline] {
                let mut answer = vec![0.0; n_frames * head_dim];
                let shared = super::super::Shared(answer.as_mut_ptr());
                // SAFETY: frames have parts of their own, and are asked for one at a time.
                let part = |frame: usize| unsafe { shared.part(frame * head_dim, head_dim) };
                attend(simd, head, part, &mut Buffers::default());
                for i in 0..n_frames {
                    let dot = |bias: &[f32], other: &[f32]| -> f32 {
                        (0..head_dim)
                            .map(|d| (rows[i * stride + d] + bias[d]) * other[d])
                            .sum()
                    };
                    let weights: Vec<f32> = (0..n_frames)
                        .map(|j| {
                            let key = dot(head.biases[0], &rows[j * stride + head_dim..]);
                            let position = dot(
                                head.biases[1],
                                &positions[(n_frames - 1 - i + j) * head_dim..],
                            );
                            ((key + position) / (head_dim as f32).sqrt()).exp()
                        })
                        .collect();
                    let total: f32 = weights.iter().sum();
                    for d in 0..head_dim {
                        let wanted: f32 = (0..n_frames)
                            .map(|j| weights[j] * rows[j * stride + 2 * head_dim + d] / total)
                            .sum();
                        assert!((answer[i * head_dim + d] - wanted).abs() < 1e-4, "{simd:?}");
                    }
                }
            }
        }
    }
}
