//! The operators that rewritten graphs use and ONNX Runtime lacks, in the domain [`DOMAIN`]: attention kernels of our
//! own, run on the session's thread pool.
//!
//! | operator | inputs | outputs |
//! |---|---|---|
//! | `WindowAttention` | `qkv` f32 `[b, t, 3 d]` | f32 `[b, t, d]` |
//! | `PackKeyValue` | `kv` f32 `[b, t, 2 d]` | keys and values of [`cross_attention::Packed::Float`] |
//! | `PackKeyValueInt8` | `kv` f32 `[b, t, 2 d]` | the four tensors of [`cross_attention::Packed::Int8`] |
//! | `CrossAttention`, `CrossAttentionInt8` | `query` f32 `[n, t, d]`, `windows` i32 `[n]`, the packed tensors | f32 `[n, t, d]`, optionally the weights f32 `[n, heads, t, n_ctx]` |
//! | `CachedSelfAttention` | `qkv` f32 `[n, t, 3 d]`, `past` i64 `[1]`, `slots` i32 `[n]`, `cache` f32 `[slots, 2, heads, n_text_ctx, head_dim]`, **written in place** | f32 `[n, t, d]` |
//! | `Linear`, `LinearInt8` | `rows` f32 `[…, n_in]`, a matrix, optionally what is added to f32 `[…, n_out]` | f32 `[…, n_out]` |
//! | `Subsampling`, `SubsamplingInt8` | `features` f32 `[b, bands, frames]`, their frames i64 `[b]`, a convolution, another and a matrix, a third and a matrix | f32 `[n, bands / 8 * channels]` |
//! | `RelativeAttention` | `qkv` f32 `[n, 3 d]`, `positions` f32 `[2 l - 1, d]`, `biases` f32 `[2, d]`, `lengths` i64 `[b]` | f32 `[n, d]` |
//! | `GatedConvolution` | `rows` f32 `[n, 2 d]`, kernel f32 `[taps, d]`, bias f32 `[d]`, `lengths` i64 `[b]` | f32 `[n, d]` |
//!
//! Attentions take the attribute `num_heads`; the cross-attentions also `n_ctx`. `windows` and `slots` say which window a
//! sequence listens to and where its cache lies: sequences are rearranged, and leave a batch, without copies. In the last
//! four, `n` counts the frames of all windows, which follow each other as `lengths` says. A matrix is panels f32 and bias
//! f32, or panels u8 and what [`linear::Weights::Int8`] says; its columns are the attribute `n_out`, `activation` is of
//! [`linear::Activation`], and `factor` multiplies a product before it is added to something.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use ort::operator::{
    BoxedKernel, ComputeContext, Kernel, KernelContext, Operator, OperatorDomain, OperatorInput,
    OperatorOutput,
};
use ort::value::{DynTensorValueType, PrimitiveTensorElementType, TensorElementType as Type};

pub mod activation;
pub mod aligned;
pub mod cached_attention;
pub mod cross_attention;
pub mod dispatch;
pub mod fastconformer;
pub mod gated_convolution;
pub mod linear;
pub mod relative_attention;
pub mod subsampling;
pub mod tiles;
pub mod window_attention;

use cross_attention::{HeadShape, Int8Output, Packed};
use dispatch::Simd;

/// The operators' domain.
pub const DOMAIN: &str = "dalston";

/// Names of the operators.
pub mod names {
    /// Reduced-precision self-attention of the encoder.
    pub const WINDOW_ATTENTION: &str = "WindowAttention";
    /// Packing of cross-attention keys and values in 32 bits.
    pub const PACK: &str = "PackKeyValue";
    /// Packing of cross-attention keys and values in 8 bits.
    pub const PACK_INT8: &str = "PackKeyValueInt8";
    /// Cross-attention over 32-bit keys and values.
    pub const CROSS_ATTENTION: &str = "CrossAttention";
    /// Cross-attention over 8-bit keys and values.
    pub const CROSS_ATTENTION_INT8: &str = "CrossAttentionInt8";
    /// Causal self-attention over a cache.
    pub const CACHED_SELF_ATTENTION: &str = "CachedSelfAttention";
    /// Product with a matrix of floats.
    pub const LINEAR: &str = "Linear";
    /// Product with a matrix of bytes.
    pub const LINEAR_INT8: &str = "LinearInt8";
    /// Convolutions before a FastConformer's layers.
    pub const SUBSAMPLING: &str = "Subsampling";
    /// The same with matrices of bytes.
    pub const SUBSAMPLING_INT8: &str = "SubsamplingInt8";
    /// Self-attention with relative positions.
    pub const RELATIVE_ATTENTION: &str = "RelativeAttention";
    /// Gate, convolution by channel and activation.
    pub const GATED_CONVOLUTION: &str = "GatedConvolution";
}

