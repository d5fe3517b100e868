//! Finds a Whisper network in a published graph, by following values rather than names: around every softmax lie the
//! products that make queries, keys and values, after it the product that joins the heads, and what remains are the
//! two products of each feed-forward block and, in a decoder, the output head.

use std::collections::HashMap;

use super::linear::{self, Linear};
use super::onnx::NodeProto;
use super::source::Source;
use super::{GraphError, NotRecognised};

/// A layer normalisation.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Gain, a constant.
    pub weight: String,
    /// Offset, a constant.
    pub bias: String,
    /// Added to the variance.
    pub epsilon: f32,
}

/// An attention and the normalisation before it.
#[derive(Debug, Clone)]
pub struct Attention {
    /// Normalisation of the input.
    pub norm: Norm,
    /// Queries.
    pub query: Linear,
    /// Keys.
    pub key: Linear,
    /// Values.
    pub value: Linear,
    /// Joins the heads.
    pub out: Linear,
}

/// A feed-forward block and the normalisation before it.
#[derive(Debug, Clone)]
pub struct FeedForward {
    /// Normalisation of the input.
    pub norm: Norm,
    /// Into the wide space.
    pub up: Linear,
    /// And back.
    pub down: Linear,
}

/// A Whisper encoder's parts.
#[derive(Debug)]
pub struct Encoder {
    /// The two convolutions' nodes.
    pub convolutions: [usize; 2],
    /// Positions `[n_ctx, d]`, a constant.
    pub positions: String,
    /// Layers.
    pub layers: Vec<(Attention, FeedForward)>,
    /// Normalisation of the output.
    pub norm: Norm,
}

/// A decoder layer.
#[derive(Debug)]
pub struct DecoderLayer {
    /// Self-attention.
    pub self_attention: Attention,
    /// Attention to the encoder's states.
    pub cross_attention: Attention,
    /// Feed-forward.
    pub feed_forward: FeedForward,
}

/// A Whisper decoder's parts.
#[derive(Debug)]
pub struct Decoder {
    /// The node that looks up tokens.
    pub tokens: usize,
    /// The node that looks up, or cuts out, positions; its first input is the table.
    pub positions: usize,
    /// Layers.
    pub layers: Vec<DecoderLayer>,
    /// Normalisation of the output.
    pub norm: Norm,
    /// Output head.
    pub head: Linear,
}

struct Tracer<'a> {
    source: &'a Source,
    linears: Vec<Linear>,
    by_output: HashMap<&'a str, usize>,
    norms: HashMap<String, Norm>,
}

pub(super) type Traced<T> = Result<T, GraphError>;

pub(super) fn missing(what: &str) -> GraphError {
    GraphError::NotRecognised(NotRecognised {
        missing: what.to_owned(),
    })
}

/// Finds an encoder with `n_ctx` positions.
///
/// # Errors
/// [`GraphError::NotRecognised`].
pub fn encoder(source: &Source, n_ctx: usize) -> Traced<Encoder> {
    let tracer = Tracer::new(source);
    let linears = &tracer.linears;
    let convolutions: Vec<usize> = (0..source.nodes().len())
        .filter(|&index| matches!(source.node(index).op_type.as_str(), "Conv" | "ConvInteger"))
        .collect();
    let convolutions: [usize; 2] = convolutions
        .try_into()
        .map_err(|_| missing("exactly two convolutions"))?;
    let (mut attentions, used) = tracer.attentions()?;
    let mut blocks = tracer.feed_forwards(&used)?;
    if attentions.is_empty() || attentions.len() != blocks.len() {
        return Err(missing("one feed-forward block for each attention"));
    }
    let width = linears[0].n_in;
    let fits = |dims: &[usize]| {
        dims.ends_with(&[n_ctx, width]) && dims.iter().product::<usize>() == n_ctx * width
    };
    let positions = source
        .nodes()
        .iter()
        .filter(|node| node.op_type == "Add")
        .flat_map(|node| &node.input)
        .find(|input| source.dims(input).is_some_and(|dims| fits(&dims)))
        .ok_or_else(|| missing("positions added to the convolutions' output"))?
        .clone();
    let output = source
        .outputs()
        .first()
        .ok_or_else(|| missing("an output"))?;
    let norm = tracer.norm_before(output)?;
    let layers = attentions.drain(..).zip(blocks.drain(..)).collect();
    Ok(Encoder {
        convolutions,
        positions,
        layers,
        norm,
    })
}

