//! Writing a graph: nodes as they are added, weights into one file beside it that several graphs share and ONNX Runtime
//! maps into memory.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use prost::Message;

use super::onnx::{
    AttributeProto, Dimension, DimensionProto, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto,
    TypeProto, ValueInfoProto, element,
};
use super::{GraphError, operators};

pub mod matrix;

/// ONNX Runtime's own operators beyond ONNX.
pub const MICROSOFT: &str = "com.microsoft";
/// Weights smaller than this stay in the graph file.
const INLINE_BYTES: usize = 1024;
/// Weights start on page boundaries, so that each can be mapped.
const ALIGNMENT: u64 = 4096;

/// The file of weights. What is written once under a name is shared by every graph that names it.
pub struct WeightFile {
    file: BufWriter<File>,
    path: PathBuf,
    name: String,
    position: u64,
    written: HashMap<String, TensorProto>,
}

impl WeightFile {
    /// Creates `folder/name`.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn create(folder: &Path, name: &str) -> Result<Self, GraphError> {
        let path = folder.join(name);
        let file = File::create(&path).map_err(|error| GraphError::io(&path, error))?;
        Ok(Self {
            file: BufWriter::new(file),
            path,
            name: name.to_owned(),
            position: 0,
            written: HashMap::new(),
        })
    }

    /// The tensor of that name; `make` is called for the shape, element type and bytes when it is new.
    fn tensor(
        &mut self,
        name: &str,
        make: impl FnOnce() -> Result<(Vec<usize>, i32, Vec<u8>), GraphError>,
    ) -> Result<TensorProto, GraphError> {
        if let Some(tensor) = self.written.get(name) {
            return Ok(tensor.clone());
        }
        let (dims, data_type, bytes) = make()?;
        let mut tensor = TensorProto {
            name: name.to_owned(),
            dims: dims.iter().map(|&size| size as i64).collect(),
            data_type,
            ..Default::default()
        };
        if bytes.len() < INLINE_BYTES {
            tensor.raw_data = bytes.into();
        } else {
            let failed = |error| GraphError::io(&self.path, error);
            let padding = self.position.next_multiple_of(ALIGNMENT) - self.position;
            self.file
                .write_all(&vec![0; padding as usize])
                .map_err(failed)?;
            self.position += padding;
            self.file.write_all(&bytes).map_err(failed)?;
            let entry = |key: &str, value: String| StringStringEntryProto {
                key: key.to_owned(),
                value,
            };
            tensor.external_data = vec![
                entry("location", self.name.clone()),
                entry("offset", self.position.to_string()),
                entry("length", bytes.len().to_string()),
            ];
            tensor.data_location = 1;
            self.position += bytes.len() as u64;
        }
        self.written.insert(name.to_owned(), tensor.clone());
        Ok(tensor)
    }

    /// Writes what is buffered and makes it durable.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(self) -> Result<(), GraphError> {
        let failed = |error| GraphError::io(&self.path, error);
        let file = self
            .file
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)
    }
}

/// A size of an input or output: fixed, or named.
#[derive(Debug, Clone, Copy)]
pub enum Size {
    /// Fixed.
    Of(usize),
    /// Known when the graph runs.
    Named(&'static str),
}

/// An attribute's value.
#[derive(Debug, Clone)]
pub enum Attribute {
    /// An integer.
    Int(i64),
    /// A float.
    Float(f32),
    /// Integers.
    Ints(Vec<i64>),
}

/// A graph being written.
pub struct Builder<'w> {
    graph: GraphProto,
    weights: &'w mut WeightFile,
    used: HashMap<String, ()>,
    counter: usize,
}

impl<'w> Builder<'w> {
    /// An empty graph whose weights go to `weights`.
    pub fn new(name: &str, weights: &'w mut WeightFile) -> Self {
        let graph = GraphProto {
            name: name.to_owned(),
            ..Default::default()
        };
        Self {
            graph,
            weights,
            used: HashMap::new(),
            counter: 0,
        }
    }

    /// Declares an input.
    pub fn input(&mut self, name: &str, element: i32, sizes: &[Size]) {
        self.graph.input.push(value_info(name, element, sizes));
    }

