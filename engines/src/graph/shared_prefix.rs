//! Splits a graph over audio windows in two where windows overlap: the layers at its start that give every stretch of
//! audio the same values wherever a window begins (convolutions and pooling without padding, operations on single
//! values), and the rest. The first part then runs once over the file instead of once for every window.
//!
//! The file's messages are moved as they are, so nothing that [`super::onnx`] does not know is lost.

use std::collections::{HashMap, HashSet};

use prost::Message;
use prost::bytes::Bytes;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

use super::GraphError;
use super::onnx::{
    Dimension, DimensionProto, NodeProto, TensorProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto, element,
};
use super::tensor::{self, Data};

/// A graph in two parts, each a model file of its own.
pub struct SharedPrefix {
    /// Audio `[1, 1, samples]` to values `[1, channels, frames]`.
    pub prefix: Vec<u8>,
    /// Values `[windows, channels, frames]` to what the graph gives.
    pub rest: Vec<u8>,
    /// Name of the values between the two.
    pub value: String,
    /// Samples from a frame of these values to the next; divides the step of the windows.
    pub stride: usize,
    /// Samples a frame of them sees.
    pub field: usize,
}

// Numbers of the fields in onnx.proto.
const MODEL_GRAPH: u32 = 7;
const GRAPH_NODE: u32 = 1;
const GRAPH_INITIALIZER: u32 = 5;
const GRAPH_INPUT: u32 = 11;
const GRAPH_OUTPUT: u32 = 12;
const GRAPH_VALUE_INFO: u32 = 13;

/// Operations that treat every frame alike and by itself; those with two operands when the second does not change with
/// time.
const POINTWISE: [&str; 16] = [
    "Abs",
    "Add",
    "Clip",
    "Div",
    "Exp",
    "LeakyRelu",
    "Log",
    "Mul",
    "Neg",
    "Pow",
    "Relu",
    "Sigmoid",
    "Sqrt",
    "Sub",
    "Tanh",
    "BatchNormalization",
];

/// One field of a message: its number, and where it and its content lie.
struct Field {
    number: u32,
    whole: Bytes,
    content: Bytes,
}

/// The fields of a message, undecoded.
fn fields(message: &Bytes) -> Result<Vec<Field>, GraphError> {
    let broken = |error: prost::DecodeError| GraphError::invalid(error.to_string());
    let mut rest = message.clone();
    let mut found = Vec::new();
    while !rest.is_empty() {
        let start = rest.clone();
        let (number, kind) = decode_key(&mut rest).map_err(broken)?;
        let length = match kind {
            WireType::LengthDelimited => decode_varint(&mut rest).map_err(broken)? as usize,
            WireType::Varint => {
                decode_varint(&mut rest).map_err(broken)?;
                0
            }
            WireType::SixtyFourBit => 8,
            WireType::ThirtyTwoBit => 4,
            WireType::StartGroup | WireType::EndGroup => {
                return Err(GraphError::invalid("the file is not an ONNX model"));
            }
        };
        if length > rest.len() {
            return Err(GraphError::invalid("the file is cut short"));
        }
        let content = rest.split_to(length);
        found.push(Field {
            number,
            whole: start.slice(..start.len() - rest.len()),
            content,
        });
    }
    Ok(found)
}

fn put(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(content.len() as u64, out);
    out.extend_from_slice(content);
}

/// How a value's frames lie over the audio.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Layout {
    stride: usize,
    field: usize,
}

impl Layout {
    fn then(self, kernel: usize, stride: usize) -> Self {
        Self {
            field: self.field + (kernel - 1) * self.stride,
            stride: self.stride * stride,
        }
    }
}