/// Finds a decoder with `n_text_ctx` positions and a vocabulary of `n_vocab`.
///
/// # Errors
/// [`GraphError::NotRecognised`].
pub fn decoder(source: &Source, n_text_ctx: usize, n_vocab: usize) -> Traced<Decoder> {
    let tracer = Tracer::new(source);
    let (attentions, used) = tracer.attentions()?;
    let head = tracer
        .linears
        .iter()
        .rfind(|linear| linear.n_out == n_vocab)
        .ok_or_else(|| missing("an output head"))?
        .clone();
    let used: Vec<usize> = used.into_iter().chain([head.index]).collect();
    let blocks = tracer.feed_forwards(&used)?;
    if blocks.is_empty() || attentions.len() != 2 * blocks.len() {
        return Err(missing("two attentions for each feed-forward block"));
    }
    let listens = |attention: &Attention| attention.key.input.contains("encoder_hidden_states");
    let mut layers = Vec::new();
    let mut attentions = attentions.into_iter();
    for feed_forward in blocks {
        match (attentions.next(), attentions.next()) {
            (Some(self_attention), Some(cross_attention))
                if !listens(&self_attention) && listens(&cross_attention) =>
            {
                layers.push(DecoderLayer {
                    self_attention,
                    cross_attention,
                    feed_forward,
                });
            }
            _ => return Err(missing("self-attention and cross-attention in turn")),
        }
    }
    let norm = tracer.norm_before(&head.input)?;
    let looks_up = |dims: [usize; 2]| {
        let mut found = (0..source.nodes().len()).filter(|&index| {
            let node = source.node(index);
            matches!(node.op_type.as_str(), "Gather" | "Slice")
                && source
                    .dims(&node.input[0])
                    .is_some_and(|found| found == dims)
        });
        found.next()
    };
    Ok(Decoder {
        tokens: looks_up([n_vocab, head.n_in]).ok_or_else(|| missing("a lookup of tokens"))?,
        positions: looks_up([n_text_ctx, head.n_in])
            .ok_or_else(|| missing("a lookup of positions"))?,
        layers,
        norm,
        head,
    })
}

impl<'a> Tracer<'a> {
    fn new(source: &'a Source) -> Self {
        let linears = linear::find(source);
        let by_output = linears
            .iter()
            .enumerate()
            .filter_map(|(at, linear)| {
                let node = source.node(source.producer(&linear.output)?);
                let name = node
                    .output
                    .iter()
                    .find(|output| **output == linear.output)?;
                Some((name.as_str(), at))
            })
            .collect();
        let norms = (0..source.nodes().len())
            .filter_map(|index| norm_at(source, index))
            .collect();
        Self {
            source,
            linears,
            by_output,
            norms,
        }
    }

    /// All attentions in order, and the places of the products they use.
    fn attentions(&self) -> Traced<(Vec<Attention>, Vec<usize>)> {
        let mut attentions = Vec::new();
        let mut used = Vec::new();
        for softmax in self
            .source
            .nodes()
            .iter()
            .filter(|node| node.op_type == "Softmax")
        {
            let scores = self
                .product_behind(&softmax.input[0], 8)
                .ok_or_else(|| missing("the scores of an attention"))?;
            let query = self
                .linear_behind(&scores.input[0], 16)
                .ok_or_else(|| missing("the queries of an attention"))?;
            let key = self
                .linear_behind(&scores.input[1], 16)
                .ok_or_else(|| missing("the keys of an attention"))?;
            let sums = self
                .product_after(&softmax.output[0], 6)
                .ok_or_else(|| missing("the sums of an attention"))?;
            let value = self
                .linear_behind(&sums.input[1], 16)
                .ok_or_else(|| missing("the values of an attention"))?;
            let out = self
                .linear_after(&sums.output[0], 8)
                .ok_or_else(|| missing("the product after an attention"))?;
            used.extend([query.index, key.index, value.index, out.index]);
            attentions.push(Attention {
                norm: self.norm_before(&query.input)?,
                query: query.clone(),
                key: key.clone(),
                value: value.clone(),
                out: out.clone(),
            });
        }
        attentions.sort_by_key(|attention| attention.out.index);
        Ok((attentions, used))
    }

