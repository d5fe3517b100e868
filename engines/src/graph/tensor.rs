//! Constants of a graph: reading them from the file or from the weights beside it, and converting them to the few forms
//! rewriting works with.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use super::GraphError;
use super::onnx::{TensorProto, element};

/// A constant in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Constant {
    /// Shape; empty for a scalar.
    pub dims: Vec<usize>,
    /// Content.
    pub data: Data,
}

/// Content of a constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Floats, widened from f16 where the file has that.
    Float(Vec<f32>),
    /// 8-bit integers; unsigned ones as `value - 128` with `unsigned` set.
    Int8 {
        /// Values.
        values: Vec<i8>,
        /// Whether the file has them unsigned.
        unsigned: bool,
    },
    /// 32- and 64-bit integers.
    Int64(Vec<i64>),
}

impl Constant {
    /// The content as floats; `None` for integers.
    pub fn floats(self) -> Option<Vec<f32>> {
        match self.data {
            Data::Float(values) => Some(values),
            _ => None,
        }
    }

    /// The kernel of a convolution that looks at one place, as a matrix; other constants stay as they are.
    pub fn without_places(mut self) -> Self {
        if self.dims.len() > 2 && self.dims[2..].iter().all(|&size| size == 1) {
            self.dims.truncate(2);
        }
        self
    }

    /// The matrix turned round; constants of other ranks stay as they are.
    pub fn transposed(self) -> Self {
        let [rows, columns] = self.dims[..] else {
            return self;
        };
        let data = match self.data {
            Data::Float(values) => Data::Float(transpose(&values, rows, columns)),
            Data::Int8 { values, unsigned } => Data::Int8 {
                values: transpose(&values, rows, columns),
                unsigned,
            },
            Data::Int64(values) => Data::Int64(transpose(&values, rows, columns)),
        };
        Self {
            dims: vec![columns, rows],
            data,
        }
    }
}

/// Turns `[rows, columns]` into `[columns, rows]`, tile by tile so that both sides stay in the cache.
pub fn transpose<T: Copy + Default>(values: &[T], rows: usize, columns: usize) -> Vec<T> {
    const TILE: usize = 32;
    let mut turned = vec![T::default(); values.len()];
    for row in (0..rows).step_by(TILE) {
        for column in (0..columns).step_by(TILE) {
            for r in row..(row + TILE).min(rows) {
                for c in column..(column + TILE).min(columns) {
                    turned[c * rows + r] = values[r * columns + c];
                }
            }
        }
    }
    turned
}

/// Reads a constant. `folder` holds the graph file, for weights kept beside it.
///
/// # Errors
/// An unreadable file, a content that does not fit the shape, an element type rewriting does not know.
pub fn read(tensor: &TensorProto, folder: &Path) -> Result<Constant, GraphError> {
    let dims: Vec<usize> = tensor
        .dims
        .iter()
        .map(|&size| usize::try_from(size).unwrap_or(0))
        .collect();
    let len: usize = dims.iter().product();
    let external;
    let raw: &[u8] = if tensor.data_location == 1 {
        external = read_external(tensor, folder)?;
        &external
    } else {
        &tensor.raw_data
    };
    let data = match tensor.data_type {
        element::FLOAT if raw.is_empty() => Data::Float(tensor.float_data.clone()),
        element::FLOAT => Data::Float(from_bytes(raw, f32::from_le_bytes)),
        element::FLOAT16 => Data::Float(from_bytes(raw, |bytes| {
            half_to_float(u16::from_le_bytes(bytes))
        })),
        element::INT8 if raw.is_empty() => Data::Int8 {
            values: tensor.int32_data.iter().map(|&value| value as i8).collect(),
            unsigned: false,
        },
        element::INT8 => Data::Int8 {
            values: raw.iter().map(|&byte| byte as i8).collect(),
            unsigned: false,
        },
        element::UINT8 if raw.is_empty() => Data::Int8 {
            values: tensor
                .int32_data
                .iter()
                .map(|&value| (value - 128) as i8)
                .collect(),
            unsigned: true,
        },
        element::UINT8 => Data::Int8 {
            values: raw
                .iter()
                .map(|&byte| byte.wrapping_sub(128) as i8)
                .collect(),
            unsigned: true,
        },
        element::INT32 if raw.is_empty() => Data::Int64(
            tensor
                .int32_data
                .iter()
                .map(|&value| i64::from(value))
                .collect(),
        ),
        element::INT32 => Data::Int64(from_bytes(raw, |bytes| {
            i64::from(i32::from_le_bytes(bytes))
        })),
        element::INT64 if raw.is_empty() => Data::Int64(tensor.int64_data.clone()),
        element::INT64 => Data::Int64(from_bytes(raw, i64::from_le_bytes)),
        other => {
            return Err(GraphError::invalid(format!(
                "constant {} has element type {other}",
                tensor.name
            )));
        }
    };
    let found = match &data {
        Data::Float(values) => values.len(),
        Data::Int8 { values, .. } => values.len(),
        Data::Int64(values) => values.len(),
    };
    if found != len {
        return Err(GraphError::invalid(format!(
            "constant {} has {found} elements where its shape needs {len}",
            tensor.name
        )));
    }
    Ok(Constant { dims, data })
}

