//! Products of a few rows with a large constant matrix: what a transducer does at every step.

use crate::graph::operators::dispatch::Simd;
use crate::graph::operators::tiles::{PANEL, ROWS, multiply_float, pack_float};

/// A constant matrix `[n_in, n_out]` with a bias.
#[derive(Debug, Clone)]
pub(crate) struct Matrix {
    n_in: usize,
    n_out: usize,
    panels: Vec<f32>,
    bias: Vec<f32>,
    simd: Simd,
}

impl Matrix {
    /// Packs `values` `[n_in, n_out]`; `bias` has `n_out` numbers.
    pub(crate) fn new(values: &[f32], n_in: usize, n_out: usize, bias: Vec<f32>) -> Self {
        Self {
            n_in,
            n_out,
            panels: pack_float(values, n_in, n_out),
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
        let mut sums = [[0.0; PANEL]; ROWS];
        // A panel is read once, for all rows.
        for (at, panel) in self
            .panels
            .chunks_exact((self.n_in * PANEL).max(1))
            .enumerate()
        {
            let bias = &self.bias[at * PANEL..self.n_out.min((at + 1) * PANEL)];
            for first in (0..n).step_by(ROWS) {
                let count = ROWS.min(n - first);
                let rows = &rows[first * self.n_in..];
                multiply_float(self.simd, rows, self.n_in, count, panel, &mut sums);
                for (row, sums) in sums[..count].iter().enumerate() {
                    let out = &mut out[(first + row) * self.n_out + at * PANEL..];
                    for ((out, sum), bias) in out.iter_mut().zip(sums).zip(bias) {
                        *out = sum + bias;
                    }
                }
            }
        }
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
