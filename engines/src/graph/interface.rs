//! What a graph file says of itself before it is loaded: names and shapes of its inputs and outputs, its metadata. The
//! file is walked over, not read: weights are skipped, so a file of gigabytes answers at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use prost::Message;

use super::onnx::{Dimension, StringStringEntryProto, ValueInfoProto};

/// Inputs, outputs and metadata of a graph.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Inputs, in order; old exports list weights among them.
    pub inputs: Vec<Port>,
    /// Outputs, in order.
    pub outputs: Vec<Port>,
    /// Key and value pairs that the exporter wrote.
    pub metadata: BTreeMap<String, String>,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its sizes; `None` where they are known only when the graph runs.
    pub dims: Vec<Option<usize>>,
}

// Numbers of the fields in onnx.proto.
const MODEL_GRAPH: u64 = 7;
const MODEL_METADATA: u64 = 14;
const GRAPH_INPUT: u64 = 11;
const GRAPH_OUTPUT: u64 = 12;

impl Interface {
    /// Reads a graph file.
    ///
    /// # Errors
    /// A file that cannot be read or is not protobuf.
    pub fn read(path: &Path) -> io::Result<Self> {
        let mut walk = Walk {
            file: BufReader::new(File::open(path)?),
            at: 0,
        };
        let mut interface = Self::default();
        while let Some((field, length)) = walk.next_field()? {
            match field {
                // What lies inside comes as the next fields.
                MODEL_GRAPH => interface.add_graph(&mut walk, length)?,
                MODEL_METADATA => {
                    let entry: StringStringEntryProto = walk.message(length)?;
                    interface.metadata.insert(entry.key, entry.value);
                }
                _ => walk.skip(length)?,
            }
        }
        Ok(interface)
    }

    /// A metadata value as a number.
    pub fn number(&self, key: &str) -> Option<usize> {
        self.metadata.get(key)?.trim().parse().ok()
    }

    fn add_graph(&mut self, walk: &mut Walk, length: u64) -> io::Result<()> {
        let end = walk.at + length;
        while walk.at < end {
            let Some((field, length)) = walk.next_field()? else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            match field {
                GRAPH_INPUT => self.inputs.push(port(walk.message(length)?)),
                GRAPH_OUTPUT => self.outputs.push(port(walk.message(length)?)),
                _ => walk.skip(length)?,
            }
        }
        Ok(())
    }
}

fn port(value: ValueInfoProto) -> Port {
    let shape = value
        .r#type
        .and_then(|kind| kind.tensor_type)
        .and_then(|tensor| tensor.shape)
        .unwrap_or_default();
    let dims = shape
        .dim
        .into_iter()
        .map(|dimension| match dimension.value {
            Some(Dimension::Size(size)) => usize::try_from(size).ok().filter(|&size| size > 0),
            Some(Dimension::Name(_)) | None => None,
        });
    Port {
        dims: dims.collect(),
        name: value.name,
    }
}

/// A file of protobuf fields, read forwards.
struct Walk {
    file: BufReader<File>,
    at: u64,
}

impl Walk {
    /// Number and length of the next field that has a length; fields without one are passed over. `None` at the end.
    fn next_field(&mut self) -> io::Result<Option<(u64, u64)>> {
        loop {
            if self.file.fill_buf()?.is_empty() {
                return Ok(None);
            }
            let key = self.varint()?;
            match key & 7 {
                0 => drop(self.varint()?),
                1 => self.skip(8)?,
                5 => self.skip(4)?,
                2 => return Ok(Some((key >> 3, self.varint()?))),
                _ => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.file.read_exact(&mut byte)?;
            self.at += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }

    fn skip(&mut self, length: u64) -> io::Result<()> {
        let step = i64::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?;
        self.file.seek_relative(step)?;
        self.at += length;
        Ok(())
    }

    fn message<M: Message + Default>(&mut self, length: u64) -> io::Result<M> {
        /// Nothing that is read here is longer.
        const LONGEST: u64 = 1 << 20;
        if length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes)?;
        self.at += length;
        M::decode(&bytes[..]).map_err(io::Error::other)
    }
}
