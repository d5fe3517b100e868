//! Packed cross-attention keys and values of a batch of windows: per decoder layer two tensors of floats, or four of
//! bytes and scales, each `[n_windows, n_heads, …]`. They are gathered window by window as the encoder gives them.

use std::borrow::Cow;

use ort::session::{SessionInputValue, SessionOutputs};
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor};

use crate::graph::rewrite::{packed_lens, packed_names};
use crate::graph::{Arithmetic, Shape};

/// The tensors, by the name the decoder knows them by.
pub(super) struct PackedWindows {
    tensors: Vec<(String, DynValue)>,
}

impl PackedWindows {
    /// Room for the windows of a batch.
    pub(super) fn builder(
        arithmetic: Arithmetic,
        n_layers: usize,
        shape: &Shape,
        n_windows: usize,
    ) -> Builder {
        let lens = packed_lens(arithmetic, shape.decoder_head());
        let elements: &[fn(usize) -> Content] = match arithmetic {
            Arithmetic::Float => &[Content::float, Content::float],
            Arithmetic::Int8 => &[
                Content::unsigned,
                Content::float,
                Content::signed,
                Content::float,
            ],
        };
        let parts = (0..n_layers).flat_map(|layer| {
            let names = packed_names(arithmetic, layer).into_iter();
            names.zip(&lens).zip(elements).map(|((name, &len), make)| {
                (name, len, make(n_windows * shape.decoder_heads * len))
            })
        });
        Builder {
            n_heads: shape.decoder_heads,
            parts: parts.collect(),
        }
    }

    /// The decoder's inputs.
    pub(super) fn inputs(&self) -> impl Iterator<Item = (Cow<'_, str>, SessionInputValue<'_>)> {
        self.tensors.iter().map(|(name, tensor)| {
            (
                Cow::Borrowed(name.as_str()),
                SessionInputValue::from(tensor),
            )
        })
    }
}

/// Tensors that are being filled.
pub(super) struct Builder {
    n_heads: usize,
    parts: Vec<(String, usize, Content)>,
}

enum Content {
    Float(Vec<f32>),
    Unsigned(Vec<u8>),
    Signed(Vec<i8>),
}

impl Content {
    fn float(capacity: usize) -> Self {
        Self::Float(Vec::with_capacity(capacity))
    }

    fn unsigned(capacity: usize) -> Self {
        Self::Unsigned(Vec::with_capacity(capacity))
    }

    fn signed(capacity: usize) -> Self {
        Self::Signed(Vec::with_capacity(capacity))
    }
}

impl Builder {
    /// Adds the windows of an encoder call.
    pub(super) fn push(&mut self, outputs: &SessionOutputs<'_>) -> ort::Result<()> {
        for (name, _, content) in &mut self.parts {
            let output = outputs
                .get(name.as_str())
                .ok_or_else(|| ort::Error::new(format!("the encoder has no {name}")))?;
            match content {
                Content::Float(values) => values.extend_from_slice(output.try_extract_tensor()?.1),
                Content::Unsigned(values) => {
                    values.extend_from_slice(output.try_extract_tensor()?.1);
                }
                Content::Signed(values) => values.extend_from_slice(output.try_extract_tensor()?.1),
            }
        }
        Ok(())
    }

    /// The finished tensors.
    pub(super) fn finish(self) -> ort::Result<PackedWindows> {
        let n_heads = self.n_heads;
        let finish = |(name, len, content)| {
            let tensor = match content {
                Content::Float(values) => tensor(values, n_heads, len),
                Content::Unsigned(values) => tensor(values, n_heads, len),
                Content::Signed(values) => tensor(values, n_heads, len),
            };
            Ok((name, tensor?))
        };
        Ok(PackedWindows {
            tensors: self
                .parts
                .into_iter()
                .map(finish)
                .collect::<ort::Result<_>>()?,
        })
    }
}

fn tensor<T: PrimitiveTensorElementType + std::fmt::Debug + Clone + 'static>(
    values: Vec<T>,
    n_heads: usize,
    len: usize,
) -> ort::Result<DynValue> {
    let n_windows = values.len() / (n_heads * len).max(1);
    Ok(Tensor::from_array(([n_windows, n_heads, len], values))?.into_dyn())
}
