//! Matrix products with constant weights, in the forms exports have them: plain, `Gemm`, and the chains that dynamic
//! quantisation leaves behind.

use super::GraphError;
use super::source::{Source, dequantize, zero_points};
use super::tensor::Data;

/// A product with constant weights and, where there is one, the bias added to it.
#[derive(Debug, Clone)]
pub struct Linear {
    /// The value multiplied, behind identities and quantisation.
    pub input: String,
    /// The value after the bias.
    pub output: String,
    /// Size of the input's last dimension.
    pub n_in: usize,
    /// Size of the output's last dimension.
    pub n_out: usize,
    /// Place of the product among the nodes.
    pub index: usize,
    weight: Weight,
    bias: Option<String>,
}

#[derive(Debug, Clone)]
enum Weight {
    Float {
        name: String,
        transposed: bool,
    },
    Int8 {
        name: String,
        scale: String,
        zero: Option<String>,
        transposed: bool,
    },
}

/// Weights in memory, `[n_in, n_out]`.
#[derive(Debug, Clone, PartialEq)]
pub enum Matrix {
    /// Floats.
    Float(Vec<f32>),
    /// `(value - zero) * scale`, both per output column.
    Int8 {
        /// Values.
        values: Vec<i8>,
        /// One for each column.
        scale: Vec<f32>,
        /// One for each column, between -128 and 127.
        zero: Vec<i8>,
    },
}

/// Finds all products with constant weights, in topological order.
pub fn find(source: &Source) -> Vec<Linear> {
    (0..source.nodes().len())
        .filter_map(|index| at(source, index))
        .collect()
}

fn at(source: &Source, index: usize) -> Option<Linear> {
    let node = source.node(index);
    let output = node.output.first()?;
    match node.op_type.as_str() {
        "MatMul" => {
            let [n_in, n_out] = source.dims(&node.input[1])?[..] else {
                return None;
            };
            let weight = Weight::Float {
                name: node.input[1].clone(),
                transposed: false,
            };
            let (bias, output) = bias_after(source, output, n_out);
            Some(Linear {
                input: source.behind(&node.input[0]).to_owned(),
                output,
                n_in,
                n_out,
                index,
                weight,
                bias,
            })
        }
        "Gemm" => {
            let [mut n_in, mut n_out] = source.dims(&node.input[1])?[..] else {
                return None;
            };
            let transposed = node.int("transB") == Some(1);
            if transposed {
                (n_in, n_out) = (n_out, n_in);
            }
            let weight = Weight::Float {
                name: node.input[1].clone(),
                transposed,
            };
            let bias = node.input.get(2).filter(|name| !name.is_empty()).cloned();
            let output = output.clone();
            Some(Linear {
                input: source.behind(&node.input[0]).to_owned(),
                output,
                n_in,
                n_out,
                index,
                weight,
                bias,
            })
        }
        "MatMulInteger" => {
            let [n_in, n_out] = source.dims(&node.input[1])?[..] else {
                return None;
            };
            let quantized = source.node(source.producer(&node.input[0])?);
            if quantized.op_type != "DynamicQuantizeLinear" {
                return None;
            }
            let (scale, output) = scale_after(source, output)?;
            let zero = node.input.get(3).filter(|name| !name.is_empty()).cloned();
            let weight = Weight::Int8 {
                name: node.input[1].clone(),
                scale,
                zero,
                transposed: false,
            };
            let (bias, output) = bias_after(source, &output, n_out);
            let input = source.behind(&quantized.input[0]).to_owned();
            Some(Linear {
                input,
                output,
                n_in,
                n_out,
                index,
                weight,
                bias,
            })
        }
        _ => None,
    }
}

