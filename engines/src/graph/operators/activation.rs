//! The functions between products, in forms that compilers turn into vector instructions.

/// `e^x` within two units in the last place, for `x` between -87 and 88; what lies outside is moved to the edge.
#[inline(always)]
pub fn exp<const FUSED: bool>(x: f32) -> f32 {
    /// Added and taken off again, it rounds to a whole number, and leaves that in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// The logarithm of 2 in two parts: a multiple of the first is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// Taylor's, with the error of leaving the rest out spread over them (Cephes, Moshier 1992).
    const COEFFICIENTS: [f32; 5] = [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = multiply_add::<FUSED>(whole, -LN_2[1], multiply_add::<FUSED>(whole, -LN_2[0], x));
    let mut value = 1.987_569_1e-4;
    for coefficient in COEFFICIENTS {
        value = multiply_add::<FUSED>(value, rest, coefficient);
    }
    value = multiply_add::<FUSED>(value, rest * rest, rest) + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits());
    value * f32::from_bits(exponent.wrapping_add(127) << 23)
}

/// The logistic function.
#[inline(always)]
pub fn sigmoid<const FUSED: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FUSED>(-x))
}

/// The share of a normal distribution below `x`, times `x`, within 3e-7 of its value (Abramowitz and Stegun 1964, 7.1.26).
#[inline(always)]
pub fn gelu<const FUSED: bool>(x: f32) -> f32 {
    /// Of the polynomial, the highest power first, halved.
    const COEFFICIENTS: [f32; 4] = [-0.726_576, 0.710_706_9, -0.142_248_37, 0.127_414_8];
    let size = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / multiply_add::<FUSED>(0.327_591_1, size, 1.0);
    let mut tail = 0.530_702_7;
    for coefficient in COEFFICIENTS {
        tail = multiply_add::<FUSED>(tail, t, coefficient);
    }
    // What lies beyond |x| on one side.
    let tail = tail * t * exp::<FUSED>(-size * size);
    x * if x < 0.0 { tail } else { 1.0 - tail }
}

/// `a * b + c`, rounded once where the processor can.
#[inline(always)]
pub fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_e_are_as_good_as_the_standard_librarys() {
        for at in -8_700..8_800 {
            let x = at as f32 / 100.0;
            for value in [exp::<false>(x), exp::<true>(x)] {
                assert!((value / x.exp() - 1.0).abs() < 3e-7, "{x}: {value}");
            }
        }
        assert!(exp::<false>(-1e9) < 1e-37 && exp::<true>(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn gelu_weighs_by_the_normal_distribution() {
        // By the distribution's table.
        for (x, share) in [
            (0.0, 0.5),
            (1.0, 0.841_344_7),
            (-1.0, 0.158_655_3),
            (2.5, 0.993_790_3),
            (-3.0, 0.001_349_898),
        ] {
            for value in [gelu::<false>(x), gelu::<true>(x)] {
                assert!((value - x * share).abs() < 3e-7, "{x}: {value}");
            }
        }
        // Between them: its derivative is the density, so that steps of the share add up.
        let mut share = 0.5_f64;
        for at in 1..6_000 {
            let x = f64::from(at) / 1_000.0;
            let middle = x - 0.000_5;
            share += 0.001 * (-middle * middle / 2.0).exp() / std::f64::consts::TAU.sqrt();
            let (above, below) = (gelu::<true>(x as f32), gelu::<true>(-x as f32));
            assert!((f64::from(above) - x * share).abs() < 2e-6, "{x}: {above}");
            assert!(
                (f64::from(below) + x * (1.0 - share)).abs() < 2e-6,
                "{x}: {below}"
            );
        }
        assert_eq!(gelu::<false>(60.0), 60.0);
        assert!(gelu::<false>(-60.0).abs() < 1e-30);
    }
}
