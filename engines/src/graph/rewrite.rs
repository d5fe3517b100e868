//! The compact graphs: the same network with the same weights, in fewer and larger operations.
//!
//! Encoder: mel in, packed cross-attention keys and values of every decoder layer out (the states themselves are not
//! needed again). Decoder: tokens in, logits of chosen positions out; its cache is written in place. The alignment
//! graph is the decoder with cross-attention weights as outputs, over the same weights file.

use super::emit::matrix::Written;
use super::emit::{Attribute, Builder, MICROSOFT, Size, WeightFile};
use super::linear::{self, Convolution, Linear, Matrix};
use super::onnx::element;
use super::operators::linear::Activation;
use super::operators::{DOMAIN, names, window_attention};
use super::recognise::{Attention, Decoder, Encoder, FeedForward, Norm};
use super::source::Source;
use super::{Arithmetic, GraphError, Shape};

mod stem;

/// How products and attention are computed, decided for this processor when the graphs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kernels {
    arithmetic: Arithmetic,
    /// Reduced-precision encoder attention of our own instead of ONNX Runtime's.
    window_attention: bool,
}

impl Kernels {
    /// The best for this processor.
    pub fn for_this_processor(arithmetic: Arithmetic, shape: &Shape) -> Self {
        let head_dim = shape.width / shape.encoder_heads.max(1);
        let int8 = arithmetic == Arithmetic::Int8;
        Self {
            arithmetic,
            window_attention: int8
                && window_attention::is_supported()
                && window_attention::is_supported_head(head_dim),
        }
    }

    /// A name for folders and stamps.
    pub fn name(self) -> String {
        let arithmetic = match self.arithmetic {
            Arithmetic::Float => "float",
            Arithmetic::Int8 => "int8",
        };
        let attention = if self.window_attention {
            "-reduced-attention"
        } else {
            ""
        };
        format!("{arithmetic}{attention}")
    }
}

/// Names of the packed tensors of a decoder layer: outputs of the encoder, inputs of the decoder.
pub fn packed_names(arithmetic: Arithmetic, layer: usize) -> Vec<String> {
    let parts: &[&str] = match arithmetic {
        Arithmetic::Float => &["keys", "values"],
        Arithmetic::Int8 => &["keys", "key_scale", "values", "value_scale"],
    };
    parts
        .iter()
        .map(|part| format!("cross.{layer}.{part}"))
        .collect()
}

/// Name of a decoder layer's cache.
pub fn cache_name(layer: usize) -> String {
    format!("cache.{layer}")
}

/// Name of a decoder layer's cross-attention weights in the alignment graph.
pub fn attention_name(layer: usize) -> String {
    format!("cross_attention.{layer}")
}

/// What becomes of a product.
#[derive(Debug, Clone, Copy)]
enum After<'v> {
    /// Nothing.
    Nothing,
    /// The activation between the products of a feed-forward block.
    Gelu,
    /// It is added to this value.
    Added(&'v str),
}

/// What both graphs are written with.
pub struct Writer<'a> {
    builder: Builder<'a>,
    source: &'a Source,
    kernels: Kernels,
    prefix: &'static str,
}

impl<'a> Writer<'a> {
    fn new(
        name: &'static str,
        source: &'a Source,
        weights: &'a mut WeightFile,
        kernels: Kernels,
    ) -> Self {
        Self {
            builder: Builder::new(name, weights),
            source,
            kernels,
            prefix: name,
        }
    }

    fn norm(&mut self, value: &str, norm: &Norm, name: &str) -> Result<String, GraphError> {
        let source = self.source;
        let weight = source.floats(&norm.weight)?;
        let bias = source.floats(&norm.bias)?;
        let n = weight.len();
        let name = format!("{}.{name}", self.prefix);
        let weight = self
            .builder
            .floats(&format!("{name}.weight"), &[n], || Ok(weight))?;
        let bias = self
            .builder
            .floats(&format!("{name}.bias"), &[n], || Ok(bias))?;
        let attributes = [
            ("axis", Attribute::Int(-1)),
            ("epsilon", Attribute::Float(norm.epsilon)),
        ];
        Ok(self.builder.node(
            "LayerNormalization",
            "",
            &[value, &weight, &bias],
            &attributes,
        ))
    }

    /// A product with one matrix, or with several side by side.
    fn linear(&mut self, value: &str, parts: &[&Linear], name: &str) -> Result<String, GraphError> {
        self.linear_and(value, parts, name, After::Nothing)
    }