/// The domain with all operators, made once. ONNX Runtime must be loaded.
///
/// # Errors
/// ONNX Runtime's, when it cannot register an operator.
pub fn domain() -> ort::Result<Arc<OperatorDomain>> {
    static DOMAIN_MADE: Mutex<Option<Arc<Registered>>> = Mutex::new(None);
    let mut made = DOMAIN_MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(registered) = made.as_ref() {
        return Ok(Arc::clone(&registered.0));
    }
    let all = [
        Kind::WindowAttention,
        Kind::Pack,
        Kind::PackInt8,
        Kind::CrossAttention,
        Kind::CrossAttentionInt8,
        Kind::CachedSelfAttention,
        Kind::Linear,
        Kind::LinearInt8,
        Kind::Subsampling,
        Kind::SubsamplingInt8,
        Kind::RelativeAttention,
        Kind::GatedConvolution,
    ];
    let mut domain = OperatorDomain::new(DOMAIN)?;
    for kind in all {
        domain = domain.add(kind)?;
    }
    #[expect(
        clippy::arc_with_non_send_sync,
        reason = "session builders take it so; see Registered"
    )]
    let domain = Arc::new(domain);
    *made = Some(Arc::new(Registered(Arc::clone(&domain))));
    Ok(domain)
}

/// The one domain, which any thread may give to a session builder.
struct Registered(Arc<OperatorDomain>);
// SAFETY: after it is made the domain is only read, by ONNX Runtime, which allows that from any thread.
unsafe impl Send for Registered {}
// SAFETY: as above.
unsafe impl Sync for Registered {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    WindowAttention,
    Pack,
    PackInt8,
    CrossAttention,
    CrossAttentionInt8,
    CachedSelfAttention,
    Linear,
    LinearInt8,
    Subsampling,
    SubsamplingInt8,
    RelativeAttention,
    GatedConvolution,
}

impl Operator for Kind {
    type Kernel<'attr> = BoxedKernel<'attr>;

