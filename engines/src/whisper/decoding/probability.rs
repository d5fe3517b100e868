//! Arithmetic on rows of logits. A row is as long as the vocabulary (up to 51,866) and is walked at every step, so the
//! exponential is a polynomial that compilers turn into vector code; its relative error is below 3e-7.

/// Independent sums, so that additions of neighbours do not wait for each other.
const LANES: usize = 16;

/// e to the x for x ≤ 0; below −87 it is 0 for all purposes.
#[inline(always)]
fn exp_negative(x: f32) -> f32 {
    // 2^23 + 2^22: adding it leaves the nearest integer in the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    // Taylor series of 2^f on -0.5..0.5.
    const C: [f32; 7] = [
        1.0,
        std::f32::consts::LN_2,
        0.240_226_5,
        0.055_504_11,
        0.009_618_13,
        0.001_333_356,
        0.000_154_035,
    ];

    let power = x.max(-87.0) * std::f32::consts::LOG2_E;
    let rounded = power + ROUND;
    let f = power - (rounded - ROUND);
    let mantissa = C.iter().rev().fold(0.0, |sum, c| sum * f + c);
    let exponent = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    mantissa * exponent
}

/// The largest value of a row, −∞ for an empty one.
pub(crate) fn max(row: &[f32]) -> f32 {
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = if *x > *lane { *x } else { *lane };
        }
    }
    lanes
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max)
}

/// Logarithm of the sum of exponentials, −∞ when every value is −∞.
pub(crate) fn log_sum_exp(row: &[f32]) -> f32 {
    let top = max(row);
    if top == f32::NEG_INFINITY {
        return top;
    }
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [0.0_f32; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += exp_negative(x - top);
        }
    }
    let sum: f32 =
        lanes.iter().sum::<f32>() + rest.iter().map(|x| exp_negative(x - top)).sum::<f32>();
    top + sum.ln()
}

/// Index of the largest value, the first of equals.
pub(crate) fn argmax(row: &[f32]) -> usize {
    let top = max(row);
    row.iter().position(|x| *x == top).unwrap_or(0)
}

/// Indexes of the `n` largest values, largest first, the first of equals first.
pub(crate) fn top_n(row: &[f32], n: usize) -> Vec<usize> {
    let mut top: Vec<usize> = Vec::with_capacity(n + 1);
    for (at, x) in row.iter().enumerate() {
        if top.len() == n && top.last().is_none_or(|&last| *x <= row[last]) {
            continue;
        }
        let place = top.partition_point(|&other| row[other] >= *x);
        top.insert(place, at);
        top.truncate(n);
    }
    top
}

/// Probability of one entry after softmax.
pub(crate) fn probability(row: &[f32], at: usize) -> f32 {
    (row[at] - log_sum_exp(row)).exp()
}

/// A generator of random numbers (Steele et al., 2014: `SplitMix64`): small, seeded, the same everywhere.
pub(crate) struct Random(u64);

impl Random {
    /// A stream for a seed and a position, so that neighbouring windows do not share one.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        Self(seed ^ stream.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// An index drawn by softmax of the row over a temperature.
    pub(crate) fn sample(&mut self, row: &[f32], temperature: f32) -> usize {
        let top = max(row);
        let weight = |x: &f32| f64::from((x - top) / temperature).exp();
        let total: f64 = row.iter().map(weight).sum();
        let mut left = self.uniform() * total;
        for (at, x) in row.iter().enumerate() {
            left -= weight(x);
            if left < 0.0 {
                return at;
            }
        }
        argmax(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_exponential_is_as_exact_as_floats_are() {
        for i in 0..=8600_i32 {
            let x = -(i as f32) / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp_negative(x)) - exact).abs() / exact;
            assert!(error < 5e-6, "{x}: {error}");
        }
        assert_eq!(exp_negative(0.0), 1.0);
        assert!(exp_negative(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn probabilities_sum_to_one_and_ignore_suppressed_entries() {
        let row: Vec<f32> = (0..1003)
            .map(|i| {
                if i % 3 == 0 {
                    f32::NEG_INFINITY
                } else {
                    (i as f32 * 0.7).sin() * 9.0
                }
            })
            .collect();
        let sum: f32 = (0..row.len()).map(|at| probability(&row, at)).sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 20]), f32::NEG_INFINITY);
    }

    #[test]
    fn the_first_of_equals_wins() {
        let mut row = vec![0.0; 40];
        row[7] = 2.0;
        row[35] = 2.0;
        row[20] = 1.0;
        assert_eq!(argmax(&row), 7);
        assert_eq!(top_n(&row, 3), [7, 35, 20]);
    }

    #[test]
    fn samples_follow_the_distribution_and_the_seed() {
        let row = [1.0_f32.ln(), 3.0_f32.ln(), f32::NEG_INFINITY];
        let mut random = Random::new(1, 2);
        let draws: Vec<usize> = (0..4000).map(|_| random.sample(&row, 1.0)).collect();
        let ones = draws.iter().filter(|&&at| at == 1).count();
        assert!((2850..3150).contains(&ones), "{ones}");
        assert!(!draws.contains(&2));
        let mut again = Random::new(1, 2);
        assert!(draws.iter().all(|&at| at == again.sample(&row, 1.0)));
    }
}