    /// [`Writer::linear`], and what becomes of the product.
    fn linear_and(
        &mut self,
        value: &str,
        parts: &[&Linear],
        name: &str,
        after: After<'_>,
    ) -> Result<String, GraphError> {
        let source = self.source;
        let sizes = [parts[0].n_in, parts.iter().map(|part| part.n_out).sum()];
        self.product(value, name, sizes, after, || {
            let mut bias = Vec::new();
            let mut matrices = Vec::new();
            for part in parts {
                bias.extend(part.bias(source)?);
                matrices.push((part.matrix(source)?, part.n_out));
            }
            Ok((Matrix::beside(matrices), bias))
        })
    }

    /// The product with a matrix `[n_in, n_out]`: in floats ONNX Runtime's own, which the reference equals; in 8 bits
    /// ours, which takes a scale for each row, so that neither a window nor a sequence feels its neighbours in a batch.
    fn product(
        &mut self,
        value: &str,
        name: &str,
        [n_in, n_out]: [usize; 2],
        after: After<'_>,
        load: impl FnOnce() -> Result<(Matrix, Vec<f32>), GraphError>,
    ) -> Result<String, GraphError> {
        let name = format!("{}.{name}", self.prefix);
        let builder = &mut self.builder;
        if self.kernels.arithmetic == Arithmetic::Int8 {
            let matrix = Written::new(builder, Arithmetic::Int8, &name, [n_in, n_out], load)?;
            let (activation, residual) = match after {
                After::Nothing => (Activation::None, None),
                After::Gelu => (Activation::Gelu, None),
                After::Added(stream) => (Activation::None, Some((stream, 1.0))),
            };
            return Ok(matrix.times(builder, value, activation, residual));
        }
        let (matrix, bias) = load()?;
        let has_bias = bias.iter().any(|&value| value != 0.0);
        let weight = builder.floats(&format!("{name}.weight"), &[n_in, n_out], || {
            Ok(matrix.into_float())
        })?;
        let mut product = builder.node("MatMul", "", &[value, &weight], &[]);
        if has_bias {
            let bias = builder.floats(&format!("{name}.bias"), &[n_out], || Ok(bias))?;
            product = builder.node("Add", "", &[&product, &bias], &[]);
        }
        Ok(match after {
            After::Nothing => product,
            After::Gelu => builder.node("Gelu", MICROSOFT, &[&product], &[]),
            After::Added(stream) => builder.node("Add", "", &[stream, &product], &[]),
        })
    }

    fn feed_forward(
        &mut self,
        value: &str,
        block: &FeedForward,
        layer: usize,
    ) -> Result<String, GraphError> {
        let normed = self.norm(value, &block.norm, &format!("{layer}.mlp_ln"))?;
        let (up, down) = (format!("{layer}.mlp.0"), format!("{layer}.mlp.2"));
        let wide = self.linear_and(&normed, &[&block.up], &up, After::Gelu)?;
        self.linear_and(&wide, &[&block.down], &down, After::Added(value))
    }

    fn queries_keys_values(
        &mut self,
        value: &str,
        block: &Attention,
        name: &str,
    ) -> Result<String, GraphError> {
        let normed = self.norm(value, &block.norm, &format!("{name}_ln"))?;
        self.linear(
            &normed,
            &[&block.query, &block.key, &block.value],
            &format!("{name}.qkv"),
        )
    }
}

