//! What a file is by its first bytes: a container the crate reads, one that ffmpeg reads, or something that is no audio at all.

use crate::{AudioError, AudioInput};

/// Bytes looked at.
const HEAD: usize = 4_096;
/// Junk in front of the first MPEG frame that is searched through.
const SEARCH: usize = 128 * 1_024;
/// Consecutive frames that make a file MPEG audio: fewer occur by chance in any file.
const FRAMES: usize = 4;

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Container {
    Wav,
    Aiff,
    Au,
    Caf,
    Flac,
    Ogg,
    Mp4,
    Matroska,
    Mp3,
    Adts,
    /// Only ffmpeg reads it: its demuxer, and what it is in words.
    External(&'static str, &'static str),
}

/// First bytes of what only ffmpeg reads.
const EXTERNAL: &[(&[u8], &str, &str)] = &[
    (b"#!AMR", "amr", "AMR"),
    (
        b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
        "asf",
        "Windows Media (WMA)",
    ),
    (b"\x0b\x77", "ac3", "AC-3"),
    (b"\x7f\xfe\x80\x01", "dts", "DTS"),
    (b"\x00\x00\x01\xba", "mpeg", "MPEG program stream"),
    (b"FLV\x01", "flv", "Flash video"),
    (b"wvpk", "wv", "WavPack"),
    (b"MAC ", "ape", "Monkey's Audio"),
    (b"TTA1", "tta", "True Audio"),
    (b"MPCK", "mpc8", "Musepack"),
    (b"MP+", "mpc", "Musepack"),
    (b"riff\x2e\x91\xcf\x11", "w64", "Sony Wave64"),
    (b".RMF", "rm", "RealMedia"),
];

/// First bytes of what people upload by mistake.
const FOREIGN: &[(&[u8], &str)] = &[
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive or Office document"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"MThd", "a MIDI file, which holds notes and no sound"),
    (b"#EXTM3U", "a playlist"),
    (b"[playlist]", "a playlist"),
];

/// Recognises a file; tags in front of the audio are hidden from then on.
pub(crate) fn sniff(input: &mut AudioInput) -> Result<Container, AudioError> {
    skip_id3(input)?;
    let mut head = vec![0; HEAD];
    let read = input.read_at(0, &mut head)?;
    head.truncate(read);
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    let riff = at(0, b"RIFF") || at(0, b"RF64") || at(0, b"BW64");
    let known = match () {
        () if riff && at(8, b"WAVE") => Some(Container::Wav),
        () if riff && at(8, b"AVI ") => Some(Container::External("avi", "AVI video")),
        () if riff && at(8, b"WEBP") => return Err(foreign("a WebP image")),
        () if at(0, b"FORM") && (at(8, b"AIFF") || at(8, b"AIFC")) => Some(Container::Aiff),
        () if at(0, b".snd") => Some(Container::Au),
        () if at(0, b"caff") => Some(Container::Caf),
        () if at(0, b"fLaC") => Some(Container::Flac),
        () if at(0, b"OggS") && at(28, b"Speex") => Some(Container::External("ogg", "Speex")),
        () if at(0, b"OggS") => Some(Container::Ogg),
        () if at(0, b"\x1a\x45\xdf\xa3") => Some(Container::Matroska),
        () if at(4, b"ftypheic") || at(4, b"ftypavif") || at(4, b"ftypmif1") => {
            return Err(foreign("a HEIF or AVIF image"));
        }
        () if at(4, b"ftyp") => Some(Container::Mp4),
        () if at(4, b"moov") || at(4, b"mdat") || at(4, b"wide") => {
            Some(Container::External("mov", "QuickTime without a file type"))
        }
        () => None,
    };
    if let Some(container) = known {
        return Ok(container);
    }
    if let Some((_, demuxer, words)) = EXTERNAL.iter().find(|(magic, ..)| at(0, magic)) {
        return Ok(Container::External(demuxer, words));
    }
    if let Some((_, words)) = FOREIGN.iter().find(|(magic, _)| at(0, magic)) {
        return Err(foreign(words));
    }
    if is_transport_stream(&head) {
        return Ok(Container::External("mpegts", "MPEG transport stream"));
    }
    if looks_like_text(&head) {
        return Err(foreign("text"));
    }
    find_mpeg_frames(input)
}

fn foreign(words: &str) -> AudioError {
    AudioError::unreadable(format!("it is {words}, not audio"))
}

