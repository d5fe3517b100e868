//! The prediction and joint networks of a transducer, with weights from its published graphs.

use std::path::Path;

use super::lstm::{Lstm, Memory};
use super::matrix::Matrix;
use crate::error::{EngineError, Result};
use crate::graph::GraphError;
use crate::graph::linear::{self, Linear};
use crate::graph::source::{Source, dequantize};
use crate::parakeet::folder::NetworkGraphs;

/// What stands between the sum of both projections and the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Activation {
    Relu,
    Tanh,
}

/// Prediction and joint network.
#[derive(Debug)]
pub(crate) struct Network {
    /// `[pieces and blank, width]`.
    embedding: Vec<f32>,
    layers: Vec<Lstm>,
    encoder_projection: Matrix,
    prediction_projection: Matrix,
    activation: Activation,
    outputs: Matrix,
    n_pieces: usize,
}

/// What the network remembers of the text of one window.
#[derive(Debug, Clone)]
pub(crate) struct Prediction {
    memories: Vec<Memory>,
    /// The prediction as the joint network takes it.
    projection: Vec<f32>,
}

impl Network {
    /// Reads the weights. `n_pieces` is the size of the vocabulary, blank included.
    ///
    /// # Errors
    /// [`EngineError::ModelInvalid`] for graphs that are not such networks.
    pub(crate) fn read(graphs: &NetworkGraphs, n_pieces: usize) -> Result<Self> {
        let (decoder, joiner) = match graphs {
            NetworkGraphs::Joined(path) => (path, path),
            NetworkGraphs::Split { decoder, joiner } => (decoder, joiner),
        };
        let invalid = |path: &Path, error: GraphError| EngineError::ModelInvalid {
            path: path.to_owned(),
            message: error.to_string(),
        };
        let prediction = Source::open(decoder).map_err(|error| invalid(decoder, error))?;
        let (embedding, layers) =
            read_prediction(&prediction).map_err(|error| invalid(decoder, error))?;
        let joint = Source::open(joiner).map_err(|error| invalid(joiner, error))?;
        let network = read_joint(&joint, embedding, layers, n_pieces)
            .map_err(|error| invalid(joiner, error))?;
        network.check().map_err(|error| invalid(joiner, error))?;
        Ok(network)
    }

    fn check(&self) -> Result<(), GraphError> {
        let width = self.layers.first().map_or(0, Lstm::n_in);
        let fits = self.embedding.len() == self.n_pieces * width
            && self
                .layers
                .windows(2)
                .all(|pair| pair[0].n_hidden() == pair[1].n_in());
        if !fits {
            return Err(GraphError::invalid(
                "its prediction network does not fit the vocabulary",
            ));
        }
        if self.outputs.n_out() < self.n_pieces {
            return Err(GraphError::invalid(format!(
                "it has {} outputs for a vocabulary of {}",
                self.outputs.n_out(),
                self.n_pieces
            )));
        }
        Ok(())
    }

    /// Id of the blank.
    pub(crate) fn blank(&self) -> usize {
        self.n_pieces - 1
    }

    /// Numbers of an output row: tokens, blank, durations.
    pub(crate) fn n_outputs(&self) -> usize {
        self.outputs.n_out()
    }

    /// Numbers of a projected frame.
    pub(crate) fn width(&self) -> usize {
        self.encoder_projection.n_out()
    }

    /// Bytes of weights held.
    pub(crate) fn bytes(&self) -> u64 {
        let matrices = [
            &self.encoder_projection,
            &self.prediction_projection,
            &self.outputs,
        ];
        4 * self.embedding.len() as u64
            + self.layers.iter().map(Lstm::bytes).sum::<u64>()
            + matrices.iter().map(|matrix| matrix.bytes()).sum::<u64>()
    }

    /// The encoder's states `[frames, width of the encoder]` as the joint network takes them `[frames, width]`.
    pub(crate) fn project(&self, states: &[f32]) -> Vec<f32> {
        let mut projected = Vec::new();
        self.encoder_projection.multiply(states, &mut projected);
        projected
    }

    /// The prediction before any text.
    pub(crate) fn start(&self) -> Prediction {
        let mut start = Prediction {
            memories: self.layers.iter().map(Lstm::forgotten).collect(),
            projection: Vec::new(),
        };
        self.predict(&[self.blank() as u32], &mut [&mut start]);
        start
    }

    /// Takes one token more for each of some windows.
    pub(crate) fn predict(&self, tokens: &[u32], predictions: &mut [&mut Prediction]) {
        let width = self.layers[0].n_in();
        let mut values: Vec<f32> = Vec::with_capacity(tokens.len() * width);
        for &token in tokens {
            values.extend_from_slice(&self.embedding[token as usize * width..][..width]);
        }
        for (layer, lstm) in self.layers.iter().enumerate() {
            let mut memories: Vec<&mut Memory> = predictions
                .iter_mut()
                .map(|prediction| &mut prediction.memories[layer])
                .collect();
            lstm.step(&mut values, &mut memories);
        }
        let mut projected = Vec::new();
        self.prediction_projection.multiply(&values, &mut projected);
        for (projection, prediction) in projected.chunks_exact(self.width()).zip(predictions) {
            prediction.projection.clear();
            prediction.projection.extend_from_slice(projection);
        }
    }