/// Splits the graph of a model file for windows that start every `step` samples. `None` when its first layers depend on
/// where a window begins, or when it is put together in a way this does not follow.
///
/// # Errors
/// A file that is not ONNX.
pub fn split(model: &Bytes, step: usize) -> Result<Option<SharedPrefix>, GraphError> {
    let model = fields(model)?;
    let Some(graph) = model.iter().find(|field| field.number == MODEL_GRAPH) else {
        return Err(GraphError::invalid("the file has no graph"));
    };
    let parts = Parts::read(fields(&graph.content)?)?;
    let Some(shared) = parts.shared_values(step) else {
        return Ok(None);
    };
    let is_shared = |node: &NodeProto| node.output.iter().all(|name| shared.contains_key(name));
    let (first, rest): (Vec<usize>, Vec<usize>) =
        (0..parts.nodes.len()).partition(|&at| is_shared(&parts.nodes[at].0));
    let read_later: HashSet<&str> = rest
        .iter()
        .flat_map(|&at| &parts.nodes[at].0.input)
        .chain(&parts.outputs)
        .map(String::as_str)
        .filter(|name| shared.contains_key(*name))
        .collect();
    // One value must carry all that the rest reads.
    let mut read_later = read_later.into_iter();
    let (Some(value), None) = (read_later.next(), read_later.next()) else {
        return Ok(None);
    };
    let convolves = first.iter().any(|&at| parts.nodes[at].0.op_type == "Conv");
    if !convolves || value == parts.input {
        return Ok(None);
    }
    let assemble = |graph: Vec<u8>| {
        let mut out = Vec::new();
        for field in &model {
            if field.number == MODEL_GRAPH {
                put(&mut out, MODEL_GRAPH, &graph);
            } else {
                out.extend_from_slice(&field.whole);
            }
        }
        out
    };
    let prefix = parts.graph(&first, &parts.input, Some(value));
    let layout = shared[value];
    Ok(Some(SharedPrefix {
        prefix: assemble(prefix),
        rest: assemble(parts.graph(&rest, value, None)),
        value: value.to_owned(),
        stride: layout.stride,
        field: layout.field,
    }))
}

/// A graph taken apart.
struct Parts {
    nodes: Vec<(NodeProto, Bytes)>,
    initializers: Vec<(String, Bytes)>,
    /// Constants by name, from initializers and `Constant` nodes.
    constants: HashMap<String, TensorProto>,
    input: String,
    outputs: Vec<String>,
    output_fields: Vec<Bytes>,
    others: Vec<Bytes>,
}

impl Parts {
    fn read(fields: Vec<Field>) -> Result<Self, GraphError> {
        let broken = |error: prost::DecodeError| GraphError::invalid(error.to_string());
        let mut parts = Self {
            nodes: Vec::new(),
            initializers: Vec::new(),
            constants: HashMap::new(),
            input: String::new(),
            outputs: Vec::new(),
            output_fields: Vec::new(),
            others: Vec::new(),
        };
        for Field {
            number,
            whole,
            content,
        } in fields
        {
            match number {
                GRAPH_NODE => {
                    let node = NodeProto::decode(content).map_err(broken)?;
                    let constant = node.attribute("value").and_then(|value| value.t.clone());
                    if let (Some(tensor), Some(name)) = (constant, node.output.first()) {
                        parts.constants.insert(name.clone(), tensor);
                    }
                    parts.nodes.push((node, whole));
                }
                GRAPH_INITIALIZER => {
                    let tensor = TensorProto::decode(content).map_err(broken)?;
                    parts.initializers.push((tensor.name.clone(), whole));
                    parts.constants.insert(tensor.name.clone(), tensor);
                }
                GRAPH_INPUT => {
                    let value = ValueInfoProto::decode(content).map_err(broken)?;
                    if parts.input.is_empty() {
                        parts.input = value.name;
                    }
                }
                GRAPH_OUTPUT => {
                    let value = ValueInfoProto::decode(content).map_err(broken)?;
                    parts.outputs.push(value.name);
                    parts.output_fields.push(whole);
                }
                // Shapes of inner values are hints, and those of the cut graphs are others.
                GRAPH_VALUE_INFO => {}
                _ => parts.others.push(whole),
            }
        }
        Ok(parts)
    }

