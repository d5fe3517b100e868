//! The operators of a rewritten FastConformer encoder, over the frames of all windows one after the other: no frame of
//! padding is computed, and none can touch another window.

use std::cell::RefCell;

use ort::operator::{ComputeContext, Kernel, KernelContext};

use super::aligned::Scratch;
use super::dispatch::Simd;
use super::linear::{self, Activation, Matrix, Output, Rows, Scale, Weights};
use super::{
    Shared, expect_shape, gated_convolution, read, relative_attention, required, subsampling, write,
};

/// Rows that are quantised in one task.
const ROWS_AT_ONCE: usize = 64;

/// Reads a matrix from `input` on: panels and bias, or panels, integers and floats.
fn read_matrix(
    context: &ComputeContext,
    input: usize,
    int8: bool,
    [n_in, n_out]: [usize; 2],
) -> ort::Result<Matrix<'_>> {
    let weights = if int8 {
        Weights::Int8 {
            panels: read::<u8>(context, input)?.1,
            integers: read::<i32>(context, input + 1)?.1,
            floats: read::<f32>(context, input + 2)?.1,
        }
    } else {
        Weights::Float {
            panels: read::<f32>(context, input)?.1,
            bias: read::<f32>(context, input + 1)?.1,
        }
    };
    let matrix = Matrix {
        n_in,
        n_out,
        weights,
    };
    expect_shape(n_in > 0 && n_out > 0 && matrix.fits(), "a matrix")?;
    Ok(matrix)
}

/// Inputs that a matrix takes.
fn n_inputs(int8: bool) -> usize {
    if int8 { 3 } else { 2 }
}

/// Frames of each window and the first of each, whose sum must be `total`.
fn read_lengths(
    context: &ComputeContext,
    input: usize,
    total: usize,
) -> ort::Result<Vec<(usize, usize)>> {
    let (_, lengths) = read::<i64>(context, input)?;
    let mut first = 0;
    let windows: Vec<(usize, usize)> = lengths
        .iter()
        .map(|&length| {
            let length = usize::try_from(length).unwrap_or(0);
            first += length;
            (first - length, length)
        })
        .collect();
    expect_shape(first == total, "the lengths of the windows")?;
    Ok(windows)
}

/// `Linear`, `LinearInt8`.
pub(super) struct Linear {
    n_out: usize,
    activation: Activation,
    factor: f32,
    int8: bool,
    simd: Simd,
}

impl Linear {
    pub(super) fn new(context: &KernelContext<'_>, n_out: usize, int8: bool) -> ort::Result<Self> {
        let number = context.get::<i64>("activation").unwrap_or(0);
        let activation = usize::try_from(number)
            .ok()
            .and_then(|number| Activation::ALL.get(number));
        Ok(Self {
            n_out,
            activation: *activation.ok_or_else(|| ort::Error::new("an unknown activation"))?,
            factor: context.get::<f32>("factor").unwrap_or(1.0),
            int8,
            simd: Simd::detect(),
        })
    }
}

