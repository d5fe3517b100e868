//! Products of rows with a constant matrix, and what follows them: bias, activation, the sum with what went round.
//!
//! In 8 bits every row of the input has a scale and a zero point of its own, so that a row's result does not depend on
//! what else is in the batch (one scale for a whole tensor, as dynamic quantisation has it, mixes all windows). Weights
//! stay the unsigned bytes of the published file.

use std::ops::Range;

use super::Shared;
use super::activation::{gelu, multiply_add, sigmoid};
use super::dispatch::{Simd, dispatch};
use super::tiles::{PANEL, QUAD, ROWS, Sums, multiply_bytes, multiply_float};

/// Rows that are multiplied by a panel before the next: with bytes they stay in the second-level cache, with floats
/// the weights do.
const BLOCK: usize = 32 * ROWS;

/// What happens to a sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// `x * sigmoid(x)`.
    Swish,
    /// Negative numbers become 0.
    Relu,
    /// `x * (1 + erf(x / √2)) / 2`.
    Gelu,
}

impl Activation {
    /// All, in the order of the operators' attribute.
    pub const ALL: [Self; 4] = [Self::None, Self::Swish, Self::Relu, Self::Gelu];

    /// Its number in the operators' attribute.
    pub fn number(self) -> i64 {
        self as i64
    }
}

/// A constant matrix with a bias, as the graph file has them.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// Rows.
    pub n_in: usize,
    /// Columns.
    pub n_out: usize,
    /// Values.
    pub weights: Weights<'a>,
}

/// The values of a [`Matrix`]; what counts columns is padded to whole panels.
#[derive(Debug, Clone, Copy)]
pub enum Weights<'a> {
    /// Floats, packed by [`super::tiles::pack_float`].
    Float {
        /// Panels.
        panels: &'a [f32],
        /// Bias of each column.
        bias: &'a [f32],
    },
    /// Bytes, packed by [`super::tiles::pack_bytes`]: `(byte - zero) * scale`.
    Int8 {
        /// Panels.
        panels: &'a [u8],
        /// Sums of the columns' bytes, then their zero points.
        integers: &'a [i32],
        /// Scales of the columns, then their biases.
        floats: &'a [f32],
    },
}

/// Rows made ready for products with a [`Matrix`].
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// As they are.
    Float(&'a [f32]),
    /// Bytes, and what they stand for.
    Int8(&'a [i8], &'a [Scale]),
}

/// What the bytes of a row stand for: `(byte - zero) * scale`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scale {
    scale: f32,
    zero: i32,
    /// Of all bytes.
    sum: i32,
}

/// Where results go.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// `[rows, n_out]`.
    pub(super) out: Shared<f32>,
    /// What becomes of the sums.
    pub activation: Activation,
    /// `[rows, n_out]`: what results are added to, after multiplying them by a factor.
    pub residual: Option<(&'a [f32], f32)>,
}

impl<'a> Matrix<'a> {
    /// Whether everything has the sizes it should.
    pub fn fits(&self) -> bool {
        let (panels, columns) = (self.n_panels(), self.n_panels() * PANEL);
        match self.weights {
            Weights::Float {
                panels: weights,
                bias,
            } => weights.len() == panels * self.panel_len() && bias.len() == columns,
            Weights::Int8 {
                panels: weights,
                integers,
                floats,
            } => {
                weights.len() == panels * self.panel_len()
                    && integers.len() == 2 * columns
                    && floats.len() == 2 * columns
            }
        }
    }

    /// Bytes of a row in [`Rows::Int8`].
    pub fn row_bytes(&self) -> usize {
        self.n_in.next_multiple_of(QUAD)
    }

    fn n_panels(&self) -> usize {
        self.n_out.div_ceil(PANEL)
    }

    fn panel_len(&self) -> usize {
        match self.weights {
            Weights::Float { .. } => self.n_in * PANEL,
            Weights::Int8 { .. } => self.row_bytes() * PANEL,
        }
    }

    /// Pieces that [`Matrix::multiply`] divides a product of so many rows into.
    pub fn n_pieces(&self, n_rows: usize) -> usize {
        self.n_panels() * n_rows.div_ceil(BLOCK)
    }

