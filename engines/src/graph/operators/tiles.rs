//! The innermost products: up to [`ROWS`] rows times one panel of a constant matrix, [`PANEL`] columns wide. Everything
//! large that our own operators compute goes through these two functions, in floats or in bytes.
//!
//! A sum is taken in the order of the panel's rows, whatever other rows are multiplied beside it, so what comes out for
//! a row never depends on its neighbours: not in integers, and not in floats either.

#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use super::dispatch::Simd;

/// Columns of a panel: two registers of the widest kind.
pub const PANEL: usize = 32;
/// Rows multiplied at once: their sums fill 24 of 32 registers.
pub const ROWS: usize = 12;
/// Bytes of a row that are multiplied in one instruction, side by side in a panel of bytes.
pub const QUAD: usize = 4;

/// Sums of a tile.
pub type Sums<T> = [[T; PANEL]; ROWS];

/// Columns of a matrix with what fills its last panel.
pub fn padded_columns(n_out: usize) -> usize {
    n_out.next_multiple_of(PANEL)
}

/// Packs a matrix `[n_in, n_out]` into panels `[n_out / PANEL, n_in, PANEL]`, zeros past the last column.
pub fn pack_float(values: &[f32], n_in: usize, n_out: usize) -> Vec<f32> {
    let mut packed = vec![0.0; n_out.div_ceil(PANEL) * n_in * PANEL];
    for (panel, packed) in packed.chunks_exact_mut((n_in * PANEL).max(1)).enumerate() {
        let columns = PANEL.min(n_out - panel * PANEL);
        for (row, packed) in packed.chunks_exact_mut(PANEL).enumerate() {
            packed[..columns].copy_from_slice(&values[row * n_out + panel * PANEL..][..columns]);
        }
    }
    packed
}

/// Packs bytes `[n_in, n_out]` into panels `[n_out / PANEL, n_in / QUAD, PANEL, QUAD]`, zeros past the last of both.
pub fn pack_bytes(values: &[u8], n_in: usize, n_out: usize) -> Vec<u8> {
    let quads = n_in.div_ceil(QUAD);
    let mut packed = vec![0; n_out.div_ceil(PANEL) * quads * PANEL * QUAD];
    for (row, values) in values.chunks_exact(n_out.max(1)).enumerate() {
        for (column, value) in values.iter().enumerate() {
            let quad = (column / PANEL * quads + row / QUAD) * PANEL + column % PANEL;
            packed[quad * QUAD + row % QUAD] = *value;
        }
    }
    packed
}

/// The first `count` rows of `rows`, `stride` floats apart, times a panel `[n_in, PANEL]`.
#[inline]
pub fn multiply_float(
    simd: Simd,
    rows: &[f32],
    stride: usize,
    count: usize,
    panel: &[f32],
    sums: &mut Sums<f32>,
) {
    in_groups((rows, stride), count, panel, sums, |rows, left, sums| {
        // SAFETY: `Simd::detect` found the features; `in_groups` checked that there are `left` rows.
        #[cfg_attr(
            not(target_arch = "x86_64"),
            expect(unused_unsafe, reason = "other processors have the plain loop only")
        )]
        unsafe {
            match (simd, left) {
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx512Vnni, 12..) => avx512_float::<12>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx512Vnni, 6..) => avx512_float::<6>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx512Vnni, 3..) => avx512_float::<3>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx512Vnni, 2) => avx512_float::<2>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx512Vnni, _) => avx512_float::<1>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx2, _) => avx2_float(rows, panel, sums),
                _ => plain_float::<{ cfg!(target_arch = "aarch64") }>(rows, panel, sums),
            }
        }
    });
}

/// The first `count` rows of `rows`, `stride` bytes apart, times a panel of bytes `[n_in / QUAD, PANEL, QUAD]`.
#[inline]
pub fn multiply_bytes(
    simd: Simd,
    rows: &[i8],
    stride: usize,
    count: usize,
    panel: &[u8],
    sums: &mut Sums<i32>,
) {
    in_groups((rows, stride), count, panel, sums, |rows, left, sums| {
        // SAFETY: as in `multiply_float`.
        unsafe {
            match (simd, left) {
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx512Vnni, 12..) => avx512_bytes::<12, 1>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx512Vnni, 6..) => avx512_bytes::<6, 1>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx512Vnni, 3..) => avx512_bytes::<3, 2>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx512Vnni, 2) => avx512_bytes::<2, 4>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx512Vnni, _) => avx512_bytes::<1, 4>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx2, 3..) => avx2_bytes::<3>(rows, stride, panel, sums),
                #[cfg(target_arch = "x86_64")]
                (Simd::Avx2, _) => avx2_bytes::<1>(rows, stride, panel, sums),
                #[cfg(target_arch = "aarch64")]
                (Simd::NeonDot, 3..) => neon_bytes::<3>(rows, stride, panel, sums),
                #[cfg(target_arch = "aarch64")]
                (Simd::NeonDot, _) => neon_bytes::<1>(rows, stride, panel, sums),
                _ => plain_bytes(rows, panel, sums),
            }
        }
    });
}