    /// Declares an output.
    pub fn output(&mut self, name: &str, element: i32, sizes: &[Size]) {
        self.graph.output.push(value_info(name, element, sizes));
    }

    /// Whether the weights file has a weight of that name.
    pub fn is_written(&self, name: &str) -> bool {
        self.weights.written.contains_key(name)
    }

    /// Names a weight, made and written when it is new to the file.
    ///
    /// # Errors
    /// Those of `make` and of writing.
    pub fn weight(
        &mut self,
        name: &str,
        make: impl FnOnce() -> Result<(Vec<usize>, i32, Vec<u8>), GraphError>,
    ) -> Result<String, GraphError> {
        if self.used.insert(name.to_owned(), ()).is_none() {
            let tensor = self.weights.tensor(name, make)?;
            self.graph.initializer.push(tensor);
        }
        Ok(name.to_owned())
    }

    /// Names a constant of floats.
    ///
    /// # Errors
    /// As [`Builder::weight`].
    pub fn floats(
        &mut self,
        name: &str,
        dims: &[usize],
        make: impl FnOnce() -> Result<Vec<f32>, GraphError>,
    ) -> Result<String, GraphError> {
        let dims = dims.to_vec();
        self.weight(name, || {
            let bytes = make()?
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            Ok((dims, element::FLOAT, bytes))
        })
    }

    /// Names a constant of 64-bit integers.
    ///
    /// # Errors
    /// As [`Builder::weight`].
    pub fn integers(&mut self, name: &str, values: &[i64]) -> Result<String, GraphError> {
        let bytes = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        let dims = vec![values.len()];
        self.weight(name, || Ok((dims, element::INT64, bytes)))
    }

    /// Adds a node with one output, which is named after the operator.
    pub fn node(
        &mut self,
        op: &str,
        domain: &str,
        inputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) -> String {
        self.counter += 1;
        let output = format!("{op}_{}", self.counter);
        self.node_to(op, domain, inputs, &[&output], attributes);
        output
    }

    /// Adds a node with outputs of given names.
    pub fn node_to(
        &mut self,
        op: &str,
        domain: &str,
        inputs: &[&str],
        outputs: &[&str],
        attributes: &[(&str, Attribute)],
    ) {
        let attribute = attributes
            .iter()
            .map(|(name, value)| {
                let mut attribute = AttributeProto {
                    name: (*name).to_owned(),
                    ..Default::default()
                };
                match value {
                    Attribute::Int(i) => (attribute.i, attribute.r#type) = (*i, 2),
                    Attribute::Float(f) => (attribute.f, attribute.r#type) = (*f, 1),
                    Attribute::Ints(ints) => (attribute.ints, attribute.r#type) = (ints.clone(), 7),
                }
                attribute
            })
            .collect();
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&name| name.to_owned()).collect(),
            output: outputs.iter().map(|&name| name.to_owned()).collect(),
            name: outputs.first().copied().unwrap_or_default().to_owned(),
            op_type: op.to_owned(),
            attribute,
            domain: domain.to_owned(),
        });
    }

    /// Writes the graph file.
    ///
    /// # Errors
    /// A folder that cannot be written to.
    pub fn save(self, path: &Path) -> Result<(), GraphError> {
        let opset = |domain: &str, version| OperatorSetIdProto {
            domain: domain.to_owned(),
            version,
        };
        let model = ModelProto {
            ir_version: 10,
            producer_name: "dalston".to_owned(),
            graph: Some(self.graph),
            opset_import: vec![
                opset("", 20),
                opset(MICROSOFT, 1),
                opset(operators::DOMAIN, 1),
            ],
        };
        std::fs::write(path, model.encode_to_vec()).map_err(|error| GraphError::io(path, error))
    }
}

fn value_info(name: &str, elem_type: i32, sizes: &[Size]) -> ValueInfoProto {
    let dim = sizes
        .iter()
        .map(|size| DimensionProto {
            value: Some(match *size {
                Size::Of(size) => Dimension::Size(size as i64),
                Size::Named(name) => Dimension::Name(name.to_owned()),
            }),
        })
        .collect();
    let tensor_type = Some(TensorTypeProto {
        elem_type,
        shape: Some(TensorShapeProto { dim }),
    });
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { tensor_type }),
    }
}
