//! The index of an MP4 or `QuickTime` file: where the audio track's samples are, when they play, and whether they are all there.
//!
//! Only the audio's bytes are read this way, however large the video beside them is (ISO/IEC 14496-12).

use super::truncated;
use crate::{AudioError, AudioInput};

/// Largest index that is read: ten hours of AAC need about 8 MB.
const MAX_INDEX: u64 = 256 << 20;
/// Largest single sample.
const MAX_SAMPLE: u32 = 16 << 20;
/// Bytes of equally small samples (PCM) read at a time.
const RUN_BYTES: u32 = 16_384;
/// More top-level boxes than this is an attack, not a file.
const MAX_BOXES: usize = 1_000_000;

/// What the index says about one audio track.
#[derive(Debug, Default)]
pub(crate) struct Track {
    /// Track id, as in the track header.
    pub id: u32,
    /// Ticks per second of the track's times.
    pub timescale: u32,
    /// Ticks at the start that are not played: the encoder's delay.
    pub skip: u64,
    /// Seconds of silence before the first sample.
    pub lead: f64,
    /// Seconds that are played, where an edit list says so.
    pub played: Option<f64>,
    /// Runs of (samples, ticks each).
    durations: Vec<(u32, u32)>,
    /// One size per sample, or one for all.
    sizes: Sizes,
    /// (first chunk from 1, samples per chunk).
    chunks: Vec<(u32, u32)>,
    /// Byte offset of each chunk.
    offsets: Vec<u64>,
}

#[derive(Debug)]
enum Sizes {
    Each(Vec<u32>),
    All { size: u32, count: u32 },
}

impl Default for Sizes {
    fn default() -> Self {
        Self::Each(Vec::new())
    }
}

/// The index of a file.
#[derive(Debug)]
pub(crate) struct Index {
    /// Audio tracks in the order of the file.
    pub tracks: Vec<Track>,
    /// True if samples are in movie fragments and not in the index.
    pub fragmented: bool,
}

/// Reads the index, and refuses a file that is cut.
pub(crate) fn read(input: &mut AudioInput) -> Result<Index, AudioError> {
    let mut position = 0;
    let mut index = None;
    let mut media = false;
    for _ in 0..MAX_BOXES {
        let mut head = [0; 16];
        let read = input.read_at(position, &mut head)?;
        if read == 0 {
            break;
        }
        let Some((kind, header, size)) = box_header(&head[..read], input.len() - position) else {
            // Some cameras pad with zeros; anything else behind the index is none of our business.
            if index.is_some() {
                break;
            }
            return Err(AudioError::unreadable("its MP4 structure is damaged"));
        };
        let end = position + size;
        if end > input.len() && matches!(&kind, b"mdat" | b"moov" | b"moof") {
            return Err(truncated("MP4", end, input.len()));
        }
        match &kind {
            b"moov" if index.is_none() => {
                if size > MAX_INDEX {
                    return Err(AudioError::unreadable("its MP4 index is impossibly large"));
                }
                let mut bytes = vec![0; (size - header) as usize];
                input.read_at(position + header, &mut bytes)?;
                index = Some(read_movie(&bytes));
            }
            b"mdat" => media = true,
            _ => {}
        }
        if end >= input.len() {
            break;
        }
        position = end;
    }
    match index {
        Some(index) => Ok(index),
        None if media => Err(AudioError::unreadable(
            "the MP4 file is truncated or its recording was never finished: its index (moov) is missing",
        )),
        None => Err(AudioError::unreadable(
            "the MP4 file holds no index and no media",
        )),
    }
}

/// Kind, header length and whole length of a box.
fn box_header(bytes: &[u8], left: u64) -> Option<([u8; 4], u64, u64)> {
    let kind = bytes.get(4..8)?.try_into().ok()?;
    let (header, size) = match number(bytes, 0, 4)? {
        0 => (8, left),
        1 => (16, number(bytes, 8, 8)?),
        size => (8, size),
    };
    (size >= header && size < u64::MAX / 4).then_some((kind, header, size))
}