    fn name(&self) -> &str {
        match self {
            Self::WindowAttention => names::WINDOW_ATTENTION,
            Self::Pack => names::PACK,
            Self::PackInt8 => names::PACK_INT8,
            Self::CrossAttention => names::CROSS_ATTENTION,
            Self::CrossAttentionInt8 => names::CROSS_ATTENTION_INT8,
            Self::CachedSelfAttention => names::CACHED_SELF_ATTENTION,
            Self::Linear => names::LINEAR,
            Self::LinearInt8 => names::LINEAR_INT8,
            Self::Subsampling => names::SUBSAMPLING,
            Self::SubsamplingInt8 => names::SUBSAMPLING_INT8,
            Self::RelativeAttention => names::RELATIVE_ATTENTION,
            Self::GatedConvolution => names::GATED_CONVOLUTION,
        }
    }

    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        let (float, bytes) = (Type::Float32, Type::Uint8);
        let matrix_int8 = [bytes, Type::Int32, float];
        let types: &[Type] = match self {
            Self::WindowAttention | Self::Pack | Self::PackInt8 => &[Type::Float32],
            Self::CrossAttention => &[Type::Float32, Type::Int32, Type::Float32, Type::Float32],
            Self::CrossAttentionInt8 => &[
                Type::Float32,
                Type::Int32,
                Type::Uint8,
                Type::Float32,
                Type::Int8,
                Type::Float32,
            ],
            Self::CachedSelfAttention => &[Type::Float32, Type::Int64, Type::Int32, Type::Float32],
            Self::Linear => &[float; 3],
            Self::LinearInt8 => &[&[float][..], &matrix_int8].concat(),
            Self::Subsampling => &[&[float, Type::Int64][..], &[float; 10]].concat(),
            Self::SubsamplingInt8 => &[
                &[float, Type::Int64][..],
                &[float; 4],
                &matrix_int8,
                &[float; 2],
                &matrix_int8,
            ]
            .concat(),
            Self::RelativeAttention | Self::GatedConvolution => &[float, float, float, Type::Int64],
        };
        let is_linear = matches!(self, Self::Linear | Self::LinearInt8);
        let added = is_linear.then(|| OperatorInput::optional(float));
        let required: Vec<_> = types
            .iter()
            .map(|&ty| OperatorInput::required(ty))
            .collect();
        required.into_iter().chain(added)
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        let float = || OperatorOutput::required(Type::Float32);
        match self {
            Self::WindowAttention
            | Self::CachedSelfAttention
            | Self::Linear
            | Self::LinearInt8
            | Self::Subsampling
            | Self::SubsamplingInt8
            | Self::RelativeAttention
            | Self::GatedConvolution => vec![float()],
            Self::Pack => vec![float(), float()],
            Self::PackInt8 => vec![
                OperatorOutput::required(Type::Uint8),
                float(),
                OperatorOutput::required(Type::Int8),
                float(),
            ],
            Self::CrossAttention | Self::CrossAttentionInt8 => {
                vec![float(), OperatorOutput::optional(Type::Float32)]
            }
        }
    }

    fn create_kernel<'attr>(
        &self,
        context: &KernelContext<'attr>,
    ) -> ort::Result<BoxedKernel<'attr>> {
        let positive = |name: &str| -> ort::Result<usize> {
            context
                .get::<i64>(name)
                .and_then(|value| usize::try_from(value).ok())
                .filter(|&value| value > 0)
                .ok_or_else(|| {
                    ort::Error::new(format!("attribute {name} is missing or not positive"))
                })
        };
        let heads = || positive("num_heads");
        let simd = Simd::detect();
        Ok(match self {
            Self::WindowAttention => {
                Box::new(WindowAttention { n_heads: heads()? }) as BoxedKernel<'attr>
            }
            Self::Pack => Box::new(Pack { n_heads: heads()? }),
            Self::PackInt8 => Box::new(PackInt8 {
                n_heads: heads()?,
                simd,
            }),
            Self::CrossAttention => Box::new(CrossAttention {
                n_heads: heads()?,
                simd,
                n_ctx: positive("n_ctx")?,
                int8: false,
            }),
            Self::CrossAttentionInt8 => Box::new(CrossAttention {
                n_heads: heads()?,
                simd,
                n_ctx: positive("n_ctx")?,
                int8: true,
            }),
            Self::CachedSelfAttention => Box::new(CachedSelfAttention {
                n_heads: heads()?,
                simd,
            }),
            Self::Linear | Self::LinearInt8 => {
                let int8 = *self == Self::LinearInt8;
                Box::new(fastconformer::Linear::new(
                    context,
                    positive("n_out")?,
                    int8,
                )?)
            }
            Self::Subsampling | Self::SubsamplingInt8 => {
                let int8 = *self == Self::SubsamplingInt8;
                Box::new(fastconformer::Subsampling { int8, simd })
            }
            Self::RelativeAttention => Box::new(fastconformer::RelativeAttention {
                n_heads: heads()?,
                simd,
            }),
            Self::GatedConvolution => Box::new(fastconformer::GatedConvolution { simd }),
        })
    }
}

/// A pointer that the workers of one parallel loop write through, each to places of its own.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);
// SAFETY: every use hands disjoint parts to the workers.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// A place in the tensor behind the pointer.
    ///
    /// # Safety
    /// It lies inside the tensor.
    #[cfg(target_arch = "x86_64")]
    unsafe fn at(self, index: usize) -> *mut T {
        // SAFETY: the caller's contract.
        unsafe { self.0.add(index) }
    }

    /// A part of the tensor behind the pointer.
    ///
    /// # Safety
    /// `from .. from + len` lies inside the tensor and no other worker touches it during `'a`.
    unsafe fn part<'a>(self, from: usize, len: usize) -> &'a mut [T] {
        // SAFETY: the caller's contract.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(from), len) }
    }
}

/// An input's shape and content.
fn read<T: PrimitiveTensorElementType>(
    context: &ComputeContext,
    index: usize,
) -> ort::Result<(Vec<usize>, &[T])> {
    let value = context
        .input(index)?
        .ok_or_else(|| ort::Error::new(format!("input {index} is missing")))?;
    let (shape, data) = value.try_extract_tensor::<T>()?;
    let shape = shape
        .iter()
        .map(|&size| usize::try_from(size).unwrap_or(0))
        .collect();
    // SAFETY: the tensor belongs to the run, which outlives this kernel call and so the borrow of its context.
    Ok((shape, unsafe {
        std::slice::from_raw_parts(data.as_ptr(), data.len())
    }))
}