    /// Outputs `[n, n_outputs]` for pairs of a projected frame and a prediction. `sums` is room to work in.
    pub(crate) fn join<'a>(
        &self,
        pairs: impl Iterator<Item = (&'a [f32], &'a Prediction)>,
        sums: &mut Vec<f32>,
        outputs: &mut Vec<f32>,
    ) {
        sums.clear();
        for (frame, prediction) in pairs {
            let added = frame.iter().zip(&prediction.projection).map(|(a, b)| a + b);
            match self.activation {
                Activation::Relu => sums.extend(added.map(|sum| sum.max(0.0))),
                Activation::Tanh => sums.extend(added.map(f32::tanh)),
            }
        }
        self.outputs.multiply(sums, outputs);
    }
}

fn read_prediction(source: &Source) -> Result<(Vec<f32>, Vec<Lstm>), GraphError> {
    let layers = source
        .nodes()
        .iter()
        .filter(|node| matches!(node.op_type.as_str(), "LSTM" | "DynamicQuantizeLSTM"))
        .map(|node| Lstm::read(source, node))
        .collect::<Result<Vec<_>, _>>()?;
    let gather = source.nodes().iter().find(|node| {
        node.op_type == "Gather"
            && source
                .dims(&node.input[0])
                .is_some_and(|dims| dims.len() == 2)
    });
    let (Some(gather), false) = (gather, layers.is_empty()) else {
        return Err(GraphError::invalid(
            "it has no prediction network of an embedding and LSTM layers",
        ));
    };
    let table = source.constant(&gather.input[0])?;
    if matches!(table.data, crate::graph::tensor::Data::Float(_)) {
        return Ok((table.floats().unwrap_or_default(), layers));
    }
    // Quantised: what is gathered is widened somewhere on its way to the first layer.
    let widen = source.nodes().iter().find(|node| {
        node.op_type == "DequantizeLinear"
            && behind_moves(source, &node.input[0]) == gather.output[0]
    });
    let widen = widen.ok_or_else(|| GraphError::invalid("its embedding is of an unknown form"))?;
    let scale = source.floats(&widen.input[1])?;
    let zero = widen.input.get(2).filter(|zero| !zero.is_empty());
    let zero = zero.map(|zero| source.constant(zero)).transpose()?;
    let table = dequantize(table, &scale, zero.as_ref(), 0)?;
    Ok((table.floats().unwrap_or_default(), layers))
}

/// The value behind operations that only move numbers.
fn behind_moves<'a>(source: &'a Source, mut value: &'a str) -> &'a str {
    while let Some(index) = source.producer(value) {
        let node = source.node(index);
        match node.op_type.as_str() {
            "Transpose" | "Squeeze" | "Unsqueeze" | "Reshape" | "Identity" | "Cast" => {
                value = &node.input[0];
            }
            _ => break,
        }
    }
    value
}

fn read_joint(
    source: &Source,
    embedding: Vec<f32>,
    layers: Vec<Lstm>,
    n_pieces: usize,
) -> Result<Network, GraphError> {
    let unknown = |what: &str| GraphError::invalid(format!("its joint network has no {what}"));
    let mut encoder_projection = None;
    let mut prediction_projection = None;
    let mut outputs = None;
    for product in linear::find(source) {
        let root = behind_moves(source, &product.input);
        match source
            .producer(root)
            .map(|index| source.node(index).op_type.as_str())
        {
            Some("LSTM" | "DynamicQuantizeLSTM") => prediction_projection = Some(product),
            Some("Relu") => outputs = Some((product, Activation::Relu)),
            Some("Tanh") => outputs = Some((product, Activation::Tanh)),
            None if root.contains("encoder") => encoder_projection = Some(product),
            None => prediction_projection = Some(product),
            Some(_) => {}
        }
    }
    let read = |product: &Linear| -> Result<Matrix, GraphError> {
        let values = product.matrix(source)?.into_float();
        Ok(Matrix::new(
            &values,
            product.n_in,
            product.n_out,
            product.bias(source)?,
        ))
    };
    let encoder_projection =
        encoder_projection.ok_or_else(|| unknown("product with the encoder's states"))?;
    let prediction_projection =
        prediction_projection.ok_or_else(|| unknown("product with the prediction"))?;
    let (outputs, activation) =
        outputs.ok_or_else(|| unknown("output product behind Relu or Tanh"))?;
    if encoder_projection.n_out != prediction_projection.n_out
        || outputs.n_in != encoder_projection.n_out
    {
        return Err(GraphError::invalid(
            "the sizes of its joint network do not fit each other",
        ));
    }
    Ok(Network {
        embedding,
        layers,
        activation,
        encoder_projection: read(&encoder_projection)?,
        prediction_projection: read(&prediction_projection)?,
        outputs: read(&outputs)?,
        n_pieces,
    })
}