/// The convolution at a node as the product it is, when it looks at one place only: over channels, which come second in
/// its input.
pub fn pointwise(source: &Source, index: usize) -> Option<Linear> {
    let node = source.node(index);
    let dims = source.dims(node.input.get(1)?)?;
    let [n_out, n_in, places @ ..] = &dims[..] else {
        return None;
    };
    let (n_in, n_out, output) = (*n_in, *n_out, node.output.first()?);
    if places.iter().any(|&size| size != 1) || node.int("group").unwrap_or(1) != 1 {
        return None;
    }
    let name = node.input[1].clone();
    let (input, weight, (bias, output)) = match node.op_type.as_str() {
        "Conv" => {
            let given = node.input.get(2).filter(|name| !name.is_empty());
            let behind = match given {
                Some(bias) => (Some(bias.clone()), output.clone()),
                None => bias_after(source, output, n_out),
            };
            let transposed = true;
            (&node.input[0], Weight::Float { name, transposed }, behind)
        }
        "ConvInteger" => {
            let quantized = source.node(source.producer(&node.input[0])?);
            let (scale, output) = scale_after(source, output)?;
            let weight = Weight::Int8 {
                name,
                scale,
                zero: node.input.get(3).filter(|name| !name.is_empty()).cloned(),
                transposed: true,
            };
            let input = quantized.input.first()?;
            (input, weight, bias_after(source, &output, n_out))
        }
        _ => return None,
    };
    Some(Linear {
        input: source.behind(input).to_owned(),
        output,
        n_in,
        n_out,
        index,
        weight,
        bias,
    })
}

/// The weights' scale and the output of `Cast`, `Mul` by input scale times weight scale, as quantisation writes it.
pub fn scale_after(source: &Source, integers: &str) -> Option<(String, String)> {
    let cast = source.node(source.consumer(integers, "Cast")?);
    let scaled = source.node(source.consumer(&cast.output[0], "Mul")?);
    let factor = scaled
        .input
        .iter()
        .find(|input| **input != cast.output[0])?;
    let product = source.node(source.producer(factor)?);
    let scale = product
        .input
        .iter()
        .find(|input| source.is_constant(input))?;
    (product.op_type == "Mul").then(|| (scale.clone(), scaled.output[0].clone()))
}

/// A bias of `n` elements added to a value, and the sum; the value itself when there is none.
pub fn bias_after(source: &Source, value: &str, n: usize) -> (Option<String>, String) {
    let add = source
        .consumer(value, "Add")
        .map(|index| source.node(index));
    let bias = add.and_then(|add| {
        let other = add.input.iter().find(|input| *input != value)?;
        (source.dims(other)?.iter().product::<usize>() == n)
            .then(|| (Some(other.clone()), add.output[0].clone()))
    });
    match bias {
        Some(found) if source.consumers(value).len() == 1 => found,
        _ => (None, value.to_owned()),
    }
}

impl Linear {
    /// Reads the weights.
    ///
    /// # Errors
    /// Those of reading a constant; scales or zero points that do not fit.
    pub fn matrix(&self, source: &Source) -> Result<Matrix, GraphError> {
        match &self.weight {
            Weight::Float { name, transposed } => {
                if let Some(matrix) = self.dequantized(source, name)? {
                    return Ok(matrix);
                }
                let constant = source.constant(name)?.without_places();
                let constant = if *transposed {
                    constant.transposed()
                } else {
                    constant
                };
                let values = constant
                    .floats()
                    .ok_or_else(|| GraphError::invalid(format!("{name} is not made of floats")))?;
                self.check(name, values.len())?;
                Ok(Matrix::Float(values))
            }
            Weight::Int8 {
                name,
                scale,
                zero,
                transposed,
            } => self.int8(source, (name, *transposed), scale, zero.as_deref()),
        }
    }

    /// Weights that the file has in 8 bits and the graph widens before a float product (an output head tied to a
    /// quantised embedding): the bytes themselves.
    fn dequantized(&self, source: &Source, name: &str) -> Result<Option<Matrix>, GraphError> {
        let Some(node) = source
            .producer(source.behind(name))
            .map(|index| source.node(index))
        else {
            return Ok(None);
        };
        if node.op_type != "DequantizeLinear"
            || source
                .dims(&node.input[1])
                .is_none_or(|dims| dims.iter().product::<usize>() != 1)
        {
            return Ok(None);
        }
        let zero = node.input.get(2).filter(|zero| !zero.is_empty());
        self.int8(
            source,
            (&node.input[0], false),
            &node.input[1],
            zero.map(String::as_str),
        )
        .map(Some)
    }

