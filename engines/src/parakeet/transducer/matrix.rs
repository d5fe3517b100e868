//! Products of a few rows with a large constant matrix: what a transducer does at every step. The matrix lies in panels
//! of [`PANEL`] columns, so that it is read once, in order, for all rows.

use crate::graph::operators::dispatch::{Simd, dispatch};

/// Columns of a panel: two registers of the widest kind.
const PANEL: usize = 32;
/// Rows multiplied at once: what fits into registers beside a panel's sums.
const ROWS: usize = 4;

/// A constant matrix `[n_in, n_out]` with a bias.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    n_in: usize,
    n_out: usize,
    /// `[panels, n_in, PANEL]`, zeros past the last column.
    panels: Vec<f32>,
    /// Zeros past the last column.
    bias: Vec<f32>,
    simd: Simd,
}

impl Matrix {
    /// Packs `values` `[n_in, n_out]`; `bias` has `n_out` numbers.
    pub(crate) fn new(values: &[f32], n_in: usize, n_out: usize, mut bias: Vec<f32>) -> Self {
        let n_panels = n_out.div_ceil(PANEL);
        let mut panels = vec![0.0; n_panels * n_in * PANEL];
        for (panel, packed) in panels.chunks_exact_mut((n_in * PANEL).max(1)).enumerate() {
            let columns = PANEL.min(n_out - panel * PANEL);
            for (row, packed) in packed.chunks_exact_mut(PANEL).enumerate() {
                packed[..columns]
                    .copy_from_slice(&values[row * n_out + panel * PANEL..][..columns]);
            }
        }
        bias.resize(n_panels * PANEL, 0.0);
        Self {
            n_in,
            n_out,
            panels,
            bias,
            simd: Simd::detect(),
        }
    }

    /// Columns.
    pub(crate) fn n_out(&self) -> usize {
        self.n_out
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> u64 {
        (4 * (self.panels.len() + self.bias.len())) as u64
    }

    /// `out` becomes `rows` times the matrix plus the bias. `rows` is `[n, n_in]`, `out` `[n, n_out]`.
    pub(crate) fn multiply(&self, rows: &[f32], out: &mut Vec<f32>) {
        let n = rows.len() / self.n_in.max(1);
        out.clear();
        out.resize(n * self.n_out, 0.0);
        let (matrix, out) = (self, &mut out[..]);
        dispatch!(self.simd, multiply::<VNNI>(matrix: &Matrix, rows: &[f32], out: &mut [f32]));
    }
}

#[inline(always)]
fn multiply<const FUSED: bool>(matrix: &Matrix, rows: &[f32], out: &mut [f32]) {
    let n = rows.len() / matrix.n_in.max(1);
    for panel in 0..matrix.n_out.div_ceil(PANEL) {
        let mut row = 0;
        while row < n {
            match n - row {
                1 => block::<FUSED, 1>(matrix, panel, row, rows, out),
                2 => block::<FUSED, 2>(matrix, panel, row, rows, out),
                3 => block::<FUSED, 3>(matrix, panel, row, rows, out),
                _ => block::<FUSED, ROWS>(matrix, panel, row, rows, out),
            }
            row += ROWS;
        }
    }
}

/// `R` rows from `first` on, times one panel.
#[inline(always)]
fn block<const FUSED: bool, const R: usize>(
    matrix: &Matrix,
    panel: usize,
    first: usize,
    rows: &[f32],
    out: &mut [f32],
) {
    let n_in = matrix.n_in;
    let weights = &matrix.panels[panel * n_in * PANEL..][..n_in * PANEL];
    let mut sums = [[0.0_f32; PANEL]; R];
    for sums in &mut sums {
        sums.copy_from_slice(&matrix.bias[panel * PANEL..][..PANEL]);
    }
    let inputs: [&[f32]; R] = std::array::from_fn(|r| &rows[(first + r) * n_in..][..n_in]);
    for (at, weights) in weights.as_chunks::<PANEL>().0.iter().enumerate() {
        for (sums, input) in sums.iter_mut().zip(&inputs) {
            let value = input[at];
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = if FUSED {
                    value.mul_add(*weight, *sum)
                } else {
                    *sum + value * weight
                };
            }
        }
    }
    let columns = PANEL.min(matrix.n_out - panel * PANEL);
    for (r, sums) in sums.iter().enumerate() {
        out[(first + r) * matrix.n_out + panel * PANEL..][..columns]
            .copy_from_slice(&sums[..columns]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_equal_the_plain_loop_for_any_number_of_rows_and_columns() {
        for (n_in, n_out) in [(3, 1), (40, 32), (96, 70), (7, 129)] {
            let number = |at: usize| ((at * 7919 + 13) % 101) as f32 / 50.0 - 1.0;
            let values: Vec<f32> = (0..n_in * n_out).map(number).collect();
            let bias: Vec<f32> = (0..n_out).map(|at| number(at + 5)).collect();
            let matrix = Matrix::new(&values, n_in, n_out, bias.clone());
            for n in [1, 2, 3, 4, 5, 9] {
                let rows: Vec<f32> = (0..n * n_in).map(|at| number(at + 31)).collect();
                let mut out = Vec::new();
                matrix.multiply(&rows, &mut out);
                for row in 0..n {
                    for column in 0..n_out {
                        let plain: f32 = (0..n_in)
                            .map(|at| rows[row * n_in + at] * values[at * n_out + column])
                            .sum::<f32>()
                            + bias[column];
                        assert!((out[row * n_out + column] - plain).abs() < 1e-4);
                    }
                }
            }
        }
    }
}