/// Allocates an output.
fn write<T: PrimitiveTensorElementType>(
    context: &ComputeContext,
    index: usize,
    shape: &[usize],
) -> ort::Result<Option<Shared<T>>> {
    let shape: Vec<i64> = shape.iter().map(|&size| size as i64).collect();
    let Some(mut value) = context.output(index, shape)? else {
        return Ok(None);
    };
    let (_, data) = value.try_extract_tensor_mut::<T>()?;
    Ok(Some(Shared(data.as_mut_ptr())))
}

fn required<T>(output: Option<Shared<T>>) -> ort::Result<Shared<T>> {
    output.ok_or_else(|| ort::Error::new("an output is not connected"))
}

fn expect_shape(ok: bool, what: &str) -> ort::Result<()> {
    if ok {
        Ok(())
    } else {
        Err(ort::Error::new(format!("{what} does not fit the operator")))
    }
}

struct WindowAttention {
    n_heads: usize,
}

impl Kernel for WindowAttention {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (shape, qkv) = read::<f32>(context, 0)?;
        expect_shape(
            shape.len() == 3 && shape[2].is_multiple_of(3 * self.n_heads),
            "qkv",
        )?;
        let (batch, n_ctx, width, n_heads) = (shape[0], shape[1], shape[2] / 3, self.n_heads);
        let head_dim = width / n_heads;
        expect_shape(
            n_ctx > 0 && window_attention::is_supported_head(head_dim),
            "the head size",
        )?;
        expect_shape(window_attention::is_supported(), "this processor")?;
        let out = required(write::<f32>(context, 0, &[batch, n_ctx, width])?)?;
        thread_local!(static BUFFERS: RefCell<window_attention::Buffers> = RefCell::default());
        context.par_for(batch * n_heads, 0, move |task| {
            let (b, head) = (task / n_heads, task % n_heads);
            let window = &qkv[b * n_ctx * 3 * width..][..n_ctx * 3 * width];
            let at = head * head_dim;
            #[cfg(target_arch = "x86_64")]
            // SAFETY: support was checked above; every task writes the columns of its own head and window.
            BUFFERS.with_borrow_mut(|buffers| unsafe {
                let out = out.at(b * n_ctx * width + at);
                let offsets = [at, width + at, 2 * width + at];
                window_attention::attend_head(
                    window,
                    3 * width,
                    offsets,
                    n_ctx,
                    head_dim,
                    out,
                    width,
                    buffers,
                );
            });
            #[cfg(not(target_arch = "x86_64"))]
            let _ = (window, at, out);
        })
    }
}

/// Sizes of a packing operator's input `[b, t, 2 d]`.
fn key_value_shape(shape: &[usize], n_heads: usize) -> ort::Result<(usize, usize, HeadShape)> {
    expect_shape(
        shape.len() == 3 && shape[1] > 0 && shape[2].is_multiple_of(8 * n_heads),
        "kv",
    )?;
    let width = shape[2] / 2;
    Ok((
        shape[0],
        width,
        HeadShape {
            n_ctx: shape[1],
            head_dim: width / n_heads,
        },
    ))
}

struct Pack {
    n_heads: usize,
}

impl Kernel for Pack {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (shape, kv) = read::<f32>(context, 0)?;
        let n_heads = self.n_heads;
        let (batch, width, head) = key_value_shape(&shape, n_heads)?;
        let (keys_len, values_len) = (head.padded() * head.head_dim, head.n_ctx * head.head_dim);
        let keys = required(write::<f32>(context, 0, &[batch, n_heads, keys_len])?)?;
        let values = required(write::<f32>(context, 1, &[batch, n_heads, values_len])?)?;
        context.par_for(batch * n_heads, 0, move |task| {
            let (keys, values) = (keys, values);
            let window = &kv[task / n_heads * head.n_ctx * 2 * width..][..head.n_ctx * 2 * width];
            let at = task % n_heads * head.head_dim;
            // SAFETY: every task writes the part of its own head and window.
            let (keys, values) = unsafe {
                (
                    keys.part(task * keys_len, keys_len),
                    values.part(task * values_len, values_len),
                )
            };
            cross_attention::pack_float(window, 2 * width, [at, width + at], head, keys, values);
        })
    }
}