    fn int8(
        &self,
        source: &Source,
        (name, transposed): (&str, bool),
        scale: &str,
        zero: Option<&str>,
    ) -> Result<Matrix, GraphError> {
        let constant = source.constant(name)?.without_places();
        let constant = if transposed {
            constant.transposed()
        } else {
            constant
        };
        let Data::Int8 { values, unsigned } = constant.data else {
            return Err(GraphError::invalid(format!("{name} is not made of bytes")));
        };
        self.check(name, values.len())?;
        let scale = source.floats(scale)?;
        let zero = match zero {
            Some(zero) => Some(source.constant(zero)?),
            None => None,
        };
        let zero: Vec<i8> = zero_points(zero.as_ref(), unsigned)
            .iter()
            .map(|&zero| zero as i8)
            .collect();
        Ok(Matrix::Int8 {
            values,
            scale: spread(scale, self.n_out)
                .ok_or_else(|| GraphError::invalid(format!("the scales of {name} do not fit")))?,
            zero: spread(zero, self.n_out).ok_or_else(|| {
                GraphError::invalid(format!("the zero points of {name} do not fit"))
            })?,
        })
    }

    fn check(&self, name: &str, len: usize) -> Result<(), GraphError> {
        if len == self.n_in * self.n_out {
            Ok(())
        } else {
            Err(GraphError::invalid(format!("{name} has {len} elements")))
        }
    }

    /// Reads the bias: zeros when there is none.
    ///
    /// # Errors
    /// Those of reading a constant.
    pub fn bias(&self, source: &Source) -> Result<Vec<f32>, GraphError> {
        match &self.bias {
            None => Ok(vec![0.0; self.n_out]),
            Some(name) => spread(source.floats(name)?, self.n_out)
                .ok_or_else(|| GraphError::invalid(format!("the bias {name} does not fit"))),
        }
    }
}

/// One value repeated, or as many as there are columns.
fn spread<T: Copy>(values: Vec<T>, n: usize) -> Option<Vec<T>> {
    match values.len() {
        1 => Some(vec![values[0]; n]),
        len if len == n => Some(values),
        _ => None,
    }
}

impl Matrix {
    /// The weights in floats.
    pub fn into_float(self) -> Vec<f32> {
        match self {
            Self::Float(values) => values,
            Self::Int8 {
                values,
                scale,
                zero,
            } => {
                let n = scale.len();
                let one = |(at, &value): (usize, &i8)| {
                    (i32::from(value) - i32::from(zero[at % n])) as f32 * scale[at % n]
                };
                values.iter().enumerate().map(one).collect()
            }
        }
    }

    /// The weights in 8 bits: as the file has them, else rounded with one scale for each of `n_out` columns.
    pub fn into_int8(self, n_out: usize) -> (Vec<i8>, Vec<f32>, Vec<i8>) {
        match self {
            Self::Int8 {
                values,
                scale,
                zero,
            } => (values, scale, zero),
            Self::Float(floats) => {
                let mut largest = vec![0.0f32; n_out];
                for row in floats.chunks_exact(n_out) {
                    for (largest, value) in largest.iter_mut().zip(row) {
                        *largest = largest.max(value.abs());
                    }
                }
                let scale: Vec<f32> = largest
                    .iter()
                    .map(|&largest| if largest > 0.0 { largest / 127.0 } else { 1.0 })
                    .collect();
                let inverse: Vec<f32> = scale.iter().map(|scale| scale.recip()).collect();
                let mut values = Vec::with_capacity(floats.len());
                for row in floats.chunks_exact(n_out) {
                    values.extend(
                        row.iter()
                            .zip(&inverse)
                            .map(|(value, inverse)| (value * inverse).round_ties_even() as i8),
                    );
                }
                (values, scale, vec![0; n_out])
            }
        }
    }

