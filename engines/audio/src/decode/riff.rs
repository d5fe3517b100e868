//! WAV headers: RIFF, RF64 and BW64, with the truth about where the samples are.

use super::pcm::{Encoding, PcmLayout};
use super::truncated;
use crate::{AudioError, AudioInput};

/// Size fields of a file that was written to a pipe: "until the end".
const UNKNOWN_SIZE: u32 = u32::MAX;
/// Bytes that may be missing at the end without calling the file cut: writers that count a padding byte they did not write.
const TOLERANCE: u64 = 4;
/// More chunks than this in front of the samples is an attack, not a file.
const MAX_CHUNKS: usize = 10_000;

/// What a WAV file holds.
pub(crate) enum Wav {
    /// Uncompressed samples.
    Pcm(PcmLayout),
    /// A codec with this format tag.
    Coded(u16),
}

/// The fields of a `fmt ` chunk.
struct Format {
    tag: u16,
    channels: u16,
    sample_rate: u32,
    block_align: u16,
    bits: u16,
    valid_bits: u16,
}

/// Reads the header of a WAV file.
pub(crate) fn read(input: &mut AudioInput) -> Result<Wav, AudioError> {
    let mut format = None;
    let mut long_data = None;
    let mut position = 12;
    for _ in 0..MAX_CHUNKS {
        let mut head = [0; 8];
        if input.read_at(position, &mut head)? < head.len() {
            break;
        }
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let body = position + 8;
        match &head[0..4] {
            b"ds64" => {
                let mut sizes = [0; 16];
                if input.read_at(body, &mut sizes)? == sizes.len() {
                    long_data = Some(u64::from_le_bytes([
                        sizes[8], sizes[9], sizes[10], sizes[11], sizes[12], sizes[13], sizes[14],
                        sizes[15],
                    ]));
                }
            }
            b"fmt " => format = Some(read_format(input, body, size)?),
            b"data" => {
                let Some(format) = format else {
                    return Err(AudioError::unreadable(
                        "the WAV header does not say how samples are stored",
                    ));
                };
                return layout(input, &format, body, size, long_data);
            }
            _ => {}
        }
        position = body + u64::from(size) + u64::from(size % 2);
    }
    Err(AudioError::unreadable(match format {
        Some(_) => "the WAV file holds no samples: it is cut before its data chunk",
        None => "the WAV file holds neither format nor samples",
    }))
}

fn read_format(input: &mut AudioInput, body: u64, size: u32) -> Result<Format, AudioError> {
    let mut bytes = [0; 40];
    let wanted = bytes.len().min(size as usize);
    if wanted < 16 || input.read_at(body, &mut bytes[..wanted])? < wanted {
        return Err(AudioError::unreadable("the WAV format chunk is cut"));
    }
    let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let mut format = Format {
        tag: short(0),
        channels: short(2),
        sample_rate: u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        block_align: short(12),
        bits: short(14),
        valid_bits: short(14),
    };
    // WAVE_FORMAT_EXTENSIBLE: the real tag is the first field of the sub-format GUID.
    if format.tag == 0xfffe && wanted >= 40 {
        format.tag = short(24);
        if (1..=format.bits).contains(&short(18)) {
            format.valid_bits = short(18);
        }
    }
    Ok(format)
}

fn layout(
    input: &AudioInput,
    format: &Format,
    start: u64,
    size: u32,
    long_data: Option<u64>,
) -> Result<Wav, AudioError> {
    let sample_bytes = format.block_align / format.channels.max(1);
    let encoding = match (format.tag, format.bits) {
        (1, 1..=8) if sample_bytes <= 1 => Encoding::Unsigned8,
        (1, 1..=64) if (1..=8).contains(&sample_bytes) && sample_bytes * 8 >= format.bits => {
            Encoding::Signed {
                bytes: sample_bytes,
                big_endian: false,
            }
        }
        (1, 8 | 16 | 24 | 32 | 64) if format.block_align == 0 => Encoding::Signed {
            bytes: format.bits / 8,
            big_endian: false,
        },
        (3, 32) => Encoding::Float {
            bytes: 4,
            big_endian: false,
        },
        (3, 64) => Encoding::Float {
            bytes: 8,
            big_endian: false,
        },
        (6, 8) => Encoding::ALaw,
        (7, 8) => Encoding::MuLaw,
        (1 | 3 | 6 | 7, bits) => {
            return Err(AudioError::unreadable(format!(
                "the WAV header contradicts itself: {bits}-bit samples in blocks of {} bytes for {} channels",
                format.block_align, format.channels
            )));
        }
        (tag, _) => {
            present_bytes(input, start, size, long_data)?;
            return Ok(Wav::Coded(tag));
        }
    };
    let frame_bytes = u64::from(encoding.bytes()) * u64::from(format.channels);
    if format.block_align != 0 && u64::from(format.block_align) != frame_bytes {
        return Err(AudioError::unreadable(format!(
            "the WAV header contradicts itself: {} channels of {} bytes cannot make blocks of {} bytes",
            format.channels,
            encoding.bytes(),
            format.block_align
        )));
    }
    let len = present_bytes(input, start, size, long_data)?;
    Ok(Wav::Pcm(PcmLayout {
        format: "wav",
        start,
        len,
        sample_rate: format.sample_rate,
        channels: format.channels,
        encoding,
        bit_depth: format.valid_bits,
    }))
}

/// Bytes of samples that are really there; an error if that is fewer than promised.
fn present_bytes(
    input: &AudioInput,
    start: u64,
    size: u32,
    long_data: Option<u64>,
) -> Result<u64, AudioError> {
    let present = input.len().saturating_sub(start);
    let promised = match (size, long_data) {
        (UNKNOWN_SIZE, Some(long)) if long != 0 && long != u64::MAX => long,
        // Recorders that write to a pipe, or that died before completing the header, leave 0 or the largest number.
        (UNKNOWN_SIZE | 0, _) => present,
        // ffmpeg writes its own "unknown" with the header's length taken off.
        (size, _) if size >= UNKNOWN_SIZE - 4_096 && present < u64::from(size) => present,
        (size, _) => u64::from(size),
    };
    if promised > present + TOLERANCE {
        return Err(truncated("WAV", promised, present));
    }
    Ok(promised.min(present))
}

/// Frames in a WAV file by its `fact` chunk: coded ones are padded to whole blocks.
pub(crate) fn fact(input: &mut AudioInput) -> Result<Option<u64>, AudioError> {
    let mut position = 12;
    let mut head = [0; 12];
    for _ in 0..MAX_CHUNKS {
        if input.read_at(position, &mut head)? < head.len() || &head[..4] == b"data" {
            break;
        }
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        if &head[..4] == b"fact" {
            let frames = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
            return Ok(Some(u64::from(frames)).filter(|frames| *frames > 0));
        }
        position += 8 + u64::from(size) + u64::from(size % 2);
    }
    Ok(None)
}
