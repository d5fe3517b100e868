//! One layer of a long short-term memory, a step at a time, for several sequences at once.

use super::matrix::Matrix;
use crate::graph::GraphError;
use crate::graph::onnx::NodeProto;
use crate::graph::source::{Source, dequantize};
use crate::graph::tensor::transpose;

/// A layer. Gates come in ONNX's order: input, output, forget, cell.
#[derive(Debug)]
pub(super) struct Lstm {
    /// `[n_in + n_hidden, 4 n_hidden]`.
    gates: Matrix,
    n_in: usize,
    n_hidden: usize,
}

/// What a layer remembers of a sequence.
#[derive(Debug, Clone)]
pub(super) struct Memory {
    hidden: Vec<f32>,
    cell: Vec<f32>,
}

impl Lstm {
    /// Reads the weights of an `LSTM` node, or of the `DynamicQuantizeLSTM` that quantisation makes of it.
    pub(super) fn read(source: &Source, node: &NodeProto) -> Result<Self, GraphError> {
        let invalid =
            |what: &str| GraphError::invalid(format!("the memory layer {} {what}", node.name));
        let input = |at: usize| {
            node.input
                .get(at)
                .map(String::as_str)
                .filter(|name| !name.is_empty())
        };
        let n_hidden = node
            .int("hidden_size")
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| invalid("has no size"))?;
        let is_quantized = node.op_type != "LSTM";
        let weights = |at: usize, scale_at: usize| -> Result<Vec<f32>, GraphError> {
            let name = input(at).ok_or_else(|| invalid("has no weights"))?;
            if !is_quantized {
                let values = source.floats(name)?;
                let n = values.len() / (4 * n_hidden);
                return Ok(transpose(&values, 4 * n_hidden, n));
            }
            let scale = source.floats(input(scale_at).ok_or_else(|| invalid("has no scale"))?)?;
            let zero = input(scale_at + 1)
                .map(|name| source.constant(name))
                .transpose()?;
            dequantize(source.constant(name)?, &scale, zero.as_ref(), 2)?
                .floats()
                .ok_or_else(|| invalid("is not made of numbers"))
        };
        let mut values = weights(1, 8)?;
        let n_in = values.len() / (4 * n_hidden);
        values.extend(weights(2, 10)?);
        if values.len() != (n_in + n_hidden) * 4 * n_hidden {
            return Err(invalid("has weights of another size"));
        }
        let bias = match input(3) {
            Some(name) => {
                let both = source.floats(name)?;
                if both.len() != 8 * n_hidden {
                    return Err(invalid("has a bias of another size"));
                }
                let (from_input, from_hidden) = both.split_at(4 * n_hidden);
                from_input
                    .iter()
                    .zip(from_hidden)
                    .map(|(a, b)| a + b)
                    .collect()
            }
            None => vec![0.0; 4 * n_hidden],
        };
        Ok(Self {
            gates: Matrix::new(&values, n_in + n_hidden, 4 * n_hidden, bias),
            n_in,
            n_hidden,
        })
    }

    pub(super) fn n_in(&self) -> usize {
        self.n_in
    }

    pub(super) fn n_hidden(&self) -> usize {
        self.n_hidden
    }

    pub(super) fn bytes(&self) -> u64 {
        self.gates.bytes()
    }

    /// A memory of nothing.
    pub(super) fn forgotten(&self) -> Memory {
        Memory {
            hidden: vec![0.0; self.n_hidden],
            cell: vec![0.0; self.n_hidden],
        }
    }

    /// Takes one input for each sequence, `inputs` `[n, n_in]`, and leaves the outputs `[n, n_hidden]` there.
    pub(super) fn step(&self, inputs: &mut Vec<f32>, memories: &mut [&mut Memory]) {
        let mut rows = Vec::with_capacity(memories.len() * (self.n_in + self.n_hidden));
        for (input, memory) in inputs.chunks_exact(self.n_in).zip(memories.iter()) {
            rows.extend_from_slice(input);
            rows.extend_from_slice(&memory.hidden);
        }
        let mut gates = Vec::new();
        self.gates.multiply(&rows, &mut gates);
        inputs.clear();
        for (gates, memory) in gates.chunks_exact(4 * self.n_hidden).zip(memories) {
            let (input, rest) = gates.split_at(self.n_hidden);
            let (output, rest) = rest.split_at(self.n_hidden);
            let (forget, candidate) = rest.split_at(self.n_hidden);
            for at in 0..self.n_hidden {
                let cell = sigmoid(forget[at]) * memory.cell[at]
                    + sigmoid(input[at]) * candidate[at].tanh();
                memory.cell[at] = cell;
                memory.hidden[at] = sigmoid(output[at]) * cell.tanh();
            }
            inputs.extend_from_slice(&memory.hidden);
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
