//! Opus packets to samples, through libopus translated to Rust (unsafe-libopus).
//!
//! All unsafe code of the crate that touches untrusted data is here. Every packet's framing is checked in safe code against
//! RFC 6716 §3.2 (and RFC 6716 appendix B for the streams of a multichannel packet) before libopus sees it.

use std::ptr::NonNull;

use unsafe_libopus::{
    OPUS_OK, OpusMSDecoder, opus_multistream_decode_float, opus_multistream_decoder_create,
    opus_multistream_decoder_destroy,
};

use crate::AudioError;
use crate::facts::MAX_CHANNELS;

/// Opus decodes to 48 kHz whatever its input was sampled at.
pub(crate) const OPUS_RATE: u32 = 48_000;
/// Frames of the longest packet: 120 ms.
const MAX_PACKET_FRAMES: usize = 5_760;
/// Longest single frame in bytes (RFC 6716 §3.4).
const MAX_FRAME_BYTES: usize = 1_275;

/// Decodes one Opus stream to interleaved samples at 48 kHz.
pub(crate) struct OpusDecoder {
    state: NonNull<OpusMSDecoder>,
    streams: usize,
    channels: usize,
    /// Frames at the start that belong to no audio.
    pub pre_skip: u64,
    gain: f32,
    pcm: Vec<f32>,
}

// SAFETY: the state is a plain heap block owned by this value alone; libopus keeps no thread-local or global state.
unsafe impl Send for OpusDecoder {}

impl OpusDecoder {
    /// Makes a decoder from an identification header: `OpusHead` of Ogg and Matroska (RFC 7845 §5.1), or MP4's big-endian form.
    pub fn new(head: &[u8]) -> Result<Self, AudioError> {
        let bad = || AudioError::unreadable("its Opus header is damaged");
        if head.len() < 19 || &head[..8] != b"OpusHead" {
            return Err(bad());
        }
        // Version 0 is written by the MP4 mapping only, whose numbers are big-endian.
        let short = |at: usize| match head[8] {
            0 => u16::from_be_bytes([head[at], head[at + 1]]),
            _ => u16::from_le_bytes([head[at], head[at + 1]]),
        };
        let channels = usize::from(head[9]);
        let (streams, coupled, mapping) = match head[18] {
            0 if channels == 1 || channels == 2 => (1, channels - 1, vec![0, 1]),
            1 | 2 | 255
                if (1..=MAX_CHANNELS).contains(&channels) && head.len() >= 21 + channels =>
            {
                (
                    usize::from(head[19]),
                    usize::from(head[20]),
                    head[21..21 + channels].to_vec(),
                )
            }
            _ => return Err(bad()),
        };
        let decoded = streams + coupled;
        if streams == 0
            || coupled > streams
            || decoded > 255
            || mapping[..channels]
                .iter()
                .any(|&to| to != 255 && usize::from(to) >= decoded)
        {
            return Err(bad());
        }
        let mut error = OPUS_OK;
        // SAFETY: `mapping` holds at least `channels` bytes, each a decoded channel or 255, and `error` outlives the call.
        let state = unsafe {
            opus_multistream_decoder_create(
                OPUS_RATE as i32,
                channels as i32,
                streams as i32,
                coupled as i32,
                mapping.as_ptr(),
                &raw mut error,
            )
        };
        let state = NonNull::new(state)
            .filter(|_| error == OPUS_OK)
            .ok_or_else(bad)?;
        Ok(Self {
            state,
            streams,
            channels,
            pre_skip: u64::from(short(10)),
            gain: 10_f32.powf(f32::from(short(16) as i16) / (20.0 * 256.0)),
            pcm: vec![0.0; MAX_PACKET_FRAMES * channels],
        })
    }

    /// Number of channels decoded to.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Frames in a packet by its framing, or None if the framing is broken.
    pub fn packet_frames(&self, packet: &[u8]) -> Option<u64> {
        packet_frames(packet, self.streams)
    }

    /// Decodes one packet to interleaved samples, or None if it is damaged.
    pub fn decode(&mut self, packet: &[u8]) -> Option<&[f32]> {
        self.packet_frames(packet)?;
        let len = i32::try_from(packet.len()).ok()?;
        // SAFETY: the packet is valid for `len` bytes, and `pcm` holds the longest packet for all channels.
        let frames = unsafe {
            opus_multistream_decode_float(
                self.state.as_ptr(),
                packet.as_ptr(),
                len,
                self.pcm.as_mut_ptr(),
                MAX_PACKET_FRAMES as i32,
                0,
            )
        };
        let samples = usize::try_from(frames).ok()? * self.channels;
        let samples = self.pcm.get_mut(..samples)?;
        if (self.gain - 1.0).abs() > f32::EPSILON {
            samples.iter_mut().for_each(|sample| *sample *= self.gain);
        }
        Some(samples)
    }
}

impl Drop for OpusDecoder {
    fn drop(&mut self) {
        // SAFETY: the state came from `opus_multistream_decoder_create` and is freed once.
        unsafe { opus_multistream_decoder_destroy(self.state.as_ptr()) }
    }
}

/// Frames at 48 kHz in a packet of `streams` streams: all but the last are self-delimited, and all last equally long.
fn packet_frames(packet: &[u8], streams: usize) -> Option<u64> {
    let mut rest = packet;
    let mut frames = None;
    for stream in 0..streams {
        let (length, found) = stream_frames(rest, stream + 1 < streams)?;
        if frames.is_some_and(|frames| frames != found) {
            return None;
        }
        frames = Some(found);
        rest = &rest[length..];
    }
    frames
}