impl Kernel for Linear {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        thread_local!(static BUFFERS: RefCell<(Scratch, Vec<Scale>)> = RefCell::default());
        let (mut shape, values) = read::<f32>(context, 0)?;
        let n_in = shape.last().copied().unwrap_or(0);
        expect_shape(n_in > 0, "the rows")?;
        let (n, n_out, simd) = (values.len() / n_in, self.n_out, self.simd);
        let matrix = read_matrix(context, 1, self.int8, [n_in, n_out])?;
        let residual = 1 + n_inputs(self.int8);
        let residual = if context.num_inputs()? > residual {
            let (_, values) = read::<f32>(context, residual)?;
            expect_shape(values.len() == n * n_out, "what is added")?;
            Some((values, self.factor))
        } else {
            None
        };
        if let Some(last) = shape.last_mut() {
            *last = n_out;
        }
        let output = Output {
            out: required(write::<f32>(context, 0, &shape)?)?,
            activation: self.activation,
            residual,
        };
        // Other kernels of this thread have buffers of their own, and this one does not call itself.
        BUFFERS.with_borrow_mut(|(bytes, scales)| {
            let rows = if self.int8 {
                let row_bytes = matrix.row_bytes();
                let bytes = bytes.get::<i8>(n * row_bytes);
                scales.resize(n, Scale::default());
                let (all_bytes, all_scales) =
                    (Shared(bytes.as_mut_ptr()), Shared(scales.as_mut_ptr()));
                context.par_for(n.div_ceil(ROWS_AT_ONCE), 0, move |task| {
                    let (all_bytes, all_scales) = (all_bytes, all_scales);
                    let first = task * ROWS_AT_ONCE;
                    let count = ROWS_AT_ONCE.min(n - first);
                    // SAFETY: every task has rows of its own.
                    let (bytes, scales) = unsafe {
                        (
                            all_bytes.part(first * row_bytes, count * row_bytes),
                            all_scales.part(first, count),
                        )
                    };
                    linear::quantize(
                        simd,
                        &values[first * n_in..][..count * n_in],
                        n_in,
                        bytes,
                        scales,
                    );
                })?;
                Rows::Int8(bytes, scales)
            } else {
                Rows::Float(values)
            };
            context.par_for(matrix.n_pieces(n), 0, move |piece| {
                // SAFETY: the output has `n` rows, and every task has a piece of its own.
                unsafe { matrix.multiply(simd, rows, piece, output) };
            })
        })
    }
}

/// `Subsampling`, `SubsamplingInt8`.
pub(super) struct Subsampling {
    pub(super) int8: bool,
    pub(super) simd: Simd,
}

impl Kernel for Subsampling {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        thread_local!(static BUFFERS: RefCell<subsampling::Buffers> = RefCell::default());
        let (shape, features) = read::<f32>(context, 0)?;
        let (_, lengths) = read::<i64>(context, 1)?;
        expect_shape(
            shape.len() == 3 && lengths.len() == shape[0],
            "the features",
        )?;
        let (n_bands, stride) = (shape[1], shape[2]);
        let convolution = |input: usize| -> ort::Result<subsampling::Convolution<'_>> {
            let (kernel_shape, kernel) = read::<f32>(context, input)?;
            let (bias_shape, bias) = read::<f32>(context, input + 1)?;
            expect_shape(
                kernel_shape.len() == 2 && kernel_shape[0] == 9 && bias_shape == kernel_shape[1..],
                "a convolution",
            )?;
            Ok(subsampling::Convolution { kernel, bias })
        };
        let first = convolution(2)?;
        let channels = first.bias.len();
        let behind = 4 + 2 + n_inputs(self.int8);
        let square = [channels, channels];
        let second = (convolution(4)?, read_matrix(context, 6, self.int8, square)?);
        let third = (
            convolution(behind)?,
            read_matrix(context, behind + 2, self.int8, square)?,
        );
        let layers = subsampling::Layers {
            first,
            second,
            third,
        };
        expect_shape(
            layers.second.0.bias.len() == channels && layers.third.0.bias.len() == channels,
            "channels",
        )?;

        let mut tasks = Vec::new();
        let mut total = 0;
        for (window, &length) in lengths.iter().enumerate() {
            let n_frames = usize::try_from(length).unwrap_or(0).min(stride);
            let n_output = subsampling::n_output(n_frames);
            for start in (0..n_output).step_by(subsampling::FRAMES) {
                let frames = start..n_output.min(start + subsampling::FRAMES);
                tasks.push((window, n_frames, frames, total + start));
            }
            total += n_output;
        }
        let width = subsampling::n_output(n_bands) * channels;
        let out = required(write::<f32>(context, 0, &[total, width])?)?;
        let simd = self.simd;
        context.par_for(tasks.len(), 0, |task| {
            let (window, n_frames, frames, row) = tasks[task].clone();
            let features = subsampling::Features {
                values: &features[window * n_bands * stride..][..n_bands * stride],
                stride,
                n_bands,
                n_frames,
            };
            // SAFETY: every task has frames of its own.
            let out = unsafe { out.part(row * width, frames.len() * width) };
            BUFFERS.with_borrow_mut(|buffers| {
                subsampling::subsample(simd, features, &layers, frames, out, buffers);
            });
        })
    }
}

