//! The bytes of an audio file, wherever they are: a local file or an adapter over an object store's ranged reads.
//!
//! A storage failure is remembered here, so that a decoder's "unexpected end" is never blamed on the user's file.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use symphonia::core::io::MediaSource;

use crate::AudioError;

/// Bytes that can be read and positioned.
pub trait ByteSource: Read + Seek + Send {}

impl<T: Read + Seek + Send> ByteSource for T {}

/// An audio file to probe or decode. Clones read the same source, each from its own position.
#[derive(Clone)]
pub struct AudioInput {
    shared: Arc<Mutex<Shared>>,
    position: u64,
    start: u64,
    len: u64,
    path: Option<PathBuf>,
    failure: Failure,
}

/// The source and where it stands.
struct Shared {
    source: Box<dyn ByteSource>,
    position: u64,
}

impl AudioInput {
    /// Takes any seekable source of bytes; its length is found by seeking to its end.
    ///
    /// # Errors
    /// [`AudioError::Io`] if the source cannot be positioned.
    pub fn new(source: impl ByteSource + 'static) -> Result<Self, AudioError> {
        let mut source: Box<dyn ByteSource> = Box::new(source);
        let len = source.seek(SeekFrom::End(0))?;
        Ok(Self {
            shared: Arc::new(Mutex::new(Shared {
                source,
                position: len,
            })),
            position: 0,
            start: 0,
            len,
            path: None,
            failure: Failure::default(),
        })
    }

    /// Opens a local file. ffmpeg, where it is needed, reads it in place.
    ///
    /// # Errors
    /// [`AudioError::Io`] if the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self, AudioError> {
        let mut input = Self::new(File::open(path)?)?;
        input.path = Some(path.to_path_buf());
        Ok(input)
    }

    /// Number of bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True if there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the file is, if it is a local one.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// A handle on the first storage failure, valid after the input has moved into a decoder.
    pub(crate) fn failure(&self) -> Failure {
        self.failure.clone()
    }

    /// Hides the first `bytes` bytes, such as a tag in front of the audio, and goes to what is then the start.
    pub(crate) fn skip_front(&mut self, bytes: u64) -> Result<(), AudioError> {
        let bytes = bytes.min(self.len);
        self.start += bytes;
        self.len -= bytes;
        self.seek(SeekFrom::Start(0))?;
        Ok(())
    }

    /// Reads up to `buffer.len()` bytes at `offset`; fewer only at the end of the file.
    pub(crate) fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize, AudioError> {
        if offset >= self.len {
            return Ok(0);
        }
        self.seek(SeekFrom::Start(offset))?;
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }
}

impl Read for AudioInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(self.position)).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        if wanted == 0 {
            return Ok(0);
        }
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let target = self.start + self.position;
        if shared.position != target {
            shared.position = u64::MAX;
            let seek = shared.source.seek(SeekFrom::Start(target));
            seek.map_err(|error| self.failure.remember(error))?;
            shared.position = target;
        }
        match shared.source.read(&mut buffer[..wanted]) {
            Ok(0) => {
                let cut = io::Error::other("the stored file ends before its stated length");
                Err(self.failure.remember(cut))
            }
            Ok(n) => {
                shared.position += n as u64;
                self.position += n as u64;
                Ok(n)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                shared.position = u64::MAX;
                Err(self.failure.remember(error))
            }
        }
    }
}

impl Seek for AudioInput {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
            SeekFrom::End(delta) => self.len.checked_add_signed(delta),
        };
        match target.filter(|target| *target <= i64::MAX as u64 - self.start) {
            Some(target) => {
                self.position = target;
                Ok(target)
            }
            None => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "seek outside the file",
            )),
        }
    }
}

impl MediaSource for AudioInput {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len)
    }
}

/// The first storage failure of an input, shared with whoever must report it.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<io::Error>>>);

impl Failure {
    /// Keeps the first failure and gives back an error of the same kind to return to the reader.
    fn remember(&self, error: io::Error) -> io::Error {
        let copy = io::Error::new(error.kind(), error.to_string());
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert(error);
        copy
    }

    /// Takes the storage failure as an error, if there was one.
    pub(crate) fn take(&self) -> Option<AudioError> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.take().map(AudioError::Io)
    }
}