/// Checks one stream of a packet: its length in bytes and frames.
fn stream_frames(packet: &[u8], self_delimited: bool) -> Option<(usize, u64)> {
    let mut bytes = Bytes { packet, at: 0 };
    let toc = bytes.next()?;
    let frame = match toc >> 3 {
        config @ 0..12 => [480, 960, 1_920, 2_880][usize::from(config % 4)],
        config @ 12..16 => [480, 960][usize::from(config % 2)],
        config => [120, 240, 480, 960][usize::from(config % 4)],
    };
    let mut padding = 0;
    let mut lengths: usize = 0;
    let count: usize;
    // True where the last frame's length is what is left, shared by `equal` frames.
    let mut equal = 1;
    match toc & 3 {
        0 => count = 1,
        1 => {
            count = 2;
            equal = 2;
        }
        2 => {
            count = 2;
            lengths = bytes.length()?;
        }
        _ => {
            let head = bytes.next()?;
            count = usize::from(head & 63);
            if head & 0x40 != 0 {
                loop {
                    let byte = bytes.next()?;
                    padding += usize::from(byte.min(254));
                    if byte < 255 {
                        break;
                    }
                }
            }
            if head & 0x80 == 0 {
                equal = count;
            } else {
                for _ in 1..count {
                    lengths += bytes.length()?;
                }
            }
        }
    }
    if count == 0 || count * frame > MAX_PACKET_FRAMES {
        return None;
    }
    if self_delimited {
        lengths += bytes.length()? * equal;
        let end = bytes.at + lengths + padding;
        return (end <= packet.len()).then_some((end, (count * frame) as u64));
    }
    let last = packet.len().checked_sub(bytes.at + lengths + padding)?;
    let valid = last % equal == 0 && last / equal <= MAX_FRAME_BYTES;
    valid.then_some((packet.len(), (count * frame) as u64))
}

/// A reader over a packet's header bytes.
struct Bytes<'a> {
    packet: &'a [u8],
    at: usize,
}

impl Bytes<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = self.packet.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    /// A frame length in one or two bytes (RFC 6716 §3.2.1).
    fn length(&mut self) -> Option<usize> {
        let first = usize::from(self.next()?);
        let length = if first < 252 {
            first
        } else {
            first + 4 * usize::from(self.next()?)
        };
        (length <= MAX_FRAME_BYTES).then_some(length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn head(channels: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut head = b"OpusHead\x01".to_vec();
        head.extend([channels, 0x38, 0x01, 0x80, 0xbb, 0, 0, 0, 0, family]);
        head.extend(rest);
        head
    }

    #[test]
    fn packet_lengths_are_those_of_the_standard() {
        // (packet, frames at 48 kHz, or None where the framing is broken)
        let cases: &[(&[u8], Option<u64>)] = &[
            (&[], None),
            (&[0xf8], Some(960)),
            (&[0xf8, 1, 2, 3], Some(960)),
            (&[0xf9, 1, 2], Some(1_920)),
            (&[0xf9, 1, 2, 3], None),
            (&[0xfa, 1, 9, 9], Some(1_920)),
            (&[0xfa, 3, 9], None),
            (&[0xfb], None),
            (&[0xfb, 0], None),
            (&[0xfb, 3, 1, 2, 3], Some(2_880)),
            (&[0xfb, 3, 1, 2], None),
            (&[0xfb, 0x41, 2, 7, 0, 0], Some(960)),
            (&[0xfb, 0x41, 9, 7], None),
            (&[0xfb, 0x82, 1, 9, 9], Some(1_920)),
            // Seven frames of 20 ms are more than the 120 ms allowed.
            (&[0xfb, 7, 0, 0, 0, 0, 0, 0, 0], None),
            (&[0x18, 1], Some(2_880)),
        ];
        for (packet, frames) in cases {
            assert_eq!(packet_frames(packet, 1), *frames, "{packet:02x?}");
        }
        // Two streams: the first one is self-delimited.
        assert_eq!(packet_frames(&[0xf8, 2, 9, 9, 0xf8, 1], 2), Some(960));
        assert_eq!(packet_frames(&[0xf8, 9, 9, 9, 0xf8, 1], 2), None);
        assert_eq!(packet_frames(&[0xf8, 2, 9, 9, 0xf0, 1], 2), None);
    }

    #[test]
    fn impossible_headers_are_refused() {
        assert!(OpusDecoder::new(&head(2, 0, &[])).is_ok());
        assert!(OpusDecoder::new(&head(3, 1, &[2, 1, 0, 1, 2])).is_ok());
        for bad in [
            head(0, 0, &[]),
            head(3, 0, &[]),
            head(3, 1, &[]),
            head(3, 1, &[0, 0, 0, 1, 2]),
            head(3, 1, &[1, 2, 0, 1, 2]),
            head(3, 1, &[2, 1, 0, 1, 3]),
            head(2, 3, &[1, 1, 0, 1]),
            b"OpusHead".to_vec(),
            Vec::new(),
        ] {
            assert!(OpusDecoder::new(&bad).is_err(), "{bad:02x?}");
        }
    }

    #[test]
    fn any_bytes_decode_or_are_refused_without_harm() {
        let mut decoder = OpusDecoder::new(&head(2, 0, &[])).unwrap();
        let mut state = 1_u64;
        let mut random = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as usize
        };
        let mut decoded = 0;
        for _ in 0..2_000 {
            let packet: Vec<u8> = (0..random() % 200).map(|_| random() as u8).collect();
            if let Some(samples) = decoder.decode(&packet) {
                decoded += 1;
                assert!(samples.len() <= 2 * MAX_PACKET_FRAMES);
            }
        }
        assert!(decoded > 500, "{decoded}");
    }
}
