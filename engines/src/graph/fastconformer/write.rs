//! Writes the new graph: sixteen nodes a layer over the frames of all windows.

use std::path::Path;

use super::names;
use super::recognise::{Convolution, Encoder, Front};
use crate::graph::emit::matrix::Written;
use crate::graph::emit::{Attribute, Builder, Size, WeightFile};
use crate::graph::linear::{self, Linear, Matrix};
use crate::graph::onnx::element;
use crate::graph::operators::linear::Activation;
use crate::graph::operators::{DOMAIN, names as operators};
use crate::graph::recognise::{FeedForward, Norm};
use crate::graph::source::Source;
use crate::graph::tensor::transpose;
use crate::graph::{Arithmetic, GraphError};

struct Writer<'a> {
    builder: Builder<'a>,
    source: &'a Source,
    arithmetic: Arithmetic,
}

/// Writes an encoder.
///
/// # Errors
/// Those of reading constants and of writing; sizes that do not fit each other.
pub(super) fn encoder(
    encoder: &Encoder,
    source: &Source,
    arithmetic: Arithmetic,
    weights: &mut WeightFile,
    path: &Path,
) -> Result<(), GraphError> {
    let mut writer = Writer {
        builder: Builder::new("encoder", weights),
        source,
        arithmetic,
    };
    let windows = Size::Named("windows");
    let sizes = [windows, Size::Of(encoder.n_bands), Size::Named("frames")];
    writer
        .builder
        .input(names::FEATURES, element::FLOAT, &sizes);
    for name in [names::FRAMES, names::LENGTHS] {
        writer.builder.input(name, element::INT64, &[windows]);
    }
    writer
        .builder
        .input(names::REACH, element::INT64, &[Size::Of(1)]);
    let positions = writer.positions(encoder)?;
    let mut value = writer.front(&encoder.front)?;
    for (layer, parts) in encoder.layers.iter().enumerate() {
        value = writer.feed_forward(&value, &parts.before, &format!("{layer}.before"))?;

        let attention = &parts.attention;
        let name = format!("{layer}.attention");
        let normed = writer.norm(&value, &attention.norm, &format!("{name}.norm"))?;
        let qkv = [&attention.query, &attention.key, &attention.value];
        let qkv = writer.linear(
            &normed,
            &qkv,
            &format!("{name}.qkv"),
            Activation::None,
            None,
        )?;
        let position = [&attention.position];
        let name_of_position = format!("{name}.position");
        let position = writer.linear(
            &positions,
            &position,
            &name_of_position,
            Activation::None,
            None,
        )?;
        let mut biases = Vec::new();
        for bias in &attention.biases {
            biases.extend(source.floats(bias)?);
        }
        let sizes = [2, biases.len() / 2];
        let biases = writer
            .builder
            .floats(&format!("{name}.biases"), &sizes, || Ok(biases))?;
        let heads = [("num_heads", Attribute::Int(encoder.n_heads as i64))];
        let inputs = [&qkv, &position, &biases, names::LENGTHS];
        let mixed = writer
            .builder
            .node(operators::RELATIVE_ATTENTION, DOMAIN, &inputs, &heads);
        let out = format!("{name}.out");
        let stream = Some((value.as_str(), 1.0));
        value = writer.linear(&mixed, &[&attention.out], &out, Activation::None, stream)?;

        value = writer.convolution(&value, &parts.convolution, &format!("{layer}.convolution"))?;
        value = writer.feed_forward(&value, &parts.after, &format!("{layer}.after"))?;
        value = writer.norm(&value, &parts.norm, &format!("{layer}.norm"))?;
    }
    let width = match &encoder.head {
        Some(head) => {
            value = writer.linear(&value, &[head], "head", Activation::None, None)?;
            value =
                writer
                    .builder
                    .node("LogSoftmax", "", &[&value], &[("axis", Attribute::Int(-1))]);
            head.n_out
        }
        None => encoder.front.out.n_out,
    };
    writer
        .builder
        .node_to("Identity", "", &[&value], &[names::STATES], &[]);
    let sizes = [Size::Named("rows"), Size::Of(width)];
    writer.builder.output(names::STATES, element::FLOAT, &sizes);
    writer.builder.save(path)
}