    /// Pairs of the products that are not `used`.
    fn feed_forwards(&self, used: &[usize]) -> Traced<Vec<FeedForward>> {
        let rest: Vec<&Linear> = self
            .linears
            .iter()
            .filter(|linear| !used.contains(&linear.index))
            .collect();
        let (pairs, odd) = rest.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(missing("feed-forward products in pairs"));
        }
        pairs
            .iter()
            .map(|[up, down]| {
                if up.n_out != down.n_in || up.n_in != down.n_out {
                    return Err(missing("feed-forward products that fit each other"));
                }
                Ok(FeedForward {
                    norm: self.norm_before(&up.input)?,
                    up: (*up).clone(),
                    down: (*down).clone(),
                })
            })
            .collect()
    }

    fn norm_before(&self, value: &str) -> Traced<Norm> {
        let value = self.source.behind(value);
        self.norms
            .get(value)
            .cloned()
            .ok_or_else(|| missing("a layer normalisation before a product"))
    }

    /// The nearest product of two computed values that a value is made from.
    fn product_behind(&self, value: &str, depth: usize) -> Option<&'a NodeProto> {
        let node = self.source.node(self.source.producer(value)?);
        if matches!(node.op_type.as_str(), "MatMul" | "FusedMatMul") {
            return Some(node);
        }
        self.operands(node)
            .find_map(|input| self.product_behind(input, depth.checked_sub(1)?))
    }

    /// The nearest product with constant weights that a value is made from.
    fn linear_behind(&self, value: &str, depth: usize) -> Option<&Linear> {
        if let Some(&at) = self.by_output.get(value) {
            return Some(&self.linears[at]);
        }
        let node = self.source.node(self.source.producer(value)?);
        self.operands(node)
            .find_map(|input| self.linear_behind(input, depth.checked_sub(1)?))
    }

    /// The inputs of a node that carry data, not shapes or indexes.
    fn operands(&self, node: &'a NodeProto) -> impl Iterator<Item = &'a str> {
        let count = match node.op_type.as_str() {
            "Reshape" | "Transpose" | "Unsqueeze" | "Squeeze" | "Cast" | "Identity" | "Slice"
            | "Expand" => 1,
            "Add" | "Sub" | "Mul" | "Div" | "Where" | "Concat" => node.input.len(),
            _ => 0,
        };
        node.input[..count.min(node.input.len())]
            .iter()
            .map(String::as_str)
    }

    /// The product that reads softmax's output, through what guards it against rows of nothing.
    fn product_after(&self, value: &str, depth: usize) -> Option<&'a NodeProto> {
        self.source.consumers(value).iter().find_map(|&index| {
            let node = self.source.node(index);
            match node.op_type.as_str() {
                "MatMul" if node.input[0] == value => Some(node),
                "Where" | "Identity" | "Cast" => {
                    self.product_after(&node.output[0], depth.checked_sub(1)?)
                }
                _ => None,
            }
        })
    }

    /// The product with constant weights that reads a value, through changes of shape.
    fn linear_after(&self, value: &str, depth: usize) -> Option<&Linear> {
        if let Some(linear) = self.linears.iter().find(|linear| linear.input == value) {
            return Some(linear);
        }
        self.source.consumers(value).iter().find_map(|&index| {
            let node = self.source.node(index);
            match node.op_type.as_str() {
                "Transpose" | "Reshape" | "Identity" | "Cast" | "Unsqueeze" | "Squeeze" => {
                    self.linear_after(&node.output[0], depth.checked_sub(1)?)
                }
                _ => None,
            }
        })
    }
}

/// A layer normalisation that ends at a node: the operator, or its parts as older exports have them.
pub(super) fn norm_at(source: &Source, index: usize) -> Option<(String, Norm)> {
    let node = source.node(index);
    if node.op_type == "LayerNormalization" {
        let epsilon = node
            .attribute("epsilon")
            .map_or(1e-5, |attribute| attribute.f);
        let norm = Norm {
            weight: node.input[1].clone(),
            bias: node.input.get(2)?.clone(),
            epsilon,
        };
        return Some((node.output[0].clone(), norm));
    }
    let constant_and_rest = |node: &'_ NodeProto| {
        let constant = node
            .input
            .iter()
            .position(|input| source.dims(input).is_some_and(|dims| dims.len() == 1))?;
        Some((
            node.input[constant].clone(),
            node.input[1 - constant].clone(),
        ))
    };
    if node.op_type != "Add" {
        return None;
    }
    let (bias, scaled) = constant_and_rest(node)?;
    let scaled = source.node(source.producer(&scaled)?);
    if scaled.op_type != "Mul" {
        return None;
    }
    let (weight, divided) = constant_and_rest(scaled)?;
    let divided = source.node(source.producer(&divided)?);
    if divided.op_type != "Div" {
        return None;
    }
    let deviation = source.node(source.producer(&divided.input[1])?);
    if deviation.op_type != "Sqrt" {
        return None;
    }
    let variance = source.node(source.producer(&deviation.input[0])?);
    let epsilon = variance
        .input
        .iter()
        .find(|input| source.is_constant(input))?;
    let epsilon = *source.floats(epsilon).ok()?.first()?;
    Some((
        node.output[0].clone(),
        Norm {
            weight,
            bias,
            epsilon,
        },
    ))
}
