//! A published graph as rewriting looks at it: one flat list of nodes (the branch of a merged decoder that runs without
//! a cache holds every weight), who makes and who reads each value, and constants behind whatever wraps them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;

use super::GraphError;
use super::onnx::{GraphProto, ModelProto, NodeProto, TensorProto};
use super::tensor::{self, Constant, Data};

/// A graph that is read from.
pub struct Source {
    folder: PathBuf,
    nodes: Vec<NodeProto>,
    constants: HashMap<String, TensorProto>,
    producers: HashMap<String, usize>,
    consumers: HashMap<String, Vec<usize>>,
    outputs: Vec<String>,
}

impl Source {
    /// Reads a graph file; weights beside it are read when asked for. Of an `If` over `use_cache_branch` the branch
    /// that reads the encoder's states is taken.
    ///
    /// # Errors
    /// An unreadable file or one that is not ONNX.
    pub fn open(path: &Path) -> Result<Self, GraphError> {
        let bytes = Bytes::from(std::fs::read(path).map_err(|error| GraphError::io(path, error))?);
        let model = ModelProto::decode(bytes)
            .map_err(|error| GraphError::invalid(format!("{}: {error}", path.display())))?;
        let graph = model
            .graph
            .ok_or_else(|| GraphError::invalid(format!("{} has no graph", path.display())))?;
        let mut source = Self {
            folder: path.parent().unwrap_or(Path::new(".")).to_owned(),
            nodes: Vec::new(),
            constants: HashMap::new(),
            producers: HashMap::new(),
            consumers: HashMap::new(),
            outputs: Vec::new(),
        };
        source.add(graph);
        for (index, node) in source.nodes.iter().enumerate() {
            for output in &node.output {
                source.producers.insert(output.clone(), index);
            }
            for input in node.input.iter().filter(|input| !input.is_empty()) {
                source
                    .consumers
                    .entry(input.clone())
                    .or_default()
                    .push(index);
            }
        }
        Ok(source)
    }

    fn add(&mut self, graph: GraphProto) {
        for initializer in graph.initializer {
            self.constants.insert(initializer.name.clone(), initializer);
        }
        self.outputs
            .extend(graph.output.into_iter().map(|output| output.name));
        for mut node in graph.node {
            if node.op_type == "If" {
                let branches = node.attribute.drain(..).filter_map(|attribute| attribute.g);
                let reads_encoder = |branch: &GraphProto| {
                    branch
                        .node
                        .iter()
                        .flat_map(|node| &node.input)
                        .any(|input| input.contains("encoder_hidden_states"))
                };
                if let Some(branch) = branches.into_iter().find(reads_encoder) {
                    self.add(branch);
                    continue;
                }
            }
            if node.op_type == "Constant"
                && let Some(value) = node
                    .attribute
                    .iter_mut()
                    .find_map(|attribute| attribute.t.take())
            {
                self.constants.insert(node.output[0].clone(), value);
                continue;
            }
            self.nodes.push(node);
        }
    }

    /// All nodes, in topological order.
    pub fn nodes(&self) -> &[NodeProto] {
        &self.nodes
    }

    /// A node by its place.
    pub fn node(&self, index: usize) -> &NodeProto {
        &self.nodes[index]
    }

    /// Names of the graph's outputs (a taken branch's included).
    pub fn outputs(&self) -> &[String] {
        &self.outputs
    }

    /// The node that makes a value; `None` for inputs and constants.
    pub fn producer(&self, value: &str) -> Option<usize> {
        self.producers.get(value).copied()
    }

    /// The nodes that read a value.
    pub fn consumers(&self, value: &str) -> &[usize] {
        self.consumers.get(value).map_or(&[], Vec::as_slice)
    }

    /// The only node of type `op` that reads a value.
    pub fn consumer(&self, value: &str, op: &str) -> Option<usize> {
        let mut found = self
            .consumers(value)
            .iter()
            .filter(|&&index| self.nodes[index].op_type == op);
        match (found.next(), found.next()) {
            (Some(&index), None) => Some(index),
            _ => None,
        }
    }

    /// The value behind identities and casts.
    pub fn behind<'a>(&'a self, mut value: &'a str) -> &'a str {
        while let Some(index) = self.producer(value) {
            let node = &self.nodes[index];
            match node.op_type.as_str() {
                "Identity" | "Cast" => value = &node.input[0],
                _ => break,
            }
        }
        value
    }

    /// Whether a value is known without running the graph, as far as [`Source::constant`] can tell.
    pub fn is_constant(&self, value: &str) -> bool {
        self.dims(value).is_some()
    }