/// Writes the encoder.
///
/// # Errors
/// Those of reading constants and of writing.
pub fn write_encoder(
    (encoder, source): (&Encoder, &Source),
    (decoder, decoder_source): (&Decoder, &Source),
    shape: &Shape,
    kernels: Kernels,
    weights: &mut WeightFile,
    path: &std::path::Path,
) -> Result<(), GraphError> {
    let mut writer = Writer::new("encoder", source, weights, kernels);
    let sizes = [
        Size::Named("batch"),
        Size::Of(shape.n_mels),
        Size::Named("frames"),
    ];
    writer
        .builder
        .input("input_features", element::FLOAT, &sizes);
    let mut value = writer.convolutions(encoder, source)?;
    let positions =
        writer
            .builder
            .floats("encoder.positions", &[shape.n_ctx, shape.width], || {
                source.floats(&encoder.positions)
            })?;
    value = writer.builder.node("Add", "", &[&value, &positions], &[]);

    let heads = [("num_heads", Attribute::Int(shape.encoder_heads as i64))];
    for (layer, (attention, feed_forward)) in encoder.layers.iter().enumerate() {
        let name = format!("{layer}.attn");
        let mixed = if kernels.window_attention {
            let qkv = writer.queries_keys_values(&value, attention, &name)?;
            writer
                .builder
                .node(names::WINDOW_ATTENTION, DOMAIN, &[&qkv], &heads)
        } else {
            let normed = writer.norm(&value, &attention.norm, &format!("{name}_ln"))?;
            let query = writer.linear(&normed, &[&attention.query], &format!("{name}.query"))?;
            let key = writer.linear(&normed, &[&attention.key], &format!("{name}.key"))?;
            let values = writer.linear(&normed, &[&attention.value], &format!("{name}.value"))?;
            writer.builder.node(
                "MultiHeadAttention",
                MICROSOFT,
                &[&query, &key, &values],
                &heads,
            )
        };
        let (out, stream) = (format!("{name}.out"), After::Added(&value));
        value = writer.linear_and(&mixed, &[&attention.out], &out, stream)?;
        value = writer.feed_forward(&value, feed_forward, layer)?;
    }
    value = writer.norm(&value, &encoder.norm, "ln_post")?;

    writer.source = decoder_source;
    writer.prefix = "decoder";
    let heads = [("num_heads", Attribute::Int(shape.decoder_heads as i64))];
    for (layer, block) in decoder.layers.iter().enumerate() {
        let cross = &block.cross_attention;
        let kv = writer.linear(
            &value,
            &[&cross.key, &cross.value],
            &format!("{layer}.cross_attn.kv"),
        )?;
        let outputs = packed_names(kernels.arithmetic, layer);
        let op = match kernels.arithmetic {
            Arithmetic::Float => names::PACK,
            Arithmetic::Int8 => names::PACK_INT8,
        };
        let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
        writer.builder.node_to(op, DOMAIN, &[&kv], &outputs, &heads);
        declare_packed(
            &mut writer.builder,
            kernels.arithmetic,
            &outputs,
            shape,
            Builder::output,
        );
    }
    writer.builder.save(path)
}

fn declare_packed<'w>(
    builder: &mut Builder<'w>,
    arithmetic: Arithmetic,
    names: &[&str],
    shape: &Shape,
    declare: fn(&mut Builder<'w>, &str, i32, &[Size]),
) {
    let (windows, heads) = (Size::Named("windows"), Size::Of(shape.decoder_heads));
    let head = shape.decoder_head();
    let elements: &[i32] = match arithmetic {
        Arithmetic::Float => &[element::FLOAT, element::FLOAT],
        Arithmetic::Int8 => &[
            element::UINT8,
            element::FLOAT,
            element::INT8,
            element::FLOAT,
        ],
    };
    for ((name, &element), len) in names
        .iter()
        .zip(elements)
        .zip(packed_lens(arithmetic, head))
    {
        declare(builder, name, element, &[windows, heads, Size::Of(len)]);
    }
}

/// Elements of each packed tensor for one head.
pub fn packed_lens(
    arithmetic: Arithmetic,
    head: super::operators::cross_attention::HeadShape,
) -> Vec<usize> {
    let (keys, values) = (head.padded() * head.head_dim, head.n_ctx * head.head_dim);
    match arithmetic {
        Arithmetic::Float => vec![keys, values],
        Arithmetic::Int8 => vec![keys, head.padded(), values, head.head_dim],
    }
}