/// A big-endian number of `length` bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    Some(
        field
            .iter()
            .fold(0, |value, byte| value << 8 | u64::from(*byte)),
    )
}

/// The boxes inside a box.
fn children(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    std::iter::from_fn(move || {
        let (kind, header, size) = box_header(bytes, bytes.len() as u64)?;
        let size = usize::try_from(size)
            .ok()
            .filter(|size| *size <= bytes.len())?;
        let body = &bytes[header as usize..size];
        bytes = &bytes[size..];
        Some((kind, body))
    })
}

/// Walks down a path of boxes.
fn find<'a>(bytes: &'a [u8], path: &[&[u8; 4]]) -> Option<&'a [u8]> {
    path.iter().try_fold(bytes, |bytes, wanted| {
        children(bytes).find_map(|(kind, body)| (kind == **wanted).then_some(body))
    })
}

fn read_movie(bytes: &[u8]) -> Index {
    let movie_scale = find(bytes, &[b"mvhd"])
        .and_then(|header| number(header, if header.first() == Some(&1) { 20 } else { 12 }, 4))
        .filter(|scale| *scale > 0)
        .unwrap_or(1_000);
    Index {
        tracks: children(bytes)
            .filter(|(kind, _)| kind == b"trak")
            .filter_map(|(_, body)| read_track(body, movie_scale))
            .collect(),
        fragmented: find(bytes, &[b"mvex"]).is_some(),
    }
}

fn read_track(bytes: &[u8], movie_scale: u64) -> Option<Track> {
    let handler = find(bytes, &[b"mdia", b"hdlr"])?;
    if handler.get(8..12)? != b"soun" {
        return None;
    }
    let header = find(bytes, &[b"tkhd"])?;
    let media = find(bytes, &[b"mdia", b"mdhd"])?;
    let long = |bytes: &[u8]| bytes.first() == Some(&1);
    let table = find(bytes, &[b"mdia", b"minf", b"stbl"])?;
    let mut track = Track {
        id: number(header, if long(header) { 20 } else { 12 }, 4)? as u32,
        timescale: number(media, if long(media) { 20 } else { 12 }, 4)? as u32,
        ..Track::default()
    };
    for (kind, body) in children(table) {
        let pairs = |at: usize, step: usize| {
            let count = number(body, at - 4, 4).unwrap_or(0) as usize;
            let rows = body.get(at..).unwrap_or(&[]).chunks_exact(step).take(count);
            rows.map(|row| {
                (
                    number(row, 0, 4).unwrap_or(0) as u32,
                    number(row, 4, 4).unwrap_or(0) as u32,
                )
            })
        };
        match &kind {
            b"stts" => track.durations = pairs(8, 8).collect(),
            b"stsc" => track.chunks = pairs(8, 12).collect(),
            b"stco" => track.offsets = column(body, 8, 4).collect(),
            b"co64" => track.offsets = column(body, 8, 8).collect(),
            b"stsz" => {
                let (size, count) = (number(body, 4, 4)? as u32, number(body, 8, 4)? as u32);
                track.sizes = match size {
                    0 => Sizes::Each(column(body, 12, 4).map(|size| size as u32).collect()),
                    size => Sizes::All { size, count },
                };
            }
            _ => {}
        }
    }
    if let Some(edits) = find(bytes, &[b"edts", b"elst"]) {
        read_edits(edits, movie_scale, &mut track);
    }
    Some(track)
}

/// The numbers of a table that starts with its count just before `at`.
fn column(body: &[u8], at: usize, width: usize) -> impl Iterator<Item = u64> {
    let count = number(body, at - 4, 4).unwrap_or(0) as usize;
    let rows = body
        .get(at..)
        .unwrap_or(&[])
        .chunks_exact(width)
        .take(count);
    rows.map(move |row| number(row, 0, width).unwrap_or(0))
}