    /// One piece of the product of all `rows`.
    ///
    /// # Safety
    /// `output.out` has a row of `n_out` floats for each of `rows`, and nobody else touches those of this piece.
    pub unsafe fn multiply(&self, simd: Simd, rows: Rows<'a>, piece: usize, output: Output<'_>) {
        let n_rows = match rows {
            Rows::Float(rows) => rows.len() / self.n_in,
            Rows::Int8(_, scales) => scales.len(),
        };
        let (block, panel) = (piece / self.n_panels(), piece % self.n_panels());
        let columns = panel * PANEL..self.n_out.min((panel + 1) * PANEL);
        let end = n_rows.min((block + 1) * BLOCK);
        let (mut sums, mut values) = ([[0; PANEL]; ROWS], [[0.0; PANEL]; ROWS]);
        for first in (block * BLOCK..end).step_by(ROWS) {
            let tile = first..end.min(first + ROWS);
            self.tile(simd, rows, panel, tile.clone(), (&mut sums, &mut values));
            let (finished, n_out) = (&mut values, self.n_out);
            let (rows_of_tile, columns_of_panel) = (tile.clone(), columns.clone());
            dispatch!(simd, finish::<VNNI>(
                finished: &mut Sums<f32>,
                n_out: usize,
                rows_of_tile: Range<usize>,
                columns_of_panel: Range<usize>,
                output: Output<'_>,
            ));
            for (values, row) in values.iter().zip(tile) {
                // SAFETY: the caller's contract; tiles of a piece follow each other.
                unsafe { output.out.part(row * n_out + columns.start, columns.len()) }
                    .copy_from_slice(&values[..columns.len()]);
            }
        }
    }

    /// Products of up to [`ROWS`] rows with a panel, bias included.
    fn tile(
        &self,
        simd: Simd,
        rows: Rows<'_>,
        panel: usize,
        tile: Range<usize>,
        (sums, values): (&mut Sums<i32>, &mut Sums<f32>),
    ) {
        let columns = panel * PANEL..(panel + 1) * PANEL;
        let size = self.panel_len();
        match (self.weights, rows) {
            (Weights::Float { panels, bias }, Rows::Float(rows)) => {
                let panel = &panels[panel * size..][..size];
                let rows = &rows[tile.start * self.n_in..];
                multiply_float(simd, rows, self.n_in, tile.len(), panel, values);
                for values in &mut values[..tile.len()] {
                    for (value, bias) in values.iter_mut().zip(&bias[columns.clone()]) {
                        *value += bias;
                    }
                }
            }
            (
                Weights::Int8 {
                    panels,
                    integers,
                    floats,
                },
                Rows::Int8(bytes, scales),
            ) => {
                let stride = self.row_bytes();
                let panel = &panels[panel * size..][..size];
                let bytes = &bytes[tile.start * stride..];
                multiply_bytes(simd, bytes, stride, tile.len(), panel, sums);
                let (column_sums, zeros) = integers.split_at(integers.len() / 2);
                let (factors, bias) = floats.split_at(floats.len() / 2);
                let (column_sums, zeros) = (&column_sums[columns.clone()], &zeros[columns.clone()]);
                let (factors, bias) = (&factors[columns.clone()], &bias[columns]);
                let (sums, scales, n_in) = (&*sums, &scales[tile], self.n_in);
                dispatch!(simd, dequantize::<VNNI>(
                    sums: &Sums<i32>,
                    scales: &[Scale],
                    n_in: usize,
                    column_sums: &[i32],
                    zeros: &[i32],
                    factors: &[f32],
                    bias: &[f32],
                    values: &mut Sums<f32>,
                ));
            }
            _ => debug_assert!(false, "rows and weights are of one kind"),
        }
    }
}

#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "an inner kernel over borrowed buffers"
)]
fn dequantize<const FUSED: bool>(
    sums: &Sums<i32>,
    scales: &[Scale],
    n_in: usize,
    column_sums: &[i32],
    zeros: &[i32],
    factors: &[f32],
    bias: &[f32],
    values: &mut Sums<f32>,
) {
    for ((values, sums), row) in values.iter_mut().zip(sums).zip(scales) {
        // The sum over (byte - zero of the row) * (weight - zero of the column), multiplied out.
        let centred = row.sum - n_in as i32 * row.zero;
        for column in 0..PANEL {
            let sum = sums[column] - row.zero * column_sums[column] - centred * zeros[column];
            values[column] =
                multiply_add::<FUSED>(sum as f32, row.scale * factors[column], bias[column]);
        }
    }
}