    /// The values that depend on the audio alone and not on where a window begins; `None` when the graph has branches
    /// or weights outside the file.
    fn shared_values(&self, step: usize) -> Option<HashMap<String, Layout>> {
        let branches = |node: &NodeProto| node.attribute.iter().any(|a| a.g.is_some());
        let is_outside = |tensor: &TensorProto| tensor.data_location == 1;
        if self.nodes.iter().any(|(node, _)| branches(node))
            || self.constants.values().any(is_outside)
        {
            return None;
        }
        let audio = Layout {
            stride: 1,
            field: 1,
        };
        let mut shared = HashMap::from([(self.input.clone(), audio)]);
        for (node, _) in &self.nodes {
            if let (Some(layout), [output]) = (self.layout_after(node, &shared), &node.output[..])
                && step.is_multiple_of(layout.stride)
            {
                shared.insert(output.clone(), layout);
            }
        }
        Some(shared)
    }

    /// How the output of a node lies over the audio; `None` when it depends on the window.
    fn layout_after(&self, node: &NodeProto, shared: &HashMap<String, Layout>) -> Option<Layout> {
        let layout = *shared.get(node.input.first()?)?;
        let others = &node.input[1..];
        let is_constant = |name: &String| name.is_empty() || self.constants.contains_key(name);
        let ints = |name: &str| node.attribute(name).map_or(&[][..], |a| &a.ints[..]);
        let one = |values: &[i64]| match values {
            [] => Some(1),
            [value] => usize::try_from(*value).ok().filter(|&value| value > 0),
            _ => None,
        };
        match node.op_type.as_str() {
            "Conv" | "AveragePool" | "MaxPool" => {
                let pads = ints("pads").iter().all(|&pad| pad == 0);
                // Automatic padding is a string, which is not 0 only when it is absent.
                let plain =
                    node.attribute("auto_pad").is_none() && node.int("ceil_mode") != Some(1);
                if !pads || !plain || !others.iter().all(is_constant) {
                    return None;
                }
                let kernel = match ints("kernel_shape") {
                    [] => self.constants.get(others.first()?)?.dims.get(2).copied(),
                    [kernel] => Some(*kernel),
                    _ => None,
                };
                let kernel = usize::try_from(kernel?).ok().filter(|&kernel| kernel > 0)?;
                let reach = (kernel - 1) * one(ints("dilations"))? + 1;
                Some(layout.then(reach, one(ints("strides"))?))
            }
            "Slice" => {
                let axes = self.integers(node.input.get(3)?)?;
                let along_channels = axes == [1] || axes == [-2];
                (along_channels && others.iter().all(is_constant)).then_some(layout)
            }
            op if POINTWISE.contains(&op) => {
                let timeless = |name: &String| {
                    name.is_empty()
                        || shared.get(name) == Some(&layout)
                        || self.constants.get(name).is_some_and(|tensor| {
                            // Per-channel parameters, or a constant that broadcasts over time.
                            op == "BatchNormalization" || matches!(tensor.dims[..], [] | [.., 1])
                        })
                };
                others.iter().all(timeless).then_some(layout)
            }
            _ => None,
        }
    }

    fn integers(&self, name: &str) -> Option<Vec<i64>> {
        let constant = tensor::read(self.constants.get(name)?, "".as_ref()).ok()?;
        match constant.data {
            Data::Int64(values) => Some(values),
            _ => None,
        }
    }