struct PackInt8 {
    n_heads: usize,
    simd: Simd,
}

impl Kernel for PackInt8 {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (shape, kv) = read::<f32>(context, 0)?;
        let (n_heads, simd) = (self.n_heads, self.simd);
        let (batch, width, head) = key_value_shape(&shape, n_heads)?;
        let (padded, values_len) = (head.padded(), head.n_ctx * head.head_dim);
        let keys = required(write::<u8>(
            context,
            0,
            &[batch, n_heads, padded * head.head_dim],
        )?)?;
        let key_scale = required(write::<f32>(context, 1, &[batch, n_heads, padded])?)?;
        let values = required(write::<i8>(context, 2, &[batch, n_heads, values_len])?)?;
        let value_scale = required(write::<f32>(context, 3, &[batch, n_heads, head.head_dim])?)?;
        context.par_for(batch * n_heads, 0, move |task| {
            let (keys, key_scale, values, value_scale) = (keys, key_scale, values, value_scale);
            let window = &kv[task / n_heads * head.n_ctx * 2 * width..][..head.n_ctx * 2 * width];
            let at = task % n_heads * head.head_dim;
            // SAFETY: every task writes the part of its own head and window.
            let output = unsafe {
                Int8Output {
                    keys: keys.part(task * padded * head.head_dim, padded * head.head_dim),
                    key_scale: key_scale.part(task * padded, padded),
                    values: values.part(task * values_len, values_len),
                    value_scale: value_scale.part(task * head.head_dim, head.head_dim),
                }
            };
            cross_attention::pack_int8(simd, window, 2 * width, [at, width + at], head, output);
        })
    }
}

struct CrossAttention {
    n_heads: usize,
    n_ctx: usize,
    simd: Simd,
    int8: bool,
}

/// Packed tensors of all windows.
#[derive(Clone, Copy)]
enum PackedWindows<'a> {
    Float(&'a [f32], &'a [f32]),
    Int8(&'a [u8], &'a [f32], &'a [i8], &'a [f32]),
}

impl<'a> PackedWindows<'a> {
    /// Head number `index`, counted over all windows.
    fn head(self, index: usize, shape: HeadShape) -> Packed<'a> {
        let (padded, n_ctx, head_dim) = (shape.padded(), shape.n_ctx, shape.head_dim);
        match self {
            Self::Float(keys, values) => Packed::Float {
                keys: &keys[index * padded * head_dim..][..padded * head_dim],
                values: &values[index * n_ctx * head_dim..][..n_ctx * head_dim],
            },
            Self::Int8(keys, key_scale, values, value_scale) => Packed::Int8 {
                keys: &keys[index * padded * head_dim..][..padded * head_dim],
                key_scale: &key_scale[index * padded..][..padded],
                values: &values[index * n_ctx * head_dim..][..n_ctx * head_dim],
                value_scale: &value_scale[index * head_dim..][..head_dim],
            },
        }
    }
}

impl Kernel for CrossAttention {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (shape, query) = read::<f32>(context, 0)?;
        let (_, windows) = read::<i32>(context, 1)?;
        let n_heads = self.n_heads;
        expect_shape(
            shape.len() == 3 && shape[2].is_multiple_of(4 * n_heads),
            "query",
        )?;
        let (n, t, width) = (shape[0], shape[1], shape[2]);
        let head = HeadShape {
            n_ctx: self.n_ctx,
            head_dim: width / n_heads,
        };
        let (keys_shape, packed) = if self.int8 {
            let (keys_shape, keys) = read::<u8>(context, 2)?;
            let (key_scale, values) = (read::<f32>(context, 3)?.1, read::<i8>(context, 4)?.1);
            (
                keys_shape,
                PackedWindows::Int8(keys, key_scale, values, read::<f32>(context, 5)?.1),
            )
        } else {
            let (keys_shape, keys) = read::<f32>(context, 2)?;
            (
                keys_shape,
                PackedWindows::Float(keys, read::<f32>(context, 3)?.1),
            )
        };
        expect_shape(
            keys_shape.len() == 3 && keys_shape[1..] == [n_heads, head.padded() * head.head_dim],
            "keys",
        )?;
        let known =
            |&window: &i32| usize::try_from(window).is_ok_and(|window| window < keys_shape[0]);
        expect_shape(windows.len() == n && windows.iter().all(known), "windows")?;
        let out = required(write::<f32>(context, 0, &[n, t, width])?)?;
        let attention = if context.num_outputs()? > 1 {
            write::<f32>(context, 1, &[n, n_heads, t, head.n_ctx])?
        } else {
            None
        };
        let simd = self.simd;
        thread_local!(static BUFFERS: RefCell<cross_attention::Buffers> = RefCell::default());
        context.par_for(n * n_heads, 0, move |task| {
            let (out, attention) = (out, attention);
            let (row, h) = (task / n_heads, task % n_heads);
            let packed = packed.head(windows[row] as usize * n_heads + h, head);
            BUFFERS.with_borrow_mut(|buffers| {
                for i in 0..t {
                    let at = (row * t + i) * width + h * head.head_dim;
                    // SAFETY: every task writes the parts of its own sequence and head.
                    let (out, attention) = unsafe {
                        let share =
                            attention.map(|all| all.part((task * t + i) * head.n_ctx, head.n_ctx));
                        (out.part(at, head.head_dim), share)
                    };
                    cross_attention::attend(
                        simd,
                        &query[at..][..head.head_dim],
                        packed,
                        head,
                        out,
                        attention,
                        buffers,
                    );
                }
            });
        })
    }
}

