//! Prepared audio: 16 kHz mono s16 WAV, written as a stream and read at random.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::{AudioError, SAMPLE_RATE};

/// Bytes in front of the samples of a prepared file.
const HEADER_BYTES: u64 = 44;
/// Bytes of one s16 sample.
const SAMPLE_BYTES: u64 = 2;
/// Samples converted at a time when reading.
const READ_SAMPLES: usize = 16_384;

/// Writes a prepared WAV as samples come; the header is completed by [`PreparedWavWriter::finish`].
pub struct PreparedWavWriter<W: Write + Seek> {
    out: io::BufWriter<W>,
    samples: u64,
}

impl<W: Write + Seek> PreparedWavWriter<W> {
    /// Starts a file with an empty header.
    ///
    /// # Errors
    /// [`AudioError::Io`] if the destination cannot be written.
    pub fn new(out: W) -> Result<Self, AudioError> {
        let mut out = io::BufWriter::with_capacity(64 * 1024, out);
        out.write_all(&header(0))?;
        Ok(Self { out, samples: 0 })
    }

    /// Appends samples.
    ///
    /// # Errors
    /// [`AudioError::Io`] if the destination cannot be written.
    pub fn write(&mut self, samples: &[i16]) -> Result<(), AudioError> {
        for sample in samples {
            self.out.write_all(&sample.to_le_bytes())?;
        }
        self.samples += samples.len() as u64;
        Ok(())
    }

    /// Number of samples written.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Completes the header, flushes, and gives the destination back, positioned at its end.
    ///
    /// # Errors
    /// [`AudioError::Io`] if the destination cannot be written.
    pub fn finish(mut self) -> Result<W, AudioError> {
        self.out.seek(SeekFrom::Start(0))?;
        self.out.write_all(&header(self.samples))?;
        self.out.seek(SeekFrom::End(0))?;
        self.out
            .into_inner()
            .map_err(|error| AudioError::Io(error.into_error()))
    }
}

/// The 44-byte header of a 16 kHz mono s16 WAV of `samples` samples.
fn header(samples: u64) -> [u8; HEADER_BYTES as usize] {
    let data = u32::try_from(samples * SAMPLE_BYTES).unwrap_or(u32::MAX - 36);
    let mut header = [0; HEADER_BYTES as usize];
    header[0..4].copy_from_slice(b"RIFF");
    header[4..8].copy_from_slice(&(data + 36).to_le_bytes());
    header[8..16].copy_from_slice(b"WAVEfmt ");
    header[16..20].copy_from_slice(&16u32.to_le_bytes());
    header[20..22].copy_from_slice(&1u16.to_le_bytes());
    header[22..24].copy_from_slice(&1u16.to_le_bytes());
    header[24..28].copy_from_slice(&SAMPLE_RATE.to_le_bytes());
    header[28..32].copy_from_slice(&(SAMPLE_RATE * SAMPLE_BYTES as u32).to_le_bytes());
    header[32..34].copy_from_slice(&(SAMPLE_BYTES as u16).to_le_bytes());
    header[34..36].copy_from_slice(&16u16.to_le_bytes());
    header[36..40].copy_from_slice(b"data");
    header[40..44].copy_from_slice(&data.to_le_bytes());
    header
}

/// Reads a prepared WAV at any position without loading it.
#[derive(Debug)]
pub struct PreparedWav<R = File> {
    source: R,
    samples: u64,
    /// The sample `source` stands at.
    position: u64,
    bytes: Vec<u8>,
}

impl PreparedWav<File> {
    /// Opens a prepared file.
    ///
    /// # Errors
    /// [`AudioError::Io`] if it cannot be read, [`AudioError::Unreadable`] if it is not a prepared file.
    pub fn open(path: &Path) -> Result<Self, AudioError> {
        Self::new(File::open(path)?)
    }
}

impl<R: Read + Seek> PreparedWav<R> {
    /// Reads the header of a prepared file.
    ///
    /// # Errors
    /// [`AudioError::Io`] if it cannot be read, [`AudioError::Unreadable`] if it is not a prepared file.
    pub fn new(mut source: R) -> Result<Self, AudioError> {
        let len = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(0))?;
        if len < HEADER_BYTES {
            return Err(AudioError::unreadable("the prepared audio has no header"));
        }
        let mut found = [0; HEADER_BYTES as usize];
        source.read_exact(&mut found)?;
        let samples = (len - HEADER_BYTES) / SAMPLE_BYTES;
        if found != header(samples) {
            return Err(AudioError::unreadable(
                "the prepared audio is not 16 kHz mono s16 WAV, or it is cut",
            ));
        }
        Ok(Self {
            source,
            samples,
            position: 0,
            bytes: Vec::new(),
        })
    }

    /// Length in seconds.
    pub fn duration(&self) -> f64 {
        self.samples as f64 / f64::from(SAMPLE_RATE)
    }

    /// Number of samples.
    pub fn len(&self) -> u64 {
        self.samples
    }

    /// True if there are no samples.
    pub fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Fills `out` with the samples from `start` on, in −1 … 1, and says how many there were: fewer than asked only at the end.
    ///
    /// # Errors
    /// [`AudioError::Io`] if storage fails.
    pub fn read(&mut self, start: u64, out: &mut [f32]) -> Result<usize, AudioError> {
        let left = usize::try_from(self.samples.saturating_sub(start)).unwrap_or(usize::MAX);
        let count = out.len().min(left);
        if count > 0 && self.position != start {
            self.source
                .seek(SeekFrom::Start(HEADER_BYTES + start * SAMPLE_BYTES))?;
        }
        self.position = start + count as u64;
        for part in out[..count].chunks_mut(READ_SAMPLES) {
            self.bytes.resize(part.len() * SAMPLE_BYTES as usize, 0);
            if let Err(error) = self.source.read_exact(&mut self.bytes) {
                self.position = u64::MAX;
                return Err(error.into());
            }
            for (sample, bytes) in part.iter_mut().zip(self.bytes.chunks_exact(2)) {
                *sample = f32::from(i16::from_le_bytes([bytes[0], bytes[1]])) / 32_768.0;
            }
        }
        Ok(count)
    }
}
