//! Random access to prepared audio: 16 kHz, mono, f32 in −1..1. Models read the seconds they need, so an hour of audio
//! costs no more memory than a minute.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{EngineError, Result};

/// Samples per second of every audio that crosses a crate boundary.
pub const SAMPLE_RATE: u32 = 16_000;

/// Audio that can be read anywhere, from several threads at once.
pub trait AudioSource: Send + Sync {
    /// Length in samples.
    fn n_samples(&self) -> u64;

    /// Fills `out` with the samples from `start` on. What lies past the end is 0.0.
    ///
    /// # Errors
    /// [`EngineError::Audio`] when the storage behind it fails.
    fn read(&self, start: u64, out: &mut [f32]) -> Result<()>;

    /// Length in seconds.
    fn duration(&self) -> f64 {
        self.n_samples() as f64 / f64::from(SAMPLE_RATE)
    }
}

impl AudioSource for [f32] {
    fn n_samples(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, start: u64, out: &mut [f32]) -> Result<()> {
        let start = usize::try_from(start).unwrap_or(usize::MAX).min(self.len());
        let held = out.len().min(self.len() - start);
        out[..held].copy_from_slice(&self[start..start + held]);
        out[held..].fill(0.0);
        Ok(())
    }
}

impl AudioSource for Vec<f32> {
    fn n_samples(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, start: u64, out: &mut [f32]) -> Result<()> {
        self.as_slice().read(start, out)
    }
}

/// A 16 kHz mono WAV file, 16-bit or f32, read in place. Made by the `prepare` stage; anything else is refused.
#[derive(Debug)]
pub struct WavSource {
    file: File,
    /// Byte offset of the first sample.
    data_start: u64,
    n_samples: u64,
    format: SampleFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SampleFormat {
    Pcm16,
    Float32,
}

impl SampleFormat {
    fn bytes(self) -> usize {
        match self {
            Self::Pcm16 => 2,
            Self::Float32 => 4,
        }
    }
}

impl WavSource {
    /// Opens a file and reads its header. A data chunk whose length is a lie is cut to what the file holds.
    ///
    /// # Errors
    /// [`EngineError::Audio`] when it is not a 16 kHz mono WAV of 16-bit or f32 samples.
    pub fn open(path: &Path) -> Result<Self> {
        let refuse = |why: String| EngineError::Audio(format!("{}: {why}", path.display()));
        let file = File::open(path).map_err(|error| refuse(error.to_string()))?;
        let file_bytes = file
            .metadata()
            .map_err(|error| refuse(error.to_string()))?
            .len();
        let mut head = [0_u8; 12];
        file.read_exact_at(&mut head, 0)
            .map_err(|_| refuse("it is too short for a WAV file".into()))?;
        if &head[..4] != b"RIFF" || &head[8..] != b"WAVE" {
            return Err(refuse("it is not a WAV file".into()));
        }
        let mut format = None;
        let mut at = 12_u64;
        loop {
            let mut chunk = [0_u8; 8];
            file.read_exact_at(&mut chunk, at)
                .map_err(|_| refuse("it has no data chunk".into()))?;
            let length = u64::from(u32::from_le_bytes([chunk[4], chunk[5], chunk[6], chunk[7]]));
            match &chunk[..4] {
                b"fmt " => {
                    let mut fmt = [0_u8; 16];
                    file.read_exact_at(&mut fmt, at + 8)
                        .map_err(|error| refuse(error.to_string()))?;
                    let sub_format = read_sub_format(&file, at, length);
                    format = Some(parse_format(&fmt, sub_format).map_err(&refuse)?);
                }
                b"data" => {
                    let format =
                        format.ok_or_else(|| refuse("its data come before its format".into()))?;
                    let held = length.min(file_bytes.saturating_sub(at + 8));
                    let n_samples = held / format.bytes() as u64;
                    return Ok(Self {
                        file,
                        data_start: at + 8,
                        n_samples,
                        format,
                    });
                }
                _ => {}
            }
            // Chunks are padded to even lengths.
            at += 8 + length + (length & 1);
        }
    }
}

/// The first two bytes of the extensible format's GUID, where there is one.
fn read_sub_format(file: &File, chunk_start: u64, length: u64) -> u16 {
    let mut bytes = [0_u8; 2];
    if length >= 40 && file.read_exact_at(&mut bytes, chunk_start + 8 + 24).is_ok() {
        return u16::from_le_bytes(bytes);
    }
    0
}

fn parse_format(fmt: &[u8; 16], sub_format: u16) -> Result<SampleFormat, String> {
    const EXTENSIBLE: u16 = 0xfffe;
    let field = |at: usize| u16::from_le_bytes([fmt[at], fmt[at + 1]]);
    let (tag, channels, bits) = (field(0), field(2), field(14));
    let rate = u32::from_le_bytes([fmt[4], fmt[5], fmt[6], fmt[7]]);
    if channels != 1 || rate != SAMPLE_RATE {
        return Err(format!(
            "it has {channels} channels at {rate} Hz; a model reads one channel at 16000 Hz"
        ));
    }
    let tag = if tag == EXTENSIBLE { sub_format } else { tag };
    match (tag, bits) {
        (1, 16) => Ok(SampleFormat::Pcm16),
        (3, 32) => Ok(SampleFormat::Float32),
        _ => Err(format!(
            "its samples are {bits}-bit of kind {tag}; a model reads 16-bit PCM or 32-bit float"
        )),
    }
}

impl AudioSource for WavSource {
    fn n_samples(&self) -> u64 {
        self.n_samples
    }

