//! Finds a FastConformer in a published graph, by following the residual stream: each block begins with a layer
//! normalisation of it and ends with a sum with it, and between lie the block's products.

use std::collections::HashMap;

use crate::graph::interface::Interface;
use crate::graph::linear::{self, Linear};
use crate::graph::onnx::NodeProto;
use crate::graph::recognise::{FeedForward, Norm, Traced, missing, norm_at};
use crate::graph::source::Source;

/// Operators that move numbers, or round them, without computing.
const MOVES: [&str; 7] = [
    "Identity",
    "Cast",
    "Transpose",
    "Reshape",
    "Squeeze",
    "Unsqueeze",
    "DynamicQuantizeLinear",
];
/// Convolutions of the published subsampling by 8: one over everything, then twice one by channel and a product.
const FRONT: usize = 5;

/// An encoder's parts.
pub(super) struct Encoder {
    /// Convolutions before the layers.
    pub front: Front,
    /// Layers.
    pub layers: Vec<Layer>,
    /// Positions `[1, n, width]`, from the farthest before to the farthest after, a constant.
    pub positions: String,
    /// Rows of `positions`.
    pub n_positions: usize,
    /// Attention heads of a layer.
    pub n_heads: usize,
    /// Mel bands.
    pub n_bands: usize,
    /// Output head of a CTC model.
    pub head: Option<Linear>,
}

/// Convolutions before the layers, as places of nodes and products.
pub(super) struct Front {
    pub first: usize,
    pub second: (usize, Linear),
    pub third: (usize, Linear),
    /// From channels of all bands to the width of the layers.
    pub out: Linear,
    /// What its result is multiplied by.
    pub scale: f32,
}

/// A layer.
pub(super) struct Layer {
    pub before: FeedForward,
    pub attention: Attention,
    pub convolution: Convolution,
    pub after: FeedForward,
    pub norm: Norm,
}

/// Self-attention with relative positions.
pub(super) struct Attention {
    pub norm: Norm,
    pub query: Linear,
    pub key: Linear,
    pub value: Linear,
    pub position: Linear,
    /// Added to queries towards keys, and towards positions; constants.
    pub biases: [String; 2],
    pub out: Linear,
}

/// The convolution block.
pub(super) struct Convolution {
    pub norm: Norm,
    /// Into values and gates.
    pub gate: Linear,
    /// The node of the convolution by channel.
    pub by_channel: usize,
    pub out: Linear,
}

struct Tracer<'a> {
    source: &'a Source,
    products: Vec<Linear>,
    /// Products by what they read, behind moves.
    readers: HashMap<String, Vec<usize>>,
}

/// Finds an encoder.
///
/// # Errors
/// [`crate::graph::GraphError::NotRecognised`].
pub(super) fn encoder(source: &Source, interface: &Interface) -> Traced<Encoder> {
    let [features, _lengths] = &interface.inputs[..] else {
        return Err(missing("an offline encoder's two inputs"));
    };
    let n_bands = features.dims.get(1).copied().flatten();
    let tracer = Tracer::new(source);
    let front_out = tracer.front_out()?;
    let (mut value, scale) = tracer.scaled(&front_out.output)?;
    let front = tracer.front(front_out, scale)?;
    let mut layers = Vec::new();
    let mut positions = None;
    let mut n_heads = 0;
    while tracer.norm_of(&value).is_some() {
        let (before, after_first) = tracer.feed_forward(&value)?;
        let (attention, after_attention) = tracer.attention(&after_first)?;
        let (convolution, after_convolution) = tracer.convolution(&after_attention)?;
        let (after, sum) = tracer.feed_forward(&after_convolution)?;
        let (norm, normed) = tracer
            .norm_of(&sum)
            .ok_or_else(|| missing("a layer normalisation after a layer"))?;
        n_heads = source.dims(&attention.biases[0]).map_or(0, |dims| dims[0]);
        positions = Some(tracer.table(&attention.position)?);
        layers.push(Layer {
            before,
            attention,
            convolution,
            after,
            norm,
        });
        value = normed;
    }
    let (positions, n_positions) = positions.ok_or_else(|| missing("a layer"))?;
    let output = source
        .outputs()
        .first()
        .ok_or_else(|| missing("an output"))?;
    let head = tracer.reader(&value).cloned();
    let (end, ends_in) = match &head {
        Some(head) => (head.output.as_str(), "LogSoftmax"),
        None => (value.as_str(), ""),
    };
    let mut last = tracer.root(output);
    if let Some(node) = tracer.made_by(last, ends_in) {
        last = tracer.root(&node.input[0]);
    }
    if last != end {
        return Err(missing("states, or their log-probabilities, as the output"));
    }
    Ok(Encoder {
        n_bands: n_bands.ok_or_else(|| missing("a number of mel bands"))?,
        front,
        layers,
        positions,
        n_positions,
        n_heads,
        head,
    })
}