/// Rounds rows of `n_in` floats to bytes, each with the scale that its own smallest and largest number need.
pub fn quantize(simd: Simd, rows: &[f32], n_in: usize, bytes: &mut [i8], scales: &mut [Scale]) {
    dispatch!(simd, quantize_rows::<VNNI>(
        rows: &[f32], n_in: usize, bytes: &mut [i8], scales: &mut [Scale],
    ));
}

#[inline(always)]
fn quantize_rows<const FUSED: bool>(
    rows: &[f32],
    n_in: usize,
    bytes: &mut [i8],
    scales: &mut [Scale],
) {
    /// Added, it rounds to a whole number, and leaves that in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LANES: usize = 16;
    let bytes = bytes.chunks_exact_mut(n_in.next_multiple_of(QUAD));
    for ((row, bytes), scale) in rows.chunks_exact(n_in).zip(bytes).zip(scales) {
        // Zero is always exact.
        let (mut low, mut high) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let (whole, rest) = row.as_chunks::<LANES>();
        for values in whole {
            for ((low, high), value) in low.iter_mut().zip(&mut high).zip(values) {
                *low = if *value < *low { *value } else { *low };
                *high = if *value > *high { *value } else { *high };
            }
        }
        for (value, (low, high)) in rest.iter().zip(low.iter_mut().zip(&mut high)) {
            *low = low.min(*value);
            *high = high.max(*value);
        }
        let low = low.into_iter().fold(0.0, f32::min);
        let high = high.into_iter().fold(0.0, f32::max);
        let range = high - low;
        let inverse = if range > 0.0 { 255.0 / range } else { 0.0 };
        let zero = (-128.0 - low * inverse).round_ties_even() as i32;
        let offset = zero.wrapping_sub(ROUND.to_bits() as i32);
        let mut sum = 0_i32;
        let (values, padding) = bytes.split_at_mut(n_in);
        for (byte, value) in values.iter_mut().zip(row) {
            let rounded = (multiply_add::<FUSED>(*value, inverse, ROUND)).to_bits() as i32;
            let rounded = rounded.wrapping_add(offset).clamp(-128, 127);
            sum += rounded;
            *byte = rounded as i8;
        }
        padding.fill(0);
        *scale = Scale {
            scale: range / 255.0,
            zero,
            sum,
        };
    }
}