/// Calls `multiply` with the rows from the first that is not done on, how many are left, and where their sums go; it
/// answers how many it did.
#[inline(always)]
fn in_groups<A, W, S>(
    (rows, stride): (&[A], usize),
    count: usize,
    panel: &[W],
    sums: &mut Sums<S>,
    multiply: impl Fn(&[A], usize, &mut [[S; PANEL]]) -> usize,
) {
    let n_in = panel.len() / PANEL;
    assert!(count <= ROWS && (count == 0 || rows.len() >= (count - 1) * stride + n_in));
    let mut first = 0;
    while first < count {
        first += multiply(&rows[first * stride..], count - first, &mut sums[first..]);
    }
}

/// # Safety
/// `R` rows of `panel.len() / PANEL` floats begin in `rows`, `stride` apart; `sums` has `R` rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512_float<const R: usize>(
    rows: &[f32],
    stride: usize,
    panel: &[f32],
    sums: &mut [[f32; PANEL]],
) -> usize {
    let mut totals = [[_mm512_setzero_ps(); 2]; R];
    let row = rows.as_ptr();
    // SAFETY: the caller's contract; a panel's row has 32 floats.
    unsafe {
        for (at, weights) in panel.as_chunks::<PANEL>().0.iter().enumerate() {
            let low = _mm512_loadu_ps(weights.as_ptr());
            let high = _mm512_loadu_ps(weights.as_ptr().add(16));
            for (r, totals) in totals.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*row.add(r * stride + at));
                totals[0] = _mm512_fmadd_ps(value, low, totals[0]);
                totals[1] = _mm512_fmadd_ps(value, high, totals[1]);
            }
        }
        for (sums, totals) in sums.iter_mut().zip(&totals) {
            _mm512_storeu_ps(sums.as_mut_ptr(), totals[0]);
            _mm512_storeu_ps(sums.as_mut_ptr().add(16), totals[1]);
        }
    }
    R
}