/// Writes the decoder, or with `attentions` the alignment graph.
///
/// # Errors
/// Those of reading constants and of writing.
pub fn write_decoder(
    decoder: &Decoder,
    source: &Source,
    shape: &Shape,
    kernels: Kernels,
    attentions: bool,
    weights: &mut WeightFile,
    path: &std::path::Path,
) -> Result<(), GraphError> {
    let mut writer = Writer::new("decoder", source, weights, kernels);
    let (rows, tokens) = (Size::Named("sequences"), Size::Named("tokens"));
    writer
        .builder
        .input("tokens", element::INT64, &[rows, tokens]);
    writer.builder.input("positions", element::INT64, &[tokens]);
    writer.builder.input("past", element::INT64, &[Size::Of(1)]);
    writer.builder.input("slots", element::INT32, &[rows]);
    writer.builder.input("windows", element::INT32, &[rows]);
    if !attentions {
        writer.builder.input(
            "chosen",
            element::INT64,
            &[Size::Named("chosen"), Size::Of(2)],
        );
    }

    let table = [shape.n_vocab, shape.width];
    let embedding = writer
        .builder
        .floats("decoder.token_embedding", &table, || {
            linear::gathered_table(source, decoder.tokens)
        })?;
    let table = [shape.n_text_ctx, shape.width];
    let positions =
        writer
            .builder
            .floats("decoder.positional_embedding", &table, || {
                match source.node(decoder.positions).op_type.as_str() {
                    "Gather" => linear::gathered_table(source, decoder.positions),
                    _ => source.floats(&source.node(decoder.positions).input[0]),
                }
            })?;
    let embedded = writer
        .builder
        .node("Gather", "", &[&embedding, "tokens"], &[]);
    let placed = writer
        .builder
        .node("Gather", "", &[&positions, "positions"], &[]);
    let mut value = writer.builder.node("Add", "", &[&embedded, &placed], &[]);

    let heads = ("num_heads", Attribute::Int(shape.decoder_heads as i64));
    let n_ctx = ("n_ctx", Attribute::Int(shape.n_ctx as i64));
    for (layer, block) in decoder.layers.iter().enumerate() {
        let cache = cache_name(layer);
        let sizes = [
            Size::Named("slots"),
            Size::Of(2),
            Size::Of(shape.decoder_heads),
            Size::Named("capacity"),
            Size::Of(shape.decoder_head().head_dim),
        ];
        writer.builder.input(&cache, element::FLOAT, &sizes);
        let qkv =
            writer.queries_keys_values(&value, &block.self_attention, &format!("{layer}.attn"))?;
        let mixed = writer.builder.node(
            names::CACHED_SELF_ATTENTION,
            DOMAIN,
            &[&qkv, "past", "slots", &cache],
            std::slice::from_ref(&heads),
        );
        let (out, stream) = (format!("{layer}.attn.out"), After::Added(&value));
        value = writer.linear_and(&mixed, &[&block.self_attention.out], &out, stream)?;

        let cross = &block.cross_attention;
        let normed = writer.norm(&value, &cross.norm, &format!("{layer}.cross_attn_ln"))?;
        let query = writer.linear(
            &normed,
            &[&cross.query],
            &format!("{layer}.cross_attn.query"),
        )?;
        let packed = packed_names(kernels.arithmetic, layer);
        let packed: Vec<&str> = packed.iter().map(String::as_str).collect();
        declare_packed(
            &mut writer.builder,
            kernels.arithmetic,
            &packed,
            shape,
            Builder::input,
        );
        let op = match kernels.arithmetic {
            Arithmetic::Float => names::CROSS_ATTENTION,
            Arithmetic::Int8 => names::CROSS_ATTENTION_INT8,
        };
        let inputs: Vec<&str> = [query.as_str(), "windows"]
            .into_iter()
            .chain(packed)
            .collect();
        let attention = attention_name(layer);
        let mixed = format!("cross.{layer}.out");
        let outputs = if attentions {
            vec![mixed.as_str(), &attention]
        } else {
            vec![mixed.as_str()]
        };
        writer.builder.node_to(
            op,
            DOMAIN,
            &inputs,
            &outputs,
            &[heads.clone(), n_ctx.clone()],
        );
        if attentions {
            let sizes = [
                rows,
                Size::Of(shape.decoder_heads),
                tokens,
                Size::Of(shape.n_ctx),
            ];
            writer.builder.output(&attention, element::FLOAT, &sizes);
            if layer + 1 == decoder.layers.len() {
                break;
            }
        }
        let (out, stream) = (format!("{layer}.cross_attn.out"), After::Added(&value));
        value = writer.linear_and(&mixed, &[&cross.out], &out, stream)?;
        value = writer.feed_forward(&value, &block.feed_forward, layer)?;
    }
    if !attentions {
        value = writer
            .builder
            .node("GatherND", "", &[&value, "chosen"], &[]);
        value = writer.norm(&value, &decoder.norm, "ln")?;
        value = writer.linear(&value, &[&decoder.head], "head")?;
        writer
            .builder
            .node_to("Identity", "", &[&value], &["logits"], &[]);
        writer.builder.output(
            "logits",
            element::FLOAT,
            &[Size::Named("chosen"), Size::Of(shape.n_vocab)],
        );
    }
    writer.builder.save(path)
}
