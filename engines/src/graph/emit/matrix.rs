//! Constant matrices and the products with them, as our operators `Linear` and `LinearInt8` read them.

use super::{Attribute, Builder};
use crate::graph::linear::Matrix;
use crate::graph::onnx::element;
use crate::graph::operators::linear::Activation;
use crate::graph::operators::tiles::{self, padded_columns};
use crate::graph::operators::{DOMAIN, names};
use crate::graph::{Arithmetic, GraphError};

/// Inputs of a product in bytes: more could overflow the sum.
const MOST_INPUTS: usize = 16_384;

/// A tensor of one dimension: its length, element type and bytes.
type Part = (usize, i32, Vec<u8>);

/// A matrix that a graph names.
#[derive(Debug, Clone)]
pub struct Written {
    arithmetic: Arithmetic,
    /// Names of the tensors it is made of, in the order of the operators' inputs.
    pub parts: Vec<String>,
    n_out: usize,
}

impl Written {
    /// Writes a matrix `[n_in, n_out]` and its bias, unless another graph of the same weights file has: only then is it
    /// loaded.
    ///
    /// # Errors
    /// Those of `load` and of writing; more inputs than a product in bytes can have.
    pub fn new(
        builder: &mut Builder<'_>,
        arithmetic: Arithmetic,
        name: &str,
        [n_in, n_out]: [usize; 2],
        load: impl FnOnce() -> Result<(Matrix, Vec<f32>), GraphError>,
    ) -> Result<Self, GraphError> {
        let labels: &[&str] = match arithmetic {
            Arithmetic::Float => &["weight", "bias"],
            Arithmetic::Int8 => &["weight", "integers", "floats"],
        };
        let names: Vec<String> = labels.iter().map(|part| format!("{name}.{part}")).collect();
        let mut packed = Vec::new().into_iter();
        if !builder.is_written(&names[0]) {
            let (matrix, bias) = load()?;
            packed = match arithmetic {
                Arithmetic::Float => floats(matrix, bias, n_in, n_out),
                Arithmetic::Int8 if n_in > MOST_INPUTS => {
                    return Err(GraphError::invalid(format!("{name} has {n_in} inputs")));
                }
                Arithmetic::Int8 => bytes(matrix, bias, n_in, n_out),
            }
            .into_iter();
        }
        let missing = || GraphError::invalid(format!("{name} was written in part"));
        let parts: Result<_, GraphError> = names
            .iter()
            .map(|name| {
                let part = packed.next();
                builder.weight(name, || {
                    let (len, element, bytes) = part.ok_or_else(missing)?;
                    Ok((vec![len], element, bytes))
                })
            })
            .collect();
        Ok(Self {
            arithmetic,
            parts: parts?,
            n_out,
        })
    }

    /// The product of `rows` with it, as a node of the graph. `residual` is what the product is added to, and by what it
    /// is multiplied before.
    pub fn times(
        &self,
        builder: &mut Builder<'_>,
        rows: &str,
        activation: Activation,
        residual: Option<(&str, f32)>,
    ) -> String {
        let op = match self.arithmetic {
            Arithmetic::Float => names::LINEAR,
            Arithmetic::Int8 => names::LINEAR_INT8,
        };
        let mut attributes = vec![
            ("n_out", Attribute::Int(self.n_out as i64)),
            ("activation", Attribute::Int(activation.number())),
        ];
        let mut inputs = vec![rows];
        inputs.extend(self.parts.iter().map(String::as_str));
        if let Some((stream, factor)) = residual {
            inputs.push(stream);
            attributes.push(("factor", Attribute::Float(factor)));
        }
        builder.node(op, DOMAIN, &inputs, &attributes)
    }
}

/// Panels and bias.
fn floats(matrix: Matrix, mut bias: Vec<f32>, n_in: usize, n_out: usize) -> Vec<Part> {
    bias.resize(padded_columns(n_out), 0.0);
    let panels = tiles::pack_float(&matrix.into_float(), n_in, n_out);
    [panels, bias].map(float_part).into()
}

/// Panels; sums of the columns and their zero points; scales and bias.
fn bytes(matrix: Matrix, bias: Vec<f32>, n_in: usize, n_out: usize) -> Vec<Part> {
    let columns = padded_columns(n_out);
    let (values, mut scale, zero) = matrix.into_int8(n_out);
    let unsigned = |value: i8| value as u8 ^ 0x80;
    let bytes: Vec<u8> = values.into_iter().map(unsigned).collect();
    let mut integers = vec![0_i32; columns];
    for row in bytes.chunks_exact(n_out) {
        for (sum, &byte) in integers.iter_mut().zip(row) {
            *sum += i32::from(byte);
        }
    }
    integers.extend(zero.into_iter().map(|zero| i32::from(unsigned(zero))));
    integers.resize(2 * columns, 0);
    scale.resize(columns, 0.0);
    scale.extend(bias);
    scale.resize(2 * columns, 0.0);
    let panels = tiles::pack_bytes(&bytes, n_in, n_out);
    let integers_len = integers.len();
    let integers = integers.iter().flat_map(|sum| sum.to_le_bytes()).collect();
    vec![
        (panels.len(), element::UINT8, panels),
        (integers_len, element::INT32, integers),
        float_part(scale),
    ]
}

fn float_part(values: Vec<f32>) -> Part {
    let bytes = values.iter().flat_map(|value| value.to_le_bytes());
    (values.len(), element::FLOAT, bytes.collect())
}