/// Quads take turns with `U` sets of sums: an instruction waits for the one before it on the same sum, so few rows need
/// several sets to keep the processor busy.
///
/// # Safety
/// `R` rows of `panel.len() / PANEL` bytes begin in `rows`, `stride` apart; `sums` has `R` rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn avx512_bytes<const R: usize, const U: usize>(
    rows: &[i8],
    stride: usize,
    panel: &[u8],
    sums: &mut [[i32; PANEL]],
) -> usize {
    let mut sets = [[[_mm512_setzero_si512(); 2]; R]; U];
    let row = rows.as_ptr();
    let add = |totals: &mut [[__m512i; 2]; R], at: usize, weights: &[u8; PANEL * QUAD]| {
        // SAFETY: the caller's contract; a quad of a panel has 128 bytes.
        unsafe {
            let low = _mm512_loadu_si512(weights.as_ptr().cast());
            let high = _mm512_loadu_si512(weights.as_ptr().add(64).cast());
            for (r, totals) in totals.iter_mut().enumerate() {
                let quad = row.add(r * stride + at * QUAD).cast::<i32>();
                let quad = _mm512_set1_epi32(quad.read_unaligned());
                totals[0] = _mm512_dpbusd_epi32(totals[0], low, quad);
                totals[1] = _mm512_dpbusd_epi32(totals[1], high, quad);
            }
        }
    };
    let (groups, rest) = panel.as_chunks::<{ PANEL * QUAD }>().0.as_chunks::<U>();
    for (group, quads) in groups.iter().enumerate() {
        for (at, (totals, weights)) in sets.iter_mut().zip(quads).enumerate() {
            add(totals, group * U + at, weights);
        }
    }
    for (at, (totals, weights)) in sets.iter_mut().zip(rest).enumerate() {
        add(totals, groups.len() * U + at, weights);
    }
    for (r, sums) in sums[..R].iter_mut().enumerate() {
        let [mut low, mut high] = sets[0][r];
        for totals in &sets[1..] {
            low = _mm512_add_epi32(low, totals[r][0]);
            high = _mm512_add_epi32(high, totals[r][1]);
        }
        // SAFETY: a row of sums has 32 integers.
        unsafe {
            _mm512_storeu_si512(sums.as_mut_ptr().cast(), low);
            _mm512_storeu_si512(sums.as_mut_ptr().add(16).cast(), high);
        }
    }
    R
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn avx2_float(rows: &[f32], panel: &[f32], sums: &mut [[f32; PANEL]]) -> usize {
    plain_float::<true>(rows, panel, sums)
}

/// Bytes are widened to 16 bits: the product of unsigned and signed bytes would saturate in sums of pairs.
///
/// # Safety
/// `R` rows of `panel.len() / PANEL` bytes begin in `rows`, `stride` apart; `sums` has `R` rows.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn avx2_bytes<const R: usize>(
    rows: &[i8],
    stride: usize,
    panel: &[u8],
    sums: &mut [[i32; PANEL]],
) -> usize {
    /// Columns whose sums stay in registers, and columns of a register.
    const HALF: usize = 16;
    const COLUMNS: usize = 4;
    let row = rows.as_ptr();
    for half in 0..PANEL / HALF {
        let mut totals = [[_mm256_setzero_si256(); HALF / COLUMNS]; R];
        // SAFETY: the caller's contract; half of a quad of a panel has 64 bytes.
        unsafe {
            for (at, weights) in panel.as_chunks::<{ PANEL * QUAD }>().0.iter().enumerate() {
                let weights = weights.as_ptr().add(half * HALF * QUAD);
                let mut quads = [_mm256_setzero_si256(); R];
                for (r, quad) in quads.iter_mut().enumerate() {
                    let bytes = row.add(r * stride + at * QUAD).cast::<i32>();
                    let wide = _mm_cvtepi8_epi16(_mm_cvtsi32_si128(bytes.read_unaligned()));
                    *quad = _mm256_broadcastq_epi64(wide);
                }
                for column in 0..HALF / COLUMNS {
                    let bytes = _mm_loadu_si128(weights.add(column * COLUMNS * QUAD).cast());
                    let wide = _mm256_cvtepu8_epi16(bytes);
                    for (totals, quad) in totals.iter_mut().zip(&quads) {
                        let pairs = _mm256_madd_epi16(wide, *quad);
                        totals[column] = _mm256_add_epi32(totals[column], pairs);
                    }
                }
            }
            for (sums, totals) in sums.iter_mut().zip(&totals) {
                for (sums, total) in sums[half * HALF..].chunks_exact_mut(COLUMNS).zip(totals) {
                    let mut pairs = [0_i32; 2 * COLUMNS];
                    _mm256_storeu_si256(pairs.as_mut_ptr().cast(), *total);
                    for (sum, pair) in sums.iter_mut().zip(pairs.as_chunks::<2>().0) {
                        *sum = pair[0] + pair[1];
                    }
                }
            }
        }
    }
    R
}

/// The dot product of signed bytes is the one that all processors with dot products have: weights are taken less 128,
/// and what that leaves out, 128 times the sum of the row, is where the sums begin.
///
/// # Safety
/// `R` rows of `panel.len() / PANEL` bytes begin in `rows`, `stride` apart; `sums` has `R` rows.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
unsafe fn neon_bytes<const R: usize>(
    rows: &[i8],
    stride: usize,
    panel: &[u8],
    sums: &mut [[i32; PANEL]],
) -> usize {
    /// Columns of a register.
    const COLUMNS: usize = 4;
    let n_in = panel.len() / PANEL;
    let mut totals = [[vdupq_n_s32(0); PANEL / COLUMNS]; R];
    for (r, totals) in totals.iter_mut().enumerate() {
        let row = &rows[r * stride..][..n_in];
        let sum: i32 = row.iter().map(|&value| i32::from(value)).sum();
        *totals = [vdupq_n_s32(128 * sum); PANEL / COLUMNS];
    }
    let row = rows.as_ptr();
    let middle = vdupq_n_u8(128);
    // SAFETY: the caller's contract; a quad of a panel has 128 bytes, a row of sums 32 integers.
    unsafe {
        for (at, weights) in panel.as_chunks::<{ PANEL * QUAD }>().0.iter().enumerate() {
            let mut quads = [vdupq_n_s8(0); R];
            for (r, quad) in quads.iter_mut().enumerate() {
                let bytes = row.add(r * stride + at * QUAD).cast::<i32>();
                *quad = vreinterpretq_s8_s32(vdupq_n_s32(bytes.read_unaligned()));
            }
            for column in 0..PANEL / COLUMNS {
                let bytes = vld1q_u8(weights.as_ptr().add(column * COLUMNS * QUAD));
                let bytes = vreinterpretq_s8_u8(veorq_u8(bytes, middle));
                for (totals, quad) in totals.iter_mut().zip(&quads) {
                    // The intrinsic, vdotq_s32, is not stable yet.
                    std::arch::asm!(
                        "sdot {total:v}.4s, {bytes:v}.16b, {quad:v}.16b",
                        total = inout(vreg) totals[column],
                        bytes = in(vreg) bytes,
                        quad = in(vreg) *quad,
                        options(pure, nomem, nostack, preserves_flags),
                    );
                }
            }
        }
        for (sums, totals) in sums.iter_mut().zip(&totals) {
            for (sums, total) in sums.as_chunks_mut::<COLUMNS>().0.iter_mut().zip(totals) {
                vst1q_s32(sums.as_mut_ptr(), *total);
            }
        }
    }
    R
}