struct CachedSelfAttention {
    n_heads: usize,
    simd: Simd,
}

impl Kernel for CachedSelfAttention {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        let (shape, qkv) = read::<f32>(context, 0)?;
        let (_, past) = read::<i64>(context, 1)?;
        let (_, slots) = read::<i32>(context, 2)?;
        let n_heads = self.n_heads;
        expect_shape(
            shape.len() == 3 && shape[2].is_multiple_of(3 * n_heads),
            "qkv",
        )?;
        let (n, t, width) = (shape[0], shape[1], shape[2] / 3);
        let head_dim = width / n_heads;
        let cache = context
            .input(3)?
            .ok_or_else(|| ort::Error::new("the cache is missing"))?;
        let sizes: Vec<i64> = cache.try_extract_tensor::<f32>()?.0.to_vec();
        expect_shape(
            sizes.len() == 5 && sizes[1..3] == [2, n_heads as i64] && sizes[4] == head_dim as i64,
            "cache",
        )?;
        let (n_slots, n_text_ctx) = (sizes[0] as usize, sizes[3] as usize);
        let past = past
            .first()
            .and_then(|&past| usize::try_from(past).ok())
            .unwrap_or(usize::MAX);
        expect_shape(
            past.saturating_add(t) <= n_text_ctx,
            "the length of the sequence",
        )?;
        let mut taken = vec![false; n_slots];
        let free = |slot: &i32| {
            let taken = usize::try_from(*slot)
                .ok()
                .and_then(|slot| taken.get_mut(slot));
            taken.is_some_and(|taken| !std::mem::replace(taken, true))
        };
        expect_shape(slots.len() == n && slots.iter().all(free), "slots")?;
        let cache = cache.downcast::<DynTensorValueType>()?;
        let cache = Shared(cache.data_ptr().cast::<f32>().cast_mut());
        let out = required(write::<f32>(context, 0, &[n, t, width])?)?;
        let simd = self.simd;
        let part = n_text_ctx * head_dim;
        thread_local!(static BUFFER: RefCell<aligned::Scratch> = RefCell::default());
        context.par_for(n * n_heads, 0, move |task| {
            let (cache, out) = (cache, out);
            let (row, head) = (task / n_heads, task % n_heads);
            let (slot, at) = (slots[row] as usize, head * head_dim);
            let rows = &qkv[row * t * 3 * width..][..t * 3 * width];
            // SAFETY: slots are distinct and inside the cache (checked above), so every task has its own keys and
            // values; the columns of the output are those of its own sequence and head, and only they are written.
            let (keys, values) = unsafe {
                (
                    cache.part((slot * 2 * n_heads + head) * part, part),
                    cache.part(((slot * 2 + 1) * n_heads + head) * part, part),
                )
            };
            let out = |i: usize| {
                // SAFETY: as above.
                unsafe { out.part((row * t + i) * width + at, head_dim) }
            };
            let at = [at, width + at, 2 * width + at];
            let step = cached_attention::Step {
                qkv: rows,
                stride: 3 * width,
                at,
                head_dim,
                past,
                keys,
                values,
            };
            BUFFER.with_borrow_mut(|buffer| cached_attention::attend(simd, step, out, buffer));
        })
    }
}