    /// Shape of a constant, without reading it.
    pub fn dims(&self, value: &str) -> Option<Vec<usize>> {
        if let Some(tensor) = self.constants.get(value) {
            return Some(
                tensor
                    .dims
                    .iter()
                    .map(|&size| usize::try_from(size).unwrap_or(0))
                    .collect(),
            );
        }
        let node = &self.nodes[self.producer(value)?];
        let input = node.input.first()?;
        match node.op_type.as_str() {
            "Identity" | "Cast" | "DequantizeLinear" => self.dims(input),
            "Transpose" => {
                let mut dims = self.dims(input)?;
                dims.reverse();
                (dims.len() <= 2).then_some(dims)
            }
            "Reshape" => {
                let dims = self.dims(input)?;
                self.constants.get(node.input.get(1)?)?;
                Some(vec![dims.iter().product()])
            }
            _ => None,
        }
    }

    /// Reads a constant, through identities, casts, transposes, reshapes (to one dimension) and dequantisation.
    ///
    /// # Errors
    /// As [`tensor::read`]; a value that is not constant.
    pub fn constant(&self, value: &str) -> Result<Constant, GraphError> {
        if let Some(tensor) = self.constants.get(value) {
            return tensor::read(tensor, &self.folder);
        }
        let unknown = || GraphError::invalid(format!("{value} is not a constant"));
        let node = &self.nodes[self.producer(value).ok_or_else(unknown)?];
        let input = || self.constant(&node.input[0]);
        match node.op_type.as_str() {
            "Identity" | "Cast" => input(),
            "Transpose" => Ok(input()?.transposed()),
            "Reshape" => {
                let constant = input()?;
                Ok(Constant {
                    dims: vec![constant.dims.iter().product()],
                    data: constant.data,
                })
            }
            "DequantizeLinear" => {
                let scale = self.floats(&node.input[1])?;
                let zero = match node.input.get(2).filter(|name| !name.is_empty()) {
                    Some(name) => Some(self.constant(name)?),
                    None => None,
                };
                dequantize(
                    input()?,
                    &scale,
                    zero.as_ref(),
                    node.int("axis").unwrap_or(1),
                )
            }
            _ => Err(unknown()),
        }
    }

    /// Reads a constant of floats.
    ///
    /// # Errors
    /// As [`Source::constant`]; a constant of integers.
    pub fn floats(&self, value: &str) -> Result<Vec<f32>, GraphError> {
        self.constant(value)?
            .floats()
            .ok_or_else(|| GraphError::invalid(format!("{value} is not made of floats")))
    }

    /// Names and shapes of the constants stored in the graph.
    pub fn stored(&self) -> impl Iterator<Item = (&str, &[i64])> {
        self.constants
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor.dims.as_slice()))
    }
}

/// `(value - zero) * scale`, with one scale or one for each step along `axis`.
///
/// # Errors
/// Scales that fit neither.
pub fn dequantize(
    constant: Constant,
    scale: &[f32],
    zero: Option<&Constant>,
    axis: i64,
) -> Result<Constant, GraphError> {
    let Data::Int8 { values, unsigned } = constant.data else {
        return Err(GraphError::invalid(
            "a quantised constant is not made of bytes",
        ));
    };
    let zeros = zero_points(zero, unsigned);
    let dims = constant.dims;
    let axis = usize::try_from(if axis < 0 {
        axis + dims.len() as i64
    } else {
        axis
    })
    .unwrap_or(0);
    let (steps, inner) = if scale.len() == 1 {
        (1, values.len().max(1))
    } else {
        let inner: usize = dims.get(axis + 1..).unwrap_or_default().iter().product();
        (dims.get(axis).copied().unwrap_or(0), inner)
    };
    if scale.len() != steps {
        return Err(GraphError::invalid(
            "a constant's scales do not fit its shape",
        ));
    }
    let floats = values
        .iter()
        .enumerate()
        .map(|(at, &value)| {
            let step = at / inner % steps;
            let zero = zeros.get(step).or(zeros.first()).copied().unwrap_or(0);
            (i32::from(value) - zero) as f32 * scale[step]
        })
        .collect();
    Ok(Constant {
        dims,
        data: Data::Float(floats),
    })
}

/// Zero points on the scale of [`Data::Int8`]; one of 0 when there are none.
pub fn zero_points(zero: Option<&Constant>, unsigned: bool) -> Vec<i32> {
    match zero.map(|zero| &zero.data) {
        Some(Data::Int8 { values, .. }) => values.iter().map(|&value| i32::from(value)).collect(),
        _ => vec![if unsigned { -128 } else { 0 }],
    }
}