#[inline(always)]
fn plain_float<const FUSED: bool>(rows: &[f32], panel: &[f32], sums: &mut [[f32; PANEL]]) -> usize {
    let mut totals = [0.0_f32; PANEL];
    for (value, weights) in rows.iter().zip(panel.as_chunks::<PANEL>().0) {
        for (total, weight) in totals.iter_mut().zip(weights) {
            *total = if FUSED {
                value.mul_add(*weight, *total)
            } else {
                *total + value * weight
            };
        }
    }
    sums[0] = totals;
    1
}

fn plain_bytes(rows: &[i8], panel: &[u8], sums: &mut [[i32; PANEL]]) -> usize {
    let mut totals = [0_i32; PANEL];
    let quads = rows.as_chunks::<QUAD>().0.iter();
    for (quad, weights) in quads.zip(panel.as_chunks::<{ PANEL * QUAD }>().0) {
        for (total, weights) in totals.iter_mut().zip(weights.as_chunks::<QUAD>().0) {
            let products = quad.iter().zip(weights);
            *total += products
                .map(|(&value, &weight)| i32::from(value) * i32::from(weight))
                .sum::<i32>();
        }
    }
    sums[0] = totals;
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sets() -> Vec<Simd> {
        match Simd::detect() {
            Simd::Avx512Vnni => vec![Simd::Avx512Vnni, Simd::Avx2, Simd::Baseline],
            Simd::Baseline => vec![Simd::Baseline],
            one => vec![one, Simd::Baseline],
        }
    }

    fn number(at: usize) -> usize {
        (at * 7919 + 13) % 251
    }

    #[test]
    fn bytes_are_exact_for_any_number_of_rows_and_any_instruction_set() {
        for (n_in, n_out) in [(3, 1), (40, 32), (97, 70)] {
            let weights: Vec<u8> = (0..n_in * n_out).map(|at| number(at) as u8).collect();
            let packed = pack_bytes(&weights, n_in, n_out);
            let stride = n_in.next_multiple_of(QUAD);
            let rows: Vec<i8> = (0..ROWS * stride).map(|at| number(at + 31) as i8).collect();
            for (simd, count) in sets()
                .into_iter()
                .flat_map(|simd| (1..=ROWS).map(move |count| (simd, count)))
            {
                for panel in 0..n_out.div_ceil(PANEL) {
                    let mut sums = [[0; PANEL]; ROWS];
                    let size = stride * PANEL;
                    multiply_bytes(
                        simd,
                        &rows,
                        stride,
                        count,
                        &packed[panel * size..][..size],
                        &mut sums,
                    );
                    for (row, sums) in sums[..count].iter().enumerate() {
                        for column in panel * PANEL..n_out.min((panel + 1) * PANEL) {
                            let plain: i32 = (0..n_in)
                                .map(|at| {
                                    i32::from(rows[row * stride + at])
                                        * i32::from(weights[at * n_out + column])
                                })
                                .sum();
                            assert_eq!(sums[column - panel * PANEL], plain, "{simd:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn floats_do_not_depend_on_the_rows_beside_them() {
        let (n_in, n_out) = (57, 40);
        let weights: Vec<f32> = (0..n_in * n_out)
            .map(|at| number(at) as f32 / 125.0 - 1.0)
            .collect();
        let packed = pack_float(&weights, n_in, n_out);
        let rows: Vec<f32> = (0..ROWS * n_in)
            .map(|at| number(at + 7) as f32 / 125.0 - 1.0)
            .collect();
        for simd in sets() {
            for panel in packed.chunks_exact(n_in * PANEL) {
                let mut all = [[0.0; PANEL]; ROWS];
                multiply_float(simd, &rows, n_in, ROWS, panel, &mut all);
                for row in 0..ROWS {
                    let mut alone = [[0.0; PANEL]; ROWS];
                    multiply_float(simd, &rows[row * n_in..], n_in, 1, panel, &mut alone);
                    assert_eq!(alone[0], all[row], "{simd:?}");
                    let plain: f32 = (0..n_in)
                        .map(|at| rows[row * n_in + at] * panel[at * PANEL])
                        .sum();
                    assert!((plain - all[row][0]).abs() < 1e-4, "{simd:?}");
                }
            }
        }
    }
}