fn from_bytes<T, const N: usize>(raw: &[u8], convert: impl Fn([u8; N]) -> T) -> Vec<T> {
    raw.as_chunks::<N>()
        .0
        .iter()
        .map(|bytes| convert(*bytes))
        .collect()
}

fn read_external(tensor: &TensorProto, folder: &Path) -> Result<Vec<u8>, GraphError> {
    let entry = |key: &str| {
        let found = tensor.external_data.iter().find(|entry| entry.key == key);
        found.map(|entry| entry.value.as_str())
    };
    let location = entry("location").unwrap_or_default();
    if location.is_empty() || location.contains('/') || location.contains("..") {
        return Err(GraphError::invalid(format!(
            "constant {} lies in {location:?}",
            tensor.name
        )));
    }
    let path = folder.join(location);
    let number = |key: &str| entry(key).and_then(|value| value.parse::<u64>().ok());
    let mut file = File::open(&path).map_err(|error| GraphError::io(&path, error))?;
    let size = file
        .metadata()
        .map_err(|error| GraphError::io(&path, error))?
        .len();
    let offset = number("offset").unwrap_or(0);
    let length = number("length").unwrap_or(size.saturating_sub(offset));
    if offset.saturating_add(length) > size {
        return Err(GraphError::invalid(format!(
            "{} ends before constant {}",
            path.display(),
            tensor.name
        )));
    }
    let mut bytes = vec![0; length as usize];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|error| GraphError::io(&path, error))?;
    Ok(bytes)
}

/// IEEE 754 half to single precision.
fn half_to_float(half: u16) -> f32 {
    let sign = if half & 0x8000 == 0 { 1.0 } else { -1.0 };
    let exponent = i32::from((half >> 10) & 0x1f);
    let fraction = f32::from(half & 0x3ff);
    sign * match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    #[test]
    fn halves_widen_exactly() {
        for (half, wanted) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x0001, 5.960_464_5e-8),
            (0x7bff, 65504.0),
            (0, 0.0),
        ] {
            assert_eq!(half_to_float(half), wanted);
        }
    }

    #[test]
    fn unsigned_bytes_are_shifted_and_short_content_is_refused() {
        let mut tensor = TensorProto {
            dims: vec![2],
            data_type: element::UINT8,
            raw_data: vec![0, 255].into(),
            ..Default::default()
        };
        let wanted = Data::Int8 {
            values: vec![-128, 127],
            unsigned: true,
        };
        assert_eq!(read(&tensor, Path::new(".")).unwrap().data, wanted);
        tensor.dims = vec![3];
        assert!(read(&tensor, Path::new(".")).is_err());
    }

    #[test]
    fn a_transposed_matrix_has_rows_for_columns() {
        assert_eq!(transpose(&[1, 2, 3, 4, 5, 6], 2, 3), [1, 4, 2, 5, 3, 6]);
    }
}