/// Activation and sum of a tile.
#[inline(always)]
fn finish<const FUSED: bool>(
    values: &mut Sums<f32>,
    n_out: usize,
    tile: Range<usize>,
    columns: Range<usize>,
    output: Output<'_>,
) {
    for (values, row) in values.iter_mut().zip(tile) {
        match output.activation {
            Activation::None => {}
            Activation::Swish => {
                for value in values.iter_mut() {
                    *value *= sigmoid::<FUSED>(*value);
                }
            }
            Activation::Relu => {
                for value in values.iter_mut() {
                    *value = if *value > 0.0 { *value } else { 0.0 };
                }
            }
            Activation::Gelu => {
                for value in values.iter_mut() {
                    *value = gelu::<FUSED>(*value);
                }
            }
        }
        let values = &mut values[..columns.len()];
        if let Some((residual, factor)) = output.residual {
            let at = row * n_out + columns.start;
            for (value, before) in values.iter_mut().zip(&residual[at..][..columns.len()]) {
                *value = multiply_add::<FUSED>(factor, *value, *before);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::super::tiles::{pack_bytes, pack_float};
    use super::*;

    fn number(at: usize) -> f32 {
        ((at * 7919 + 13) % 251) as f32 / 125.0 - 1.0
    }

    fn product(
        matrix: &Matrix<'_>,
        simd: Simd,
        rows: &[f32],
        output: (Activation, Option<(&[f32], f32)>),
    ) -> Vec<f32> {
        assert!(matrix.fits());
        let n = rows.len() / matrix.n_in;
        let mut out = vec![0.0; n * matrix.n_out];
        let (mut bytes, mut scales) = (vec![0; n * matrix.row_bytes()], vec![Scale::default(); n]);
        let rows = match matrix.weights {
            Weights::Float { .. } => Rows::Float(rows),
            Weights::Int8 { .. } => {
                quantize(simd, rows, matrix.n_in, &mut bytes, &mut scales);
                Rows::Int8(&bytes, &scales)
            }
        };
        for piece in 0..matrix.n_pieces(n) {
            let output = Output {
                out: Shared(out.as_mut_ptr()),
                activation: output.0,
                residual: output.1,
            };
            // SAFETY: `out` has a row for each of `rows`, and pieces are computed one after the other.
            unsafe { matrix.multiply(simd, rows, piece, output) };
        }
        out
    }

    #[test]
    fn products_in_floats_and_bytes_equal_the_plain_loop() {
        let (n_in, n_out, n) = (70, 45, 29);
        let rows: Vec<f32> = (0..n * n_in).map(|at| number(at) + 0.4).collect();
        let bytes: Vec<u8> = (0..n_in * n_out).map(|at| (at * 31 % 256) as u8).collect();
        let (scale, zero, columns) = (0.01, 100, n_out.next_multiple_of(PANEL));
        let values: Vec<f32> = bytes
            .iter()
            .map(|&byte| (f32::from(byte) - zero as f32) * scale)
            .collect();
        let bias: Vec<f32> = (0..columns)
            .map(|at| if at < n_out { number(at) } else { 0.0 })
            .collect();
        let plain = |row: usize, column: usize| {
            (0..n_in)
                .map(|at| rows[row * n_in + at] * values[at * n_out + column])
                .sum::<f32>()
                + bias[column]
        };
        let panels = pack_float(&values, n_in, n_out);
        let float = Matrix {
            n_in,
            n_out,
            weights: Weights::Float {
                panels: &panels,
                bias: &bias,
            },
        };
        let panels = pack_bytes(&bytes, n_in, n_out);
        let mut integers: Vec<i32> = (0..columns)
            .map(|column| {
                if column < n_out {
                    (0..n_in)
                        .map(|at| i32::from(bytes[at * n_out + column]))
                        .sum()
                } else {
                    0
                }
            })
            .collect();
        integers.resize(2 * columns, zero);
        let mut floats = vec![scale; columns];
        floats.extend(&bias);
        let int8 = Matrix {
            n_in,
            n_out,
            weights: Weights::Int8 {
                panels: &panels,
                integers: &integers,
                floats: &floats,
            },
        };
        let residual: Vec<f32> = (0..n * n_out).map(number).collect();
        for simd in [Simd::detect(), Simd::Baseline] {
            for (matrix, tolerance) in [(float, 1e-4), (int8, 0.08)] {
                let none = product(
                    &matrix,
                    simd,
                    &rows,
                    (Activation::None, Some((&residual, 0.5))),
                );
                let swish = product(&matrix, simd, &rows, (Activation::Swish, None));
                let relu = product(&matrix, simd, &rows, (Activation::Relu, None));
                for at in 0..n * n_out {
                    let wanted = plain(at / n_out, at % n_out);
                    assert!((none[at] - (residual[at] + 0.5 * wanted)).abs() < tolerance);
                    assert!((swish[at] - wanted / (1.0 + (-wanted).exp())).abs() < 1.1 * tolerance);
                    assert!((relu[at] - wanted.max(0.0)).abs() < tolerance);
                }
                for (row, one) in rows.chunks_exact(n_in).enumerate() {
                    let alone = product(&matrix, simd, one, (Activation::Swish, None));
                    assert_eq!(alone, swish[row * n_out..][..n_out], "{simd:?}");
                }
            }
        }
    }

    #[test]
    fn a_row_of_nothing_and_a_row_of_one_sign_keep_zero_exact() {
        let rows = [
            [0.0; 6],
            [0.5, 1.0, 0.0, 2.0, 0.25, 1.5],
            [-3.0, -1.0, 0.0, -2.0, -0.5, -0.1],
        ]
        .concat();
        let (mut bytes, mut scales) = (vec![0; 24], [Scale::default(); 3]);
        quantize(Simd::Baseline, &rows, 6, &mut bytes, &mut scales);
        for (row, (bytes, scale)) in rows.chunks(6).zip(bytes.chunks(8).zip(scales)) {
            for (value, byte) in row.iter().zip(bytes) {
                let back = (i32::from(*byte) - scale.zero) as f32 * scale.scale;
                assert!(
                    (value - back).abs() <= scale.scale / 2.0 + 1e-6,
                    "{value} {back}"
                );
                assert!(*value != 0.0 || back == 0.0);
            }
        }
    }
}