    /// Puts matrices with the same number of rows side by side.
    pub fn beside(parts: Vec<(Self, usize)>) -> Self {
        if parts
            .iter()
            .all(|(part, _)| matches!(part, Self::Int8 { .. }))
        {
            let (mut blocks, mut all_scales, mut all_zeros) = (Vec::new(), Vec::new(), Vec::new());
            for (part, width) in parts {
                if let Self::Int8 {
                    values,
                    scale,
                    zero,
                } = part
                {
                    blocks.push((values, width));
                    all_scales.extend(scale);
                    all_zeros.extend(zero);
                }
            }
            return Self::Int8 {
                values: interleave(&blocks),
                scale: all_scales,
                zero: all_zeros,
            };
        }
        let blocks: Vec<_> = parts
            .into_iter()
            .map(|(part, width)| (part.into_float(), width))
            .collect();
        Self::Float(interleave(&blocks))
    }
}

fn interleave<T: Copy>(blocks: &[(Vec<T>, usize)]) -> Vec<T> {
    let mut joined = Vec::with_capacity(blocks.iter().map(|(values, _)| values.len()).sum());
    let rows = blocks
        .first()
        .map_or(0, |(values, width)| values.len() / width);
    for row in 0..rows {
        for (values, width) in blocks {
            joined.extend_from_slice(&values[row * width..][..*width]);
        }
    }
    joined
}

/// The table behind a `Gather`: floats, or bytes that a `DequantizeLinear` after it widens.
///
/// # Errors
/// Those of reading a constant.
pub fn gathered_table(source: &Source, gather: usize) -> Result<Vec<f32>, GraphError> {
    let node = source.node(gather);
    let table = source.constant(&node.input[0])?;
    if let Data::Float(values) = table.data {
        return Ok(values);
    }
    let widen = source
        .consumer(&node.output[0], "DequantizeLinear")
        .ok_or_else(|| GraphError::invalid(format!("{} is not widened", node.input[0])))?;
    let widen = source.node(widen);
    let scale = source.floats(&widen.input[1])?;
    let zero = match widen.input.get(2).filter(|zero| !zero.is_empty()) {
        Some(zero) => Some(source.constant(zero)?),
        None => None,
    };
    dequantize(table, &scale, zero.as_ref(), 0)?
        .floats()
        .ok_or_else(|| GraphError::invalid("a widened table is not made of floats"))
}

/// A convolution in floats.
#[derive(Debug, Clone, PartialEq)]
pub struct Convolution {
    /// Shape of the kernel: outputs, inputs, width.
    pub dims: Vec<usize>,
    /// Kernel.
    pub kernel: Vec<f32>,
    /// Bias, one for each output.
    pub bias: Vec<f32>,
}

/// Reads the convolution at a node.
///
/// # Errors
/// Those of reading a constant; a form rewriting does not know.
pub fn convolution(source: &Source, index: usize) -> Result<Convolution, GraphError> {
    let node = source.node(index);
    let unknown =
        || GraphError::invalid(format!("convolution {} is of an unknown form", node.name));
    let constant = source.constant(&node.input[1])?;
    let dims = constant.dims.clone();
    let n_out = *dims.first().ok_or_else(unknown)?;
    if node.op_type == "Conv" {
        let kernel = constant.floats().ok_or_else(unknown)?;
        let bias = match node.input.get(2).filter(|name| !name.is_empty()) {
            Some(bias) => Some(bias.clone()),
            None => bias_after(source, &node.output[0], n_out).0,
        };
        let bias = bias.map_or_else(|| Ok(vec![0.0; n_out]), |bias| source.floats(&bias))?;
        return Ok(Convolution { dims, kernel, bias });
    }
    let (scale, output) = scale_after(source, &node.output[0]).ok_or_else(unknown)?;
    let zero = match node.input.get(3).filter(|name| !name.is_empty()) {
        Some(zero) => Some(source.constant(zero)?),
        None => None,
    };
    let kernel = dequantize(constant, &source.floats(&scale)?, zero.as_ref(), 0)?;
    let bias = bias_after(source, &output, n_out).0;
    let bias = bias.map_or_else(|| Ok(vec![0.0; n_out]), |bias| source.floats(&bias))?;
    let kernel = kernel.floats().ok_or_else(unknown)?;
    Ok(Convolution { dims, kernel, bias })
}