impl Writer<'_> {
    /// The run of the table that a call needs.
    fn positions(&mut self, encoder: &Encoder) -> Result<String, GraphError> {
        let width = encoder.front.out.n_out;
        let sizes = [encoder.n_positions, width];
        let table = || self.source.floats(&encoder.positions);
        let table = self.builder.floats("positions", &sizes, table)?;
        let axis = self.builder.integers("positions.axis", &[0])?;
        let centre = encoder.n_positions as i64 / 2;
        let here = self.builder.integers("positions.here", &[centre])?;
        let behind = self.builder.integers("positions.behind", &[centre + 1])?;
        let first = self.builder.node("Sub", "", &[&here, names::REACH], &[]);
        let end = self.builder.node("Add", "", &[&behind, names::REACH], &[]);
        Ok(self
            .builder
            .node("Slice", "", &[&table, &first, &end, &axis], &[]))
    }

    fn front(&mut self, front: &Front) -> Result<String, GraphError> {
        let mut inputs = vec![names::FEATURES.to_owned(), names::FRAMES.to_owned()];
        inputs.extend(self.kernel(front.first, "front.first")?);
        for ((convolution, product), name) in [
            (&front.second, "front.second"),
            (&front.third, "front.third"),
        ] {
            inputs.extend(self.kernel(*convolution, name)?);
            let bias = product.bias(self.source)?;
            let matrix = product.matrix(self.source)?;
            let name = format!("{name}.product");
            inputs.extend(self.matrix(&name, matrix, bias, product.n_in)?.parts);
        }
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let op = match self.arithmetic {
            Arithmetic::Float => operators::SUBSAMPLING,
            Arithmetic::Int8 => operators::SUBSAMPLING_INT8,
        };
        let rows = self.builder.node(op, DOMAIN, &inputs, &[]);
        // The published product reads bands within channels, ours channels within bands.
        let out = &front.out;
        let channels = front.second.1.n_out;
        let order = |at: usize| {
            let (row, column) = (at / out.n_out, at % out.n_out);
            let (band, channel) = (row / channels, row % channels);
            (channel * (out.n_in / channels) + band) * out.n_out + column
        };
        let matrix = match out.matrix(self.source)? {
            Matrix::Float(values) => Matrix::Float(
                (0..values.len())
                    .map(|at| values[order(at)] * front.scale)
                    .collect(),
            ),
            Matrix::Int8 {
                values,
                scale,
                zero,
            } => Matrix::Int8 {
                values: (0..values.len()).map(|at| values[order(at)]).collect(),
                scale: scale.iter().map(|scale| scale * front.scale).collect(),
                zero,
            },
        };
        let bias = out
            .bias(self.source)?
            .iter()
            .map(|bias| bias * front.scale)
            .collect();
        let matrix = self.matrix("front.out", matrix, bias, out.n_in)?;
        Ok(matrix.times(&mut self.builder, &rows, Activation::None, None))
    }

    /// A convolution by channel, in floats: kernel `[taps, channels]` and bias.
    fn kernel(&mut self, index: usize, name: &str) -> Result<[String; 2], GraphError> {
        let linear::Convolution { dims, kernel, bias } = linear::convolution(self.source, index)?;
        let (channels, taps) = (dims[0], dims[1..].iter().product());
        let kernel = || Ok(transpose(&kernel, channels, taps));
        Ok([
            self.builder
                .floats(&format!("{name}.kernel"), &[taps, channels], kernel)?,
            self.builder
                .floats(&format!("{name}.bias"), &[channels], || Ok(bias))?,
        ])
    }

    fn norm(&mut self, value: &str, norm: &Norm, name: &str) -> Result<String, GraphError> {
        let weight = self.source.floats(&norm.weight)?;
        let sizes = [weight.len()];
        let weight = self
            .builder
            .floats(&format!("{name}.weight"), &sizes, || Ok(weight))?;
        let bias = || self.source.floats(&norm.bias);
        let bias = self.builder.floats(&format!("{name}.bias"), &sizes, bias)?;
        let attributes = [
            ("axis", Attribute::Int(-1)),
            ("epsilon", Attribute::Float(norm.epsilon)),
        ];
        let inputs = [value, &weight, &bias];
        Ok(self
            .builder
            .node("LayerNormalization", "", &inputs, &attributes))
    }

    fn feed_forward(
        &mut self,
        stream: &str,
        block: &FeedForward,
        name: &str,
    ) -> Result<String, GraphError> {
        let normed = self.norm(stream, &block.norm, &format!("{name}.norm"))?;
        let up = format!("{name}.up");
        let wide = self.linear(&normed, &[&block.up], &up, Activation::Swish, None)?;
        let (down, half) = (format!("{name}.down"), Some((stream, 0.5)));
        self.linear(&wide, &[&block.down], &down, Activation::None, half)
    }

    fn convolution(
        &mut self,
        stream: &str,
        block: &Convolution,
        name: &str,
    ) -> Result<String, GraphError> {
        let normed = self.norm(stream, &block.norm, &format!("{name}.norm"))?;
        let gate = format!("{name}.gate");
        let gated = self.linear(&normed, &[&block.gate], &gate, Activation::None, None)?;
        let [kernel, bias] = self.kernel(block.by_channel, name)?;
        let inputs = [&gated, &kernel, &bias, names::LENGTHS];
        let convolved = self
            .builder
            .node(operators::GATED_CONVOLUTION, DOMAIN, &inputs, &[]);
        let (out, stream) = (format!("{name}.out"), Some((stream, 1.0)));
        self.linear(&convolved, &[&block.out], &out, Activation::None, stream)
    }

    /// A product with one matrix, or with several side by side.
    fn linear(
        &mut self,
        value: &str,
        parts: &[&Linear],
        name: &str,
        activation: Activation,
        residual: Option<(&str, f32)>,
    ) -> Result<String, GraphError> {
        let mut bias = Vec::new();
        let mut matrices = Vec::new();
        for part in parts {
            bias.extend(part.bias(self.source)?);
            matrices.push((part.matrix(self.source)?, part.n_out));
        }
        let matrix = self.matrix(name, Matrix::beside(matrices), bias, parts[0].n_in)?;
        Ok(matrix.times(&mut self.builder, value, activation, residual))
    }

    fn matrix(
        &mut self,
        name: &str,
        matrix: Matrix,
        bias: Vec<f32>,
        n_in: usize,
    ) -> Result<Written, GraphError> {
        let sizes = [n_in, bias.len()];
        let load = || Ok((matrix, bias));
        Written::new(&mut self.builder, self.arithmetic, name, sizes, load)
    }
}
