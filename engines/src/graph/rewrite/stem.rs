//! The encoder's two convolutions. In 8 bits they are written as products over rows of three neighbouring frames: we have
//! fast kernels for those, and nobody has any for an 8-bit convolution.

use super::{After, Arithmetic, Attribute, Builder, Convolution, Encoder, GraphError};
use super::{MICROSOFT, Matrix, Source, Writer, linear};

impl Writer<'_> {
    /// The convolutions before the encoder's layers: features `[batch, mels, frames]` to `[batch, n_ctx, width]`.
    pub(super) fn convolutions(
        &mut self,
        encoder: &Encoder,
        source: &Source,
    ) -> Result<String, GraphError> {
        let read = |index| linear::convolution(source, index);
        let [first, second] = encoder.convolutions;
        let (kernels, places) = ([read(first)?, read(second)?], [first, second]);
        let ints = |index: usize, name: &str, default: &[i64]| {
            let found = source.node(index).attribute(name);
            found.map_or_else(|| default.to_vec(), |attribute| attribute.ints.clone())
        };
        let three_wide = kernels.iter().all(|kernel| kernel.dims.get(2) == Some(&3))
            && places.iter().all(|&at| ints(at, "pads", &[0, 0]) == [1, 1])
            && places.map(|at| ints(at, "strides", &[1])) == [[1], [2]];
        let turn = [("perm", Attribute::Ints(vec![0, 2, 1]))];
        let mut value = "input_features".to_owned();
        if self.kernels.arithmetic == Arithmetic::Int8 && three_wide {
            value = self.builder.node("Transpose", "", &[&value], &turn);
            for (kernel, (stride, name)) in kernels.into_iter().zip([(1, "conv1"), (2, "conv2")]) {
                value = self.convolution_by_rows(&value, kernel, stride, name)?;
            }
            return Ok(value);
        }
        for (at, (Convolution { dims, kernel, bias }, index)) in
            kernels.into_iter().zip(places).enumerate()
        {
            let name = format!("encoder.conv{}", at + 1);
            let kernel = self
                .builder
                .floats(&format!("{name}.weight"), &dims, || Ok(kernel))?;
            let bias = self
                .builder
                .floats(&format!("{name}.bias"), &dims[..1], || Ok(bias))?;
            let attributes = [
                ("pads", Attribute::Ints(ints(index, "pads", &[0, 0]))),
                ("strides", Attribute::Ints(ints(index, "strides", &[1]))),
                ("kernel_shape", Attribute::Ints(vec![dims[2] as i64])),
            ];
            value = self
                .builder
                .node("Conv", "", &[&value, &kernel, &bias], &attributes);
            value = self.builder.node("Gelu", MICROSOFT, &[&value], &[]);
        }
        Ok(self.builder.node("Transpose", "", &[&value], &turn))
    }

    /// A convolution over three frames and its activation as one 8-bit product: rows of three neighbouring frames, by
    /// the kernel turned. `[batch, frames, channels]` to `[batch, frames / stride, n_out]`, with a frame of zeros on
    /// both sides.
    fn convolution_by_rows(
        &mut self,
        value: &str,
        Convolution { dims, kernel, bias }: Convolution,
        stride: usize,
        name: &str,
    ) -> Result<String, GraphError> {
        let (n_out, channels) = (dims[0], dims[1]);
        let builder = &mut self.builder;
        let pads = builder.integers("encoder.conv.pads", &[0, 1, 0, 0, 1, 0])?;
        let padded = builder.node("Pad", "", &[value, &pads], &[]);
        let end = i64::MAX;
        // Frames and channels from `starts` to `ends`.
        let frames = |builder: &mut Builder<'_>, value: &str, bounds: [[i64; 2]; 2]| {
            let [starts, ends] = bounds;
            let label = |part: &str| format!("encoder.{name}.{part}.{starts:?}{ends:?}");
            let starts = builder.integers(&label("starts"), &starts)?;
            let ends = builder.integers(&label("ends"), &ends)?;
            let axes = builder.integers("encoder.conv.axes", &[1, 2])?;
            Ok::<_, GraphError>(builder.node("Slice", "", &[value, &starts, &ends, &axes], &[]))
        };
        let parts = if stride == 1 {
            vec![
                frames(builder, &padded, [[0, 0], [-2, end]])?,
                value.to_owned(),
                frames(builder, &padded, [[2, 0], [end, end]])?,
            ]
        } else {
            // Two frames side by side: the third is the first of the next row.
            let sizes = builder.integers("encoder.conv.pairs", &[0, -1, 2 * channels as i64])?;
            let pairs = builder.node("Reshape", "", &[&padded, &sizes], &[]);
            vec![
                frames(builder, &pairs, [[0, 0], [-1, end]])?,
                frames(builder, &pairs, [[1, 0], [end, channels as i64]])?,
            ]
        };
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let rows = builder.node("Concat", "", &parts, &[("axis", Attribute::Int(2))]);
        // [n_out, channels, 3] to [3, channels, n_out].
        let mut turned = vec![0.0; kernel.len()];
        for (at, weight) in kernel.into_iter().enumerate() {
            let (out, channel, frame) = (at / 3 / channels, at / 3 % channels, at % 3);
            turned[(frame * channels + channel) * n_out + out] = weight;
        }
        let (sizes, load) = ([3 * channels, n_out], || Ok((Matrix::Float(turned), bias)));
        self.product(&rows, name, sizes, After::Gelu, load)
    }
}