    /// A graph of some of the nodes, with what they need, from a value to another or to the graph's own outputs.
    fn graph(&self, nodes: &[usize], from: &str, to: Option<&str>) -> Vec<u8> {
        let mut out = Vec::new();
        let read: HashSet<&str> = nodes
            .iter()
            .flat_map(|&at| &self.nodes[at].0.input)
            .map(String::as_str)
            .collect();
        // `Constant` nodes depend on nothing and may be wanted on both sides.
        let constants = (0..self.nodes.len()).filter(|at| {
            let node = &self.nodes[*at].0;
            node.op_type == "Constant" && node.output.iter().any(|name| read.contains(&**name))
        });
        let others = nodes.iter().copied();
        let others = others.filter(|&at| self.nodes[at].0.op_type != "Constant");
        for at in constants.chain(others) {
            out.extend_from_slice(&self.nodes[at].1);
        }
        for (name, whole) in &self.initializers {
            if read.contains(name.as_str()) {
                out.extend_from_slice(whole);
            }
        }
        put(&mut out, GRAPH_INPUT, &port(from));
        match to {
            Some(value) => put(&mut out, GRAPH_OUTPUT, &port(value)),
            None => {
                for whole in &self.output_fields {
                    out.extend_from_slice(whole);
                }
            }
        }
        for whole in &self.others {
            out.extend_from_slice(whole);
        }
        out
    }
}

/// A float tensor of three sizes that are known when the graph runs.
fn port(name: &str) -> Vec<u8> {
    let size = |name: &str| DimensionProto {
        value: Some(Dimension::Name(name.to_owned())),
    };
    let shape = TensorShapeProto {
        dim: vec![size("windows"), size("channels"), size("time")],
    };
    let kind = TypeProto {
        tensor_type: Some(TensorTypeProto {
            elem_type: element::FLOAT,
            shape: Some(shape),
        }),
    };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(kind),
    }
    .encode_to_vec()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::graph::onnx::{AttributeProto, GraphProto, ModelProto};

    fn published() -> Bytes {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/models/pyannote-segmentation-nano/model.onnx"
        );
        std::fs::read(path).unwrap().into()
    }

    #[test]
    fn the_filters_of_a_published_graph_are_shared_by_its_windows() {
        let split = split(&published(), 16_000).unwrap().unwrap();
        assert_eq!((split.stride, split.field), (10, 251));
        let nodes = |model: Vec<u8>| {
            let graph = ModelProto::decode(&model[..]).unwrap().graph.unwrap();
            let operations = graph.node.into_iter().map(|node| node.op_type);
            operations
                .filter(|operation| operation != "Constant")
                .collect::<Vec<_>>()
        };
        // Pooling by 27 does not come out even over a second.
        assert_eq!(
            nodes(split.prefix),
            ["Conv", "Mul", "Slice", "Slice", "Add"]
        );
        assert_eq!(nodes(split.rest)[0], "AveragePool");
    }

    #[test]
    fn nothing_is_shared_when_the_stride_does_not_divide_the_step() {
        assert!(split(&published(), 16_001).unwrap().is_none());
    }

    #[test]
    fn a_padded_or_normalised_first_layer_depends_on_the_window() {
        let check = |op_type: &str, pads: Vec<i64>| {
            let node = NodeProto {
                op_type: op_type.to_owned(),
                input: vec!["x".to_owned(), "w".to_owned()],
                output: vec!["y".to_owned()],
                attribute: vec![AttributeProto {
                    name: "pads".to_owned(),
                    ints: pads,
                    ..Default::default()
                }],
                ..Default::default()
            };
            let value = |name: &str| ValueInfoProto {
                name: name.to_owned(),
                r#type: None,
            };
            let after = NodeProto {
                op_type: "Softmax".to_owned(),
                input: vec!["y".to_owned()],
                output: vec!["z".to_owned()],
                ..Default::default()
            };
            let graph = GraphProto {
                node: vec![node, after],
                initializer: vec![TensorProto {
                    name: "w".to_owned(),
                    dims: vec![2, 1, 3],
                    ..Default::default()
                }],
                input: vec![value("x")],
                output: vec![value("z")],
                ..Default::default()
            };
            let model = ModelProto {
                graph: Some(graph),
                ..Default::default()
            };
            split(&model.encode_to_vec().into(), 10).unwrap().is_some()
        };
        assert!(check("Conv", vec![0, 0]));
        assert!(!check("Conv", vec![1, 1]));
        assert!(!check("InstanceNormalization", vec![]));
    }
}
