//! AIFF and AIFF-C headers, and Sun's AU.

use super::pcm::{Encoding, PcmLayout};
use super::truncated;
use crate::{AudioError, AudioInput};

/// Bytes that may be missing at the end without calling the file cut.
const TOLERANCE: u64 = 4;
/// More chunks than this in front of the samples is an attack, not a file.
const MAX_CHUNKS: usize = 10_000;

/// Reads an AIFF or AIFF-C header; None if its compression is not one of the plain ones.
pub(crate) fn read_aiff(input: &mut AudioInput) -> Result<Option<PcmLayout>, AudioError> {
    let mut common = None;
    let mut sound = None;
    let mut position = 12;
    for _ in 0..MAX_CHUNKS {
        let mut head = [0; 8];
        if input.read_at(position, &mut head)? < head.len() {
            break;
        }
        let size = u64::from(u32::from_be_bytes([head[4], head[5], head[6], head[7]]));
        let body = position + 8;
        match &head[..4] {
            b"COMM" => {
                let mut bytes = [0; 22];
                let wanted = if size < 22 { 18 } else { 22 };
                if input.read_at(body, &mut bytes[..wanted])? < wanted {
                    return Err(AudioError::unreadable(
                        "the AIFF file is cut inside its header",
                    ));
                }
                common = Some(bytes);
            }
            b"SSND" => {
                let mut bytes = [0; 8];
                input.read_at(body, &mut bytes)?;
                let offset =
                    u64::from(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]));
                sound = Some((body + 8 + offset, size.saturating_sub(8 + offset)));
            }
            _ => {}
        }
        if common.is_some() && sound.is_some() {
            break;
        }
        position = body + size + size % 2;
    }
    let (Some(common), Some((start, chunk))) = (common, sound) else {
        return Err(AudioError::unreadable(
            "the AIFF file is cut or empty: its format or its samples are missing",
        ));
    };
    let bits = u16::from_be_bytes([common[6], common[7]]);
    let Some(encoding) = aiff_encoding(&common[18..22], bits) else {
        return Ok(None);
    };
    let channels = u16::from_be_bytes([common[0], common[1]]);
    let frames = u64::from(u32::from_be_bytes([
        common[2], common[3], common[4], common[5],
    ]));
    let promised = frames * u64::from(channels) * u64::from(encoding.bytes());
    let present = input.len().saturating_sub(start);
    if promised > present + TOLERANCE || promised > chunk + TOLERANCE {
        return Err(truncated("AIFF", promised, present.min(chunk)));
    }
    Ok(Some(PcmLayout {
        format: "aiff",
        start,
        len: promised.min(present),
        sample_rate: extended(&common[8..18]).round() as u32,
        channels,
        encoding,
        bit_depth: bits.min(64),
    }))
}

fn aiff_encoding(compression: &[u8], bits: u16) -> Option<Encoding> {
    let big_endian = true;
    let bytes = bits.div_ceil(8);
    match compression {
        // Plain AIFF has no such field.
        [0, 0, 0, 0] | b"NONE" | b"twos" | b"in24" | b"in32" if (1..=4).contains(&bytes) => {
            Some(Encoding::Signed { bytes, big_endian })
        }
        b"sowt" if (1..=4).contains(&bytes) => Some(Encoding::Signed {
            bytes,
            big_endian: false,
        }),
        b"raw " if bytes == 1 => Some(Encoding::Unsigned8),
        b"fl32" | b"FL32" => Some(Encoding::Float {
            bytes: 4,
            big_endian,
        }),
        b"fl64" | b"FL64" => Some(Encoding::Float {
            bytes: 8,
            big_endian,
        }),
        b"ulaw" | b"ULAW" => Some(Encoding::MuLaw),
        b"alaw" | b"ALAW" => Some(Encoding::ALaw),
        _ => None,
    }
}

/// An 80-bit IEEE 754 extended number, as AIFF stores its sample rate. Anything odd becomes 0, which no file may have.
fn extended(bytes: &[u8]) -> f64 {
    let exponent = i32::from(u16::from_be_bytes([bytes[0], bytes[1]]) & 0x7fff) - 16_383 - 63;
    let mantissa = bytes[2..10]
        .iter()
        .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let value = mantissa as f64 * f64::from(exponent).exp2();
    if value < 4e9 { value } else { 0.0 }
}

/// Reads an AU header; None if its encoding is not one of the plain ones.
pub(crate) fn read_au(input: &mut AudioInput) -> Result<Option<PcmLayout>, AudioError> {
    const UNKNOWN_SIZE: u64 = u32::MAX as u64;
    let mut head = [0; 24];
    if input.read_at(0, &mut head)? < head.len() {
        return Err(AudioError::unreadable(
            "the AU file is cut inside its header",
        ));
    }
    let field =
        |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let big_endian = true;
    let encoding = match field(12) {
        1 => Encoding::MuLaw,
        code @ 2..=5 => Encoding::Signed {
            bytes: code as u16 - 1,
            big_endian,
        },
        6 => Encoding::Float {
            bytes: 4,
            big_endian,
        },
        7 => Encoding::Float {
            bytes: 8,
            big_endian,
        },
        27 => Encoding::ALaw,
        _ => return Ok(None),
    };
    let start = u64::from(field(4));
    let present = input.len().saturating_sub(start);
    let promised = match u64::from(field(8)) {
        UNKNOWN_SIZE => present,
        size => size,
    };
    if promised > present + TOLERANCE {
        return Err(truncated("AU", promised, present));
    }
    Ok(Some(PcmLayout {
        format: "au",
        start,
        len: promised.min(present),
        sample_rate: field(16),
        channels: u16::try_from(field(20)).unwrap_or(u16::MAX),
        encoding,
        bit_depth: encoding.bytes() * 8,
    }))
}