/// An edit list: empty edits delay the track, the first real one says where in the samples it starts.
fn read_edits(bytes: &[u8], movie_scale: u64, track: &mut Track) {
    let width = if bytes.first() == Some(&1) { 8 } else { 4 };
    let rows = bytes.get(8..).unwrap_or(&[]).chunks_exact(2 * width + 4);
    let count = number(bytes, 4, 4).unwrap_or(0) as usize;
    let mut real = 0;
    for row in rows.take(count) {
        let (Some(length), Some(start)) = (number(row, 0, width), number(row, width, width)) else {
            return;
        };
        let seconds = length as f64 / movie_scale as f64;
        if start == u64::MAX >> (64 - 8 * width) {
            track.lead += seconds;
            continue;
        }
        real += 1;
        track.skip = start;
        track.played = (length > 0).then_some(seconds);
    }
    // An edited film plays pieces in another order; its track is taken as recorded.
    if real > 1 {
        track.skip = 0;
        track.played = None;
    }
}

/// One sample, or one run of equally small ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Byte offset.
    pub offset: u64,
    /// Bytes.
    pub size: u32,
    /// Time in ticks.
    pub time: u64,
    /// Length in ticks.
    pub ticks: u64,
}

/// Steps through the samples of a track.
#[derive(Debug)]
pub(crate) struct Samples {
    track: Track,
    sample: u32,
    chunk: usize,
    in_chunk: u32,
    offset: u64,
    time: u64,
    /// Place in `durations`, and samples used up there.
    duration: (usize, u32),
}

impl Samples {
    /// Starts at the first sample; refuses a track whose samples lie behind the end of the file.
    pub fn new(track: Track, file_len: u64) -> Result<Self, AudioError> {
        let start = |track| Self {
            track,
            sample: 0,
            chunk: 0,
            in_chunk: 0,
            offset: 0,
            time: 0,
            duration: (0, 0),
        };
        let mut samples = start(track);
        let mut bytes = 0_u64;
        while let Some(sample) = samples.next() {
            bytes += u64::from(sample.size);
            let end = sample.offset.saturating_add(u64::from(sample.size));
            if end > file_len {
                return Err(truncated("MP4", end, file_len));
            }
            if bytes > file_len {
                return Err(AudioError::unreadable(
                    "its MP4 index claims the same bytes more than once",
                ));
            }
            if sample.size > MAX_SAMPLE {
                return Err(AudioError::unreadable(
                    "its MP4 index claims an impossibly large sample",
                ));
            }
        }
        Ok(start(samples.track))
    }

    /// The track.
    pub fn track(&self) -> &Track {
        &self.track
    }

    /// The next sample.
    pub fn next(&mut self) -> Option<Sample> {
        loop {
            let offset = *self.track.offsets.get(self.chunk)?;
            let per_chunk = self.per_chunk();
            if self.in_chunk < per_chunk {
                if self.in_chunk == 0 {
                    self.offset = offset;
                }
                break;
            }
            self.chunk += 1;
            self.in_chunk = 0;
        }
        let left = self.per_chunk() - self.in_chunk;
        let (size, count) = match &self.track.sizes {
            Sizes::Each(sizes) => (*sizes.get(self.sample as usize)?, 1),
            Sizes::All { size, count } => {
                let run = left.min(count.checked_sub(self.sample).filter(|left| *left > 0)?);
                (*size, run.min((RUN_BYTES / size).max(1)))
            }
        };
        let ticks = (0..count).map_while(|_| self.tick()).sum();
        let sample = Sample {
            offset: self.offset,
            size: size.saturating_mul(count),
            time: self.time,
            ticks,
        };
        self.sample += count;
        self.in_chunk += count;
        self.offset = self.offset.saturating_add(u64::from(sample.size));
        self.time = self.time.saturating_add(ticks);
        Some(sample)
    }

    fn per_chunk(&self) -> u32 {
        let chunk = self.chunk as u32 + 1;
        let next = self
            .track
            .chunks
            .partition_point(|(first, _)| *first <= chunk);
        next.checked_sub(1)
            .map_or(0, |entry| self.track.chunks[entry].1)
    }

    fn tick(&mut self) -> Option<u64> {
        let (mut entry, mut used) = self.duration;
        while used >= self.track.durations.get(entry)?.0 {
            entry += 1;
            used = 0;
        }
        self.duration = (entry, used + 1);
        Some(u64::from(self.track.durations[entry].1))
    }
}