/// Hides `ID3v2` tags, which may stand in front of MP3, AAC, FLAC, AIFF and WAV alike.
fn skip_id3(input: &mut AudioInput) -> Result<(), AudioError> {
    let mut header = [0; 10];
    while input.read_at(0, &mut header)? == header.len() && &header[..3] == b"ID3" {
        let size = header[6..]
            .iter()
            .fold(0, |size, byte| size << 7 | u64::from(byte & 0x7f));
        let footer = if header[5] & 0x10 == 0 { 0 } else { 10 };
        if 10 + size + footer >= input.len() {
            return Err(AudioError::unreadable(
                "the file is truncated: it ends inside its ID3 tag, before any audio",
            ));
        }
        input.skip_front(10 + size + footer)?;
    }
    Ok(())
}

/// Packets of 188 bytes that start with 0x47, as broadcast, or of 192 as Blu-ray has them.
fn is_transport_stream(head: &[u8]) -> bool {
    let synced = |offset: usize, length: usize| {
        let mut packets = head.iter().skip(offset).step_by(length);
        head.len() > offset + 4 * length && packets.all(|byte| *byte == 0x47)
    };
    synced(0, 188) || synced(4, 192)
}

/// Printable from front to back.
fn looks_like_text(head: &[u8]) -> bool {
    let end = head.len().min(1_024);
    let text = match std::str::from_utf8(&head[..end]) {
        Ok(text) => text,
        // A character may be cut by the end of the window.
        Err(error) if error.valid_up_to() + 4 > end => return error.valid_up_to() > 0,
        Err(_) => return false,
    };
    text.chars().all(|c| !c.is_control() || c.is_whitespace())
}

/// An MPEG audio frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FrameHeader {
    container: Container,
    length: usize,
    rate: u32,
}

/// Looks for a run of MPEG audio or ADTS frames near the start.
fn find_mpeg_frames(input: &mut AudioInput) -> Result<Container, AudioError> {
    let mut head = vec![0; SEARCH + 64 * 1_024];
    let read = input.read_at(0, &mut head)?;
    head.truncate(read);
    let whole = read as u64 == input.len();
    let found = (0..head.len().min(SEARCH)).find_map(|start| {
        let first = frame_header(&head[start..])?;
        let mut offset = start + first.length;
        for _ in 1..FRAMES {
            match head.get(offset..).and_then(frame_header) {
                Some(next) if next.rate == first.rate && next.container == first.container => {
                    offset += next.length;
                }
                // A clip of two or three frames is one too, if it fills the file from its first byte to its last.
                _ if whole && start == 0 && offset >= head.len() && offset > first.length => break,
                _ => return None,
            }
        }
        Some((start, first.container))
    });
    match found {
        Some((start, container)) => {
            input.skip_front(start as u64)?;
            Ok(container)
        }
        None => Err(AudioError::unreadable(
            "its content is no audio format known here",
        )),
    }
}

fn frame_header(bytes: &[u8]) -> Option<FrameHeader> {
    let header = bytes.get(..6)?;
    if header[0] != 0xff || header[1] & 0xe0 != 0xe0 {
        return None;
    }
    let layer = header[1] >> 1 & 3;
    if layer == 0 {
        return adts_header(header);
    }
    let version = header[1] >> 3 & 3;
    let rate = *[44_100, 48_000, 32_000].get(usize::from(header[2] >> 2 & 3))?;
    let rate = match version {
        3 => rate,
        2 => rate / 2,
        0 => rate / 4,
        _ => return None,
    };
    const LAYER_3: [[u32; 15]; 2] = [
        [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160],
        [
            0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320,
        ],
    ];
    const LAYER_2: [u32; 15] = [
        0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384,
    ];
    const LAYER_1: [u32; 15] = [
        0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448,
    ];
    let index = usize::from(header[2] >> 4);
    let (rates, samples_per_bit) = match (layer, version) {
        (1, 3) => (&LAYER_3[1], 144_000),
        (1, _) => (&LAYER_3[0], 72_000),
        (2, 3) => (&LAYER_2, 144_000),
        (2, _) => (&LAYER_3[0], 144_000),
        (_, _) => (&LAYER_1, 48_000),
    };
    let kilobits = *rates.get(index).filter(|kilobits| **kilobits > 0)?;
    let padding = u32::from(header[2] >> 1 & 1) * if layer == 3 { 4 } else { 1 };
    let container = match layer {
        1 => Container::Mp3,
        _ => Container::External("mp3", "MPEG audio layer I or II"),
    };
    Some(FrameHeader {
        container,
        length: (samples_per_bit * kilobits / rate + padding) as usize,
        rate,
    })
}

fn adts_header(header: &[u8]) -> Option<FrameHeader> {
    let rate = u32::from(header[2] >> 2 & 15);
    let length = usize::from(header[3] & 3) << 11
        | usize::from(header[4]) << 3
        | usize::from(header[5] >> 5);
    (header[1] & 0xf0 == 0xf0 && rate < 13 && length > 7).then_some(FrameHeader {
        container: Container::Adts,
        length,
        rate,
    })
}
