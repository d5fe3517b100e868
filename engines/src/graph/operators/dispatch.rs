//! One kernel, compiled for several instruction sets and chosen at run time.

/// Instruction sets a kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Simd {
    /// AVX-512 with VNNI.
    Avx512Vnni,
    /// AVX2 with FMA.
    Avx2,
    /// NEON with dot products of bytes.
    NeonDot,
    /// What every processor of the target has.
    Baseline,
}

impl Simd {
    /// The widest set this processor has.
    pub fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
            {
                return Self::Avx512Vnni;
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                return Self::Avx2;
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("dotprod") {
            return Self::NeonDot;
        }
        Self::Baseline
    }
}

/// Calls `$kernel($args…)`, an `#[inline(always)]` function, from a function compiled for `$simd`.
macro_rules! dispatch {
    ($simd:expr, $kernel:ident::<$vnni:ident>($($arg:ident: $ty:ty),* $(,)?) $(-> $answer:ty)?) => {{
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
        #[allow(clippy::too_many_arguments, reason = "an inner kernel over borrowed buffers")]
        fn avx512_vnni($($arg: $ty),*) $(-> $answer)? { $kernel::<true>($($arg),*) }
        #[cfg(target_arch = "x86_64")]
        #[target_feature(enable = "avx2,fma")]
        #[allow(clippy::too_many_arguments, reason = "an inner kernel over borrowed buffers")]
        fn avx2($($arg: $ty),*) $(-> $answer)? { $kernel::<false>($($arg),*) }
        match $simd {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Simd::detect` found these features.
            $crate::graph::operators::dispatch::Simd::Avx512Vnni => unsafe { avx512_vnni($($arg),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            $crate::graph::operators::dispatch::Simd::Avx2 => unsafe { avx2($($arg),*) },
            // There multiplying and adding at once needs no further feature.
            _ => $kernel::<{ cfg!(target_arch = "aarch64") }>($($arg),*),
        }
    }};
}
pub(crate) use dispatch;