    fn read(&self, start: u64, out: &mut [f32]) -> Result<()> {
        let width = self.format.bytes();
        let held = out
            .len()
            .min(usize::try_from(self.n_samples.saturating_sub(start)).unwrap_or(usize::MAX));
        let mut bytes = vec![0_u8; held * width];
        self.file
            .read_exact_at(&mut bytes, self.data_start + start * width as u64)
            .map_err(|error| EngineError::Audio(error.to_string()))?;
        let (samples, past_end) = out.split_at_mut(held);
        match self.format {
            SampleFormat::Pcm16 => {
                for (sample, raw) in samples.iter_mut().zip(bytes.chunks_exact(2)) {
                    *sample = f32::from(i16::from_le_bytes([raw[0], raw[1]])) / 32_768.0;
                }
            }
            SampleFormat::Float32 => {
                for (sample, raw) in samples.iter_mut().zip(bytes.chunks_exact(4)) {
                    *sample = f32::from_le_bytes([raw[0], raw[1], raw[2], raw[3]]);
                }
            }
        }
        past_end.fill(0.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn wav(channels: u16, rate: u32, tag: u16, bits: u16, data: &[u8]) -> Vec<u8> {
        let mut file = b"RIFF\0\0\0\0WAVE".to_vec();
        file.extend_from_slice(b"LIST\x03\0\0\0abc\0");
        file.extend_from_slice(b"fmt \x10\0\0\0");
        file.extend_from_slice(&tag.to_le_bytes());
        file.extend_from_slice(&channels.to_le_bytes());
        file.extend_from_slice(&rate.to_le_bytes());
        file.extend_from_slice(&(rate * u32::from(channels * bits / 8)).to_le_bytes());
        file.extend_from_slice(&(channels * bits / 8).to_le_bytes());
        file.extend_from_slice(&bits.to_le_bytes());
        file.extend_from_slice(b"data\xff\xff\xff\x7f");
        file.extend_from_slice(data);
        file
    }

    fn open(name: &str, bytes: &[u8]) -> Result<WavSource> {
        let path = std::env::temp_dir().join(format!("dalston-{}-{name}.wav", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        let opened = WavSource::open(&path);
        std::fs::remove_file(&path).unwrap();
        opened
    }

    #[test]
    fn a_wav_with_extra_chunks_and_a_lying_length_reads_what_it_holds() {
        let source = open("pcm", &wav(1, 16_000, 1, 16, &[0, 0x40, 0, 0xc0, 7])).unwrap();
        assert_eq!(source.n_samples(), 2);
        let mut out = [9.0; 3];
        source.read(1, &mut out).unwrap();
        assert_eq!(out, [-0.5, 0.0, 0.0]);
    }

    #[test]
    fn float_samples_read_as_they_are() {
        let source = open("float", &wav(1, 16_000, 3, 32, &0.25_f32.to_le_bytes())).unwrap();
        let mut out = [9.0; 1];
        source.read(0, &mut out).unwrap();
        assert_eq!(out, [0.25]);
    }

    #[test]
    fn stereo_and_other_rates_are_refused_with_what_is_needed() {
        let stereo = open("stereo", &wav(2, 16_000, 1, 16, &[])).unwrap_err();
        assert!(
            stereo.to_string().contains("one channel at 16000 Hz"),
            "{stereo}"
        );
        assert!(open("rate", &wav(1, 44_100, 1, 16, &[])).is_err());
        assert!(open("text", b"not a wave file at all").is_err());
    }
}