impl<'a> Tracer<'a> {
    fn new(source: &'a Source) -> Self {
        let nodes = 0..source.nodes().len();
        let mut products = linear::find(source);
        products.extend(nodes.filter_map(|index| linear::pointwise(source, index)));
        let mut tracer = Self {
            source,
            products,
            readers: HashMap::new(),
        };
        for at in 0..tracer.products.len() {
            let root = tracer.root(&tracer.products[at].input).to_owned();
            tracer.readers.entry(root).or_default().push(at);
        }
        tracer
    }

    /// The value behind moves.
    fn root<'v>(&'v self, mut value: &'v str) -> &'v str {
        while let Some(node) = self.producer(value) {
            if !MOVES.contains(&node.op_type.as_str()) {
                break;
            }
            value = &node.input[0];
        }
        value
    }

    fn producer(&self, value: &str) -> Option<&'a NodeProto> {
        Some(self.source.node(self.source.producer(value)?))
    }

    /// The node that makes a value, if it is of type `op`.
    fn made_by(&self, value: &str, op: &str) -> Option<&'a NodeProto> {
        self.producer(value).filter(|node| node.op_type == op)
    }

    /// The nodes of type `op` that read a value, directly or moved.
    fn read_by(&self, value: &str, op: &str) -> Vec<&'a NodeProto> {
        let mut found = Vec::new();
        for &index in self.source.consumers(value) {
            let node = self.source.node(index);
            if node.op_type == op {
                found.push(node);
            } else if MOVES.contains(&node.op_type.as_str()) && node.input[0] == value {
                found.extend(self.read_by(&node.output[0], op));
            }
        }
        found
    }

    /// The products that read a value.
    fn readers(&self, value: &str) -> Vec<&Linear> {
        let found = self.readers.get(value).into_iter().flatten();
        found.map(|&at| &self.products[at]).collect()
    }

    /// The only product that reads a value.
    fn reader(&self, value: &str) -> Option<&Linear> {
        match self.readers(value)[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    /// The only layer normalisation of a value, and its result.
    fn norm_of(&self, value: &str) -> Option<(Norm, String)> {
        let consumers = self.source.consumers(value).iter();
        let mut norms =
            consumers.filter(|&&index| self.source.node(index).op_type == "LayerNormalization");
        match (norms.next(), norms.next()) {
            (Some(&index), None) => {
                norm_at(self.source, index).map(|(output, norm)| (norm, output))
            }
            _ => None,
        }
    }

    fn norm(&self, value: &str) -> Traced<(Norm, String)> {
        self.norm_of(value)
            .ok_or_else(|| missing("a layer normalisation before a block"))
    }

    /// `value * sigmoid(value)`.
    fn swish(&self, value: &str) -> Traced<String> {
        let multiplied = self.read_by(value, "Mul").into_iter().find(|node| {
            let other = node.input.iter().find(|input| *input != value);
            other
                .and_then(|other| self.made_by(other, "Sigmoid"))
                .is_some_and(|sigmoid| sigmoid.input[0] == value)
        });
        Ok(multiplied.ok_or_else(|| missing("an activation"))?.output[0].clone())
    }

    /// The number of a constant with one element.
    fn number(&self, value: &str) -> Option<f32> {
        match self.source.floats(value).ok()?[..] {
            [number] => Some(number),
            _ => None,
        }
    }

    /// A value multiplied by a number, or itself.
    fn scaled(&self, value: &str) -> Traced<(String, f32)> {
        for node in self.read_by(value, "Mul") {
            let other = node.input.iter().find(|input| *input != value);
            if let Some(number) = other.and_then(|other| self.number(other)) {
                return Ok((node.output[0].clone(), number));
            }
        }
        Ok((value.to_owned(), 1.0))
    }

    /// The sum of the residual stream and a block's result times `factor`.
    fn sum(&self, stream: &str, result: &str, factor: f32) -> Traced<String> {
        let (scaled, number) = self.scaled(result)?;
        let sum = self
            .read_by(&scaled, "Add")
            .into_iter()
            .find(|node| node.input.iter().any(|input| input == stream));
        match sum {
            Some(node) if number == factor => Ok(node.output[0].clone()),
            _ => Err(missing("the sum after a block")),
        }
    }

    fn feed_forward(&self, stream: &str) -> Traced<(FeedForward, String)> {
        let (norm, normed) = self.norm(stream)?;
        let up = self
            .reader(&normed)
            .ok_or_else(|| missing("a feed-forward product"))?;
        let activated = self.swish(&up.output)?;
        let down = self
            .reader(&activated)
            .ok_or_else(|| missing("a second feed-forward product"))?;
        let sum = self.sum(stream, &down.output, 0.5)?;
        let block = FeedForward {
            norm,
            up: up.clone(),
            down: down.clone(),
        };
        Ok((block, sum))
    }

    fn attention(&self, stream: &str) -> Traced<(Attention, String)> {
        let (norm, normed) = self.norm(stream)?;
        let parts = self.readers(&normed);
        if parts.len() != 3 {
            return Err(missing("queries, keys and values"));
        }
        // Queries are those that two biases are added to, one `[heads, size]` each.
        let biased = |part: &Linear| -> Vec<(String, &'a NodeProto)> {
            let adds = self.read_by(&part.output, "Add");
            let bias = |add: &'a NodeProto| {
                let is_bias = |input: &&String| {
                    self.source.dims(input).is_some_and(|dims| {
                        dims.len() == 2 && dims.iter().product::<usize>() == part.n_out
                    })
                };
                add.input
                    .iter()
                    .find(is_bias)
                    .map(|bias| (bias.clone(), add))
            };
            adds.into_iter().filter_map(bias).collect()
        };
        let query = parts
            .iter()
            .find(|part| biased(part).len() == 2)
            .ok_or_else(|| missing("biases of queries"))?;
        let (mut towards_keys, mut towards_positions) = (None, None);
        for (bias, add) in biased(query) {
            let scores = self.read_by(&add.output[0], "MatMul");
            let other = scores.first().map(|scores| self.root(&scores.input[1]));
            let product = other
                .and_then(|other| self.products.iter().find(|product| product.output == other));
            let product = product.ok_or_else(|| missing("the scores of an attention"))?;
            if parts.iter().any(|part| part.index == product.index) {
                towards_keys = Some((bias, product));
            } else {
                towards_positions = Some((bias, product));
            }
        }
        let (Some((key_bias, key)), Some((position_bias, position))) =
            (towards_keys, towards_positions)
        else {
            return Err(missing("scores of keys and of positions"));
        };
        let value = parts
            .iter()
            .find(|part| part.index != query.index && part.index != key.index)
            .ok_or_else(|| missing("values"))?;
        let weighted = self.read_by(&value.output, "MatMul");
        let out = weighted
            .first()
            .and_then(|sums| self.reader(&sums.output[0]))
            .ok_or_else(|| missing("the product after an attention"))?;
        let sum = self.sum(stream, &out.output, 1.0)?;
        let block = Attention {
            norm,
            query: (*query).clone(),
            key: key.clone(),
            value: (*value).clone(),
            position: position.clone(),
            biases: [key_bias, position_bias],
            out: out.clone(),
        };
        Ok((block, sum))
    }

    fn convolution(&self, stream: &str) -> Traced<(Convolution, String)> {
        let (norm, normed) = self.norm(stream)?;
        let gate = self
            .reader(&normed)
            .ok_or_else(|| missing("the product before a gate"))?;
        let by_channel = self
            .by_channel_after(&gate.output, 12)
            .ok_or_else(|| missing("a convolution by channel"))?;
        let node = self.source.node(by_channel);
        let channels = gate.n_out / 2;
        let convolved = match node.op_type.as_str() {
            "Conv" if node.input.len() > 2 => node.output[0].clone(),
            "Conv" => linear::bias_after(self.source, &node.output[0], channels).1,
            _ => {
                let scaled = linear::scale_after(self.source, &node.output[0]);
                let (_, scaled) = scaled.ok_or_else(|| missing("the scale of a convolution"))?;
                linear::bias_after(self.source, &scaled, channels).1
            }
        };
        let activated = self.swish(&convolved)?;
        let out = self
            .reader(&activated)
            .ok_or_else(|| missing("the product after a convolution"))?;
        let sum = self.sum(stream, &out.output, 1.0)?;
        let block = Convolution {
            norm,
            gate: gate.clone(),
            by_channel,
            out: out.clone(),
        };
        Ok((block, sum))
    }

    /// The nearest convolution by channel behind a gate and its padding.
    fn by_channel_after(&self, value: &str, depth: usize) -> Option<usize> {
        self.source.consumers(value).iter().find_map(|&index| {
            let node = self.source.node(index);
            match node.op_type.as_str() {
                "Conv" | "ConvInteger" => (node.int("group").unwrap_or(1) > 1).then_some(index),
                "Split"
                | "Slice"
                | "Sigmoid"
                | "Mul"
                | "Where"
                | "Pad"
                | "DynamicQuantizeLinear"
                | "Transpose"
                | "Identity"
                | "Cast" => {
                    let outputs = node.output.iter();
                    let deeper = depth.checked_sub(1)?;
                    outputs
                        .into_iter()
                        .find_map(|output| self.by_channel_after(output, deeper))
                }
                _ => None,
            }
        })
    }

    /// The table that a product of positions reads a run of, and its rows.
    fn table(&self, position: &Linear) -> Traced<(String, usize)> {
        let slice = self
            .made_by(self.root(&position.input), "Slice")
            .ok_or_else(|| missing("a table of positions"))?;
        match self.source.dims(&slice.input[0]).as_deref() {
            Some(&[1, n, width]) if width == position.n_in && n % 2 == 1 => {
                Ok((slice.input[0].clone(), n))
            }
            _ => Err(missing("positions of a known shape")),
        }
    }

    /// The product between the convolutions and the layers: what it reads was made by a convolution's activation.
    fn front_out(&self) -> Traced<&Linear> {
        let is_activation = |value: &str| {
            let masked = self
                .made_by(value, "Mul")
                .map(|mask| mask.input[0].as_str());
            self.made_by(masked.unwrap_or(value), "Relu").is_some()
        };
        self.products
            .iter()
            .find(|product| is_activation(self.root(&product.input)))
            .ok_or_else(|| missing("the product after the subsampling"))
    }

    fn front(&self, out: &Linear, scale: f32) -> Traced<Front> {
        let kernel = |index: usize| {
            let node = self.source.node(index);
            let is_convolution = matches!(node.op_type.as_str(), "Conv" | "ConvInteger");
            let dims = self.source.dims(node.input.get(1)?)?;
            (is_convolution && dims.len() == 4).then_some((index, dims))
        };
        let found: Vec<_> = (0..self.source.nodes().len()).filter_map(kernel).collect();
        let unknown = || missing("a subsampling by 8");
        if found.len() != FRONT {
            return Err(unknown());
        }
        let channels = found[0].1[0];
        let ints = |index: usize, name: &str| {
            let attribute = self.source.node(index).attribute(name);
            attribute
                .map(|attribute| attribute.ints.clone())
                .unwrap_or_default()
        };
        let by_channel = |at: usize| {
            let (index, dims) = &found[at];
            let fits = dims[..] == [channels, 1, 3, 3]
                && ints(*index, "strides") == [2, 2]
                && ints(*index, "pads") == [1, 1, 1, 1];
            fits.then_some(*index).ok_or_else(unknown)
        };
        let product = |at: usize| {
            let index = found[at].0;
            let product = self.products.iter().find(|product| product.index == index);
            product
                .filter(|product| product.n_in == channels && product.n_out == channels)
                .cloned()
                .ok_or_else(unknown)
        };
        Ok(Front {
            first: by_channel(0)?,
            second: (by_channel(1)?, product(2)?),
            third: (by_channel(3)?, product(4)?),
            out: out.clone(),
            scale,
        })
    }
}