/// `RelativeAttention`.
pub(super) struct RelativeAttention {
    pub(super) n_heads: usize,
    pub(super) simd: Simd,
}

impl Kernel for RelativeAttention {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        thread_local!(static BUFFERS: RefCell<relative_attention::Buffers> = RefCell::default());
        let (shape, rows) = read::<f32>(context, 0)?;
        let n_heads = self.n_heads;
        expect_shape(
            shape.len() == 2 && shape[1].is_multiple_of(3 * n_heads),
            "qkv",
        )?;
        let (stride, width) = (shape[1], shape[1] / 3);
        let (position_shape, positions) = read::<f32>(context, 1)?;
        expect_shape(
            position_shape.len() == 2 && position_shape[1] == width,
            "the positions",
        )?;
        let (_, biases) = read::<f32>(context, 2)?;
        expect_shape(biases.len() == 2 * width, "the biases")?;
        let windows = read_lengths(context, 3, shape[0])?;
        let longest = windows.iter().map(|&(_, length)| length).max().unwrap_or(0);
        expect_shape(
            position_shape[0] + 1 >= 2 * longest && !position_shape[0].is_multiple_of(2),
            "the positions",
        )?;
        let out = required(write::<f32>(context, 0, &[shape[0], width])?)?;
        let (simd, head_dim, centre) = (self.simd, width / n_heads, position_shape[0] / 2);
        context.par_for(windows.len() * n_heads, 0, |task| {
            let ((first, n_frames), at) = (windows[task / n_heads], task % n_heads * head_dim);
            if n_frames == 0 {
                return;
            }
            let head = relative_attention::Head {
                rows: &rows[first * stride..][..n_frames * stride],
                stride,
                offsets: [at, width + at, 2 * width + at],
                n_frames,
                head_dim,
                positions: &positions[(centre + 1 - n_frames) * width + at..],
                position_stride: width,
                biases: [&biases[at..][..head_dim], &biases[width + at..][..head_dim]],
            };
            // SAFETY: every task writes the columns of its own head and window, a frame at a time.
            let out = |frame: usize| unsafe { out.part((first + frame) * width + at, head_dim) };
            BUFFERS.with_borrow_mut(|buffers| relative_attention::attend(simd, head, out, buffers));
        })
    }
}

/// `GatedConvolution`.
pub(super) struct GatedConvolution {
    pub(super) simd: Simd,
}

impl Kernel for GatedConvolution {
    fn compute(&mut self, context: &ComputeContext) -> ort::Result<()> {
        thread_local!(static BUFFER: RefCell<Scratch> = RefCell::default());
        let (shape, rows) = read::<f32>(context, 0)?;
        let (kernel_shape, kernel) = read::<f32>(context, 1)?;
        let (_, bias) = read::<f32>(context, 2)?;
        let channels = bias.len();
        expect_shape(
            shape.len() == 2 && shape[1] == 2 * channels && channels > 0,
            "the rows",
        )?;
        expect_shape(
            kernel_shape.len() == 2
                && kernel_shape[1] == channels
                && !kernel_shape[0].is_multiple_of(2),
            "the convolution",
        )?;
        let convolution = gated_convolution::Convolution { kernel, bias };
        let windows = read_lengths(context, 3, shape[0])?;
        let pieces: Vec<_> = windows
            .into_iter()
            .flat_map(|(first, length)| {
                let starts = (0..length).step_by(gated_convolution::FRAMES);
                starts.map(move |start| {
                    (
                        first,
                        length,
                        start..length.min(start + gated_convolution::FRAMES),
                    )
                })
            })
            .collect();
        let out = required(write::<f32>(context, 0, &[shape[0], channels])?)?;
        let simd = self.simd;
        context.par_for(pieces.len(), 0, |piece| {
            let (first, length, frames) = pieces[piece].clone();
            let window = &rows[first * 2 * channels..][..length * 2 * channels];
            // SAFETY: every task has frames of its own.
            let out =
                unsafe { out.part((first + frames.start) * channels, frames.len() * channels) };
            BUFFER.with_borrow_mut(|buffer| {
                gated_convolution::convolve(simd, window, convolution, frames, out, buffer);
            });
        })
    }
}
