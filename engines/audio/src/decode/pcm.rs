//! Uncompressed samples: every PCM depth, float, µ-law and A-law, little- and big-endian, straight from a byte range.

use crate::{AudioError, AudioInput};

/// Frames decoded at a time.
const BLOCK_FRAMES: u64 = 8_192;

/// How one sample is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Unsigned 8-bit, as WAV has it.
    Unsigned8,
    /// Signed integer of 1 to 4 bytes (or 8), most significant bits used.
    Signed {
        /// Bytes of a sample.
        bytes: u16,
        /// Most significant byte first.
        big_endian: bool,
    },
    /// IEEE float of 4 or 8 bytes, full scale 1.
    Float {
        /// Bytes of a sample.
        bytes: u16,
        /// Most significant byte first.
        big_endian: bool,
    },
    /// G.711 µ-law.
    MuLaw,
    /// G.711 A-law.
    ALaw,
}

impl Encoding {
    /// Bytes of one sample.
    pub fn bytes(self) -> u16 {
        match self {
            Self::Unsigned8 | Self::MuLaw | Self::ALaw => 1,
            Self::Signed { bytes, .. } | Self::Float { bytes, .. } => bytes,
        }
    }

    /// Name as ffmpeg writes it.
    pub fn name(self) -> String {
        let order = |bytes: u16, big_endian: bool| match (bytes, big_endian) {
            (1, _) => "",
            (_, true) => "be",
            (_, false) => "le",
        };
        match self {
            Self::Unsigned8 => "pcm_u8".into(),
            Self::Signed { bytes, big_endian } => {
                format!("pcm_s{}{}", bytes * 8, order(bytes, big_endian))
            }
            Self::Float { bytes, big_endian } => {
                format!("pcm_f{}{}", bytes * 8, order(bytes, big_endian))
            }
            Self::MuLaw => "pcm_mulaw".into(),
            Self::ALaw => "pcm_alaw".into(),
        }
    }

    /// Decodes `from` (whole samples) to −1 … 1.
    fn decode(self, from: &[u8], to: &mut Vec<f32>) {
        match self {
            Self::Unsigned8 => {
                to.extend(from.iter().map(|&byte| (f32::from(byte) - 128.0) / 128.0));
            }
            Self::MuLaw => to.extend(from.iter().map(|&byte| f32::from(mu_law(byte)) / 32_768.0)),
            Self::ALaw => to.extend(from.iter().map(|&byte| f32::from(a_law(byte)) / 32_768.0)),
            Self::Signed {
                bytes: 2,
                big_endian: false,
            } => to.extend(
                from.as_chunks::<2>()
                    .0
                    .iter()
                    .map(|&b| f32::from(i16::from_le_bytes(b)) / 32_768.0),
            ),
            Self::Signed { bytes, big_endian } => {
                to.extend(from.chunks_exact(usize::from(bytes)).map(|sample| {
                    (f64::from(top_bits(sample, big_endian)) / 2_147_483_648.0) as f32
                }));
            }
            Self::Float {
                bytes: 4,
                big_endian,
            } => {
                to.extend(from.as_chunks::<4>().0.iter().map(|&b| {
                    finite(if big_endian {
                        f32::from_be_bytes(b)
                    } else {
                        f32::from_le_bytes(b)
                    })
                }));
            }
            Self::Float { big_endian, .. } => to.extend(from.as_chunks::<8>().0.iter().map(|&b| {
                finite(if big_endian {
                    f64::from_be_bytes(b)
                } else {
                    f64::from_le_bytes(b)
                } as f32)
            })),
        }
    }
}

/// The upper 32 bits of a signed sample of up to 8 bytes.
fn top_bits(sample: &[u8], big_endian: bool) -> i32 {
    let mut top = [0; 4];
    for (place, target) in top.iter_mut().enumerate() {
        let byte = if big_endian {
            sample.get(place)
        } else {
            sample
                .len()
                .checked_sub(place + 1)
                .and_then(|index| sample.get(index))
        };
        *target = byte.copied().unwrap_or(0);
    }
    i32::from_be_bytes(top)
}

/// A float file may hold anything; NaN and infinity would spoil everything after them.
pub(crate) fn finite(sample: f32) -> f32 {
    if sample.is_finite() {
        sample.clamp(-8.0, 8.0)
    } else {
        0.0
    }
}

/// ITU-T G.711 µ-law to linear.
fn mu_law(byte: u8) -> i16 {
    let byte = !byte;
    let magnitude = ((i16::from(byte & 0x0f) << 3) + 0x84) << ((byte & 0x70) >> 4);
    if byte & 0x80 != 0 {
        0x84 - magnitude
    } else {
        magnitude - 0x84
    }
}

/// ITU-T G.711 A-law to linear.
fn a_law(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let mantissa = i16::from(byte & 0x0f) << 4;
    let magnitude = match (byte & 0x70) >> 4 {
        0 => mantissa + 8,
        exponent => (mantissa + 0x108) << (exponent - 1),
    };
    if byte & 0x80 != 0 {
        magnitude
    } else {
        -magnitude
    }
}

/// Where the samples of an uncompressed file are and how they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PcmLayout {
    /// Container name.
    pub format: &'static str,
    /// First byte of the samples.
    pub start: u64,
    /// Bytes of samples: what is really there.
    pub len: u64,
    /// Samples per second and channel.
    pub sample_rate: u32,
    /// Channels.
    pub channels: u16,
    /// How a sample is stored.
    pub encoding: Encoding,
    /// Bits of a sample that carry something.
    pub bit_depth: u16,
}

impl PcmLayout {
    /// Frames in the file.
    pub fn frames(&self) -> u64 {
        self.len / self.frame_bytes()
    }

    fn frame_bytes(&self) -> u64 {
        u64::from(self.channels.max(1)) * u64::from(self.encoding.bytes())
    }
}

/// Streams the samples of a [`PcmLayout`].
pub(crate) struct PcmDecoder {
    input: AudioInput,
    pub layout: PcmLayout,
    frame: u64,
    bytes: Vec<u8>,
    samples: Vec<f32>,
}

impl PcmDecoder {
    pub fn new(input: AudioInput, layout: PcmLayout) -> Self {
        Self {
            input,
            layout,
            frame: 0,
            bytes: Vec::new(),
            samples: Vec::new(),
        }
    }

    /// Reads the last frame, so that storage which lost the end is found out before it matters.
    pub fn check_end(&mut self) -> Result<(), AudioError> {
        let frame_bytes = self.layout.frame_bytes();
        let mut frame = vec![0; frame_bytes as usize];
        let offset = self.layout.start + self.layout.frames().saturating_sub(1) * frame_bytes;
        self.input.read_at(offset, &mut frame)?;
        Ok(())
    }

    /// The next block of interleaved samples, or None at the end.
    pub fn next(&mut self) -> Result<Option<&[f32]>, AudioError> {
        let frames = BLOCK_FRAMES.min(self.layout.frames() - self.frame);
        if frames == 0 {
            return Ok(None);
        }
        let frame_bytes = self.layout.frame_bytes();
        self.bytes.resize((frames * frame_bytes) as usize, 0);
        let offset = self.layout.start + self.frame * frame_bytes;
        let read = self.input.read_at(offset, &mut self.bytes)?;
        if read < self.bytes.len() {
            return Err(AudioError::unreadable("the file is shorter than it was"));
        }
        self.samples.clear();
        self.layout.encoding.decode(&self.bytes, &mut self.samples);
        self.frame += frames;
        Ok(Some(&self.samples))
    }
}
