//! What the headers of compressed files promise, and the structure checks that tell a cut file from a whole one.

use super::sniff::Container;
use super::{riff, truncated};
use crate::{AudioError, AudioInput};

/// Frames the MP3 decoder itself adds to the encoder's delay: 528 of the filter bank and one more.
const MP3_DECODER_DELAY: u64 = 529;
/// Tags and covers that may follow MP3 data.
const MP3_TAIL: u64 = 1 << 20;
/// Longest Ogg page.
const OGG_PAGE: u64 = 65_307;

/// Facts from a header.
#[derive(Debug, Default)]
pub(crate) struct HeaderFacts {
    /// Frames the header promises, encoder delay and padding included.
    pub promised: Option<u64>,
    /// Frames of encoder delay at the start.
    pub delay: u64,
    /// Frames that are played after the delay.
    pub played: Option<u64>,
}

/// Reads the facts; an error if the file is cut.
pub(crate) fn read(
    input: &mut AudioInput,
    container: Container,
) -> Result<HeaderFacts, AudioError> {
    match container {
        Container::Mp3 => mp3(input),
        Container::Ogg => check_ogg_end(input).map(|()| HeaderFacts::default()),
        Container::Matroska => check_segment(input).map(|()| HeaderFacts::default()),
        Container::Wav => Ok(HeaderFacts {
            played: riff::fact(input)?,
            ..HeaderFacts::default()
        }),
        Container::Caf => check_caf(input).map(|()| HeaderFacts::default()),
        _ => Ok(HeaderFacts::default()),
    }
}

/// Frames of an MPEG audio layer III frame: 1152, or 576 at the lower rates.
pub(crate) fn mp3_frames(packet: &[u8]) -> Option<u64> {
    Some(if packet.get(1)? >> 3 & 3 == 3 {
        1_152
    } else {
        576
    })
}

/// The Xing, Info or VBRI header in the first frame, with LAME's delay and padding.
fn mp3(input: &mut AudioInput) -> Result<HeaderFacts, AudioError> {
    let mut bytes = [0; 512];
    let read = input.read_at(0, &mut bytes)?;
    let bytes = &bytes[..read];
    let mut facts = HeaderFacts::default();
    let Some(frame) = mp3_frames(bytes) else {
        return Ok(facts);
    };
    let number = |at: usize| {
        let field = bytes.get(at..at + 4)?;
        Some(u64::from(u32::from_be_bytes([
            field[0], field[1], field[2], field[3],
        ])))
    };
    let mono = bytes.get(3).is_some_and(|byte| byte >> 6 == 3);
    let side_info = match (frame, mono) {
        (1_152, false) => 32,
        (1_152, true) | (_, false) => 17,
        _ => 9,
    };
    let crc = if bytes.get(1).is_some_and(|byte| byte & 1 == 0) {
        2
    } else {
        0
    };
    let xing = [4 + side_info, 4 + crc + side_info]
        .into_iter()
        .find(|at| matches!(bytes.get(*at..at + 4), Some(b"Xing" | b"Info")));
    if let Some(at) = xing {
        let flags = number(at + 4).unwrap_or(0);
        let mut next = at + 8;
        let mut field = |bit: u64, length: usize| {
            let place = next;
            let there = flags & bit != 0;
            next += if there { length } else { 0 };
            there.then_some(place)
        };
        let frames = field(1, 4).and_then(number).filter(|frames| *frames > 0);
        let size = field(2, 4).and_then(number).filter(|size| *size > 0);
        field(4, 100);
        field(8, 4);
        facts.promised = frames.map(|frames| frames * frame);
        // LAME's tag: nine bytes of version, …, delay and padding in twelve bits each.
        if let Some(&[a, b, c]) = bytes.get(next + 21..next + 24)
            && bytes
                .get(next..next + 4)
                .is_some_and(|name| matches!(name, b"LAME" | b"Lavf" | b"Lavc" | b"GOGO"))
        {
            let delay = u64::from(a) << 4 | u64::from(b >> 4);
            let padding = u64::from(b & 15) << 8 | u64::from(c);
            facts.delay = delay + MP3_DECODER_DELAY;
            // Files glued together keep the first one's header: its end is not theirs.
            if size.is_some_and(|size| input.len() < size + MP3_TAIL) {
                let spoken = facts
                    .promised
                    .and_then(|all| all.checked_sub(delay + padding));
                facts.played = spoken.filter(|frames| *frames > 0);
            }
        }
    } else if bytes.get(36..40) == Some(b"VBRI") {
        facts.promised = number(50)
            .filter(|frames| *frames > 0)
            .map(|frames| frames * frame);
    }
    Ok(facts)
}

/// The last page must end where the file ends, or before tags that some programs append.
fn check_ogg_end(input: &mut AudioInput) -> Result<(), AudioError> {
    let from = input.len().saturating_sub(2 * OGG_PAGE);
    let mut tail = vec![0; (input.len() - from) as usize];
    let read = input.read_at(from, &mut tail)?;
    tail.truncate(read);
    let mut position = match tail.windows(4).position(|bytes| bytes == b"OggS") {
        Some(position) => position,
        None => {
            return Err(AudioError::unreadable(
                "its Ogg structure is damaged near the end",
            ));
        }
    };
    while tail.get(position..position + 4) == Some(b"OggS") {
        let page = &tail[position..];
        let segments = page.get(26).map(|count| usize::from(*count));
        let Some(table) = segments.and_then(|count| page.get(27..27 + count)) else {
            return Err(truncated("Ogg", input.len() + 27, input.len()));
        };
        let length = 27 + table.len() + table.iter().map(|size| usize::from(*size)).sum::<usize>();
        if length > page.len() {
            let missing = (length - page.len()) as u64;
            return Err(truncated("Ogg", input.len() + missing, input.len()));
        }
        position += length;
    }
    Ok(())
}

/// The segment of a finished Matroska file states its size; a live one does not.
fn check_segment(input: &mut AudioInput) -> Result<(), AudioError> {
    let mut bytes = [0; 4_096];
    let read = input.read_at(0, &mut bytes)?;
    let bytes = &bytes[..read];
    let segment = element_size(bytes, 4).and_then(|(header, length)| {
        let at = 4 + header + usize::try_from(length?).ok()?;
        (bytes.get(at..at + 4)? == b"\x18\x53\x80\x67").then_some(at + 4)
    });
    let Some((at, (header, Some(size)))) =
        segment.and_then(|at| Some((at, element_size(bytes, at)?)))
    else {
        return Ok(());
    };
    let end = (at + header) as u64 + size;
    if end > input.len() {
        return Err(truncated("Matroska", end, input.len()));
    }
    Ok(())
}

/// An EBML size: its own length, and the value unless it is "unknown".
fn element_size(bytes: &[u8], at: usize) -> Option<(usize, Option<u64>)> {
    let first = bytes.get(at).copied().filter(|first| *first != 0)?;
    let length = first.leading_zeros() as usize + 1;
    let rest = bytes.get(at + 1..at + length)?;
    let start = u64::from(first) & ((1 << (8 - length)) - 1);
    let value = rest
        .iter()
        .fold(start, |value, byte| value << 8 | u64::from(*byte));
    let unknown = (1 << (7 * length)) - 1;
    Some((length, (value != unknown).then_some(value)))
}

/// The data chunk of a CAF file states its size, or −1 while it is being written.
fn check_caf(input: &mut AudioInput) -> Result<(), AudioError> {
    let mut position = 8;
    let mut head = [0; 12];
    for _ in 0..10_000 {
        if input.read_at(position, &mut head)? < head.len() {
            break;
        }
        let size = u64::from_be_bytes([
            head[4], head[5], head[6], head[7], head[8], head[9], head[10], head[11],
        ]);
        if &head[..4] == b"data" && size == u64::MAX {
            break;
        }
        let Some(end) = position
            .checked_add(12)
            .and_then(|body| body.checked_add(size))
        else {
            return Err(AudioError::unreadable("its CAF structure is damaged"));
        };
        if end > input.len() {
            return Err(truncated("CAF", end, input.len()));
        }
        position = end;
    }
    Ok(())
}

/// The plain AAC inside an HE-AAC configuration (ISO/IEC 14496-3 §1.6): its configuration, and its sample rate.
pub(crate) fn aac_core(config: &[u8]) -> Option<(Vec<u8>, u32)> {
    const RATES: [u32; 13] = [
        96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
        8_000, 7_350,
    ];
    let bits = u16::from_be_bytes([*config.first()?, *config.get(1)?]);
    let object = bits >> 11;
    let index = bits >> 7 & 15;
    let channels = bits >> 3 & 15;
    // 2 is plain AAC with a backward-compatible extension behind it, 5 is HE-AAC, 29 its second version.
    if !matches!(object, 2 | 5 | 29) || !matches!(channels, 1 | 2) {
        return None;
    }
    let rate = *RATES.get(usize::from(index))?;
    Some((
        (2 << 11 | index << 7 | channels << 3)
            .to_be_bytes()
            .to_vec(),
        rate,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_of_he_aac_is_plain_aac_at_half_the_rate() {
        // HE-AAC, 22.05 kHz mono core, 44.1 kHz extension; then its second version; then an implicit extension of plain AAC.
        let mono = Some((vec![0x13, 0x88], 22_050));
        assert_eq!(aac_core(&[0x2b, 0x8a, 0x08, 0x00]), mono);
        assert_eq!(aac_core(&[0xeb, 0x8a, 0x08, 0x00]), mono);
        assert_eq!(aac_core(&[0x13, 0x88, 0x56, 0xe5, 0xa0]), mono);
        // 5.1 channels, and error-resilient low delay, are for others.
        assert_eq!(aac_core(&[0x11, 0xb0]), None);
        assert_eq!(aac_core(&[0xb9, 0x88]), None);
        assert_eq!(aac_core(&[0x13]), None);
    }

    #[test]
    fn element_sizes_are_read_and_unknown_ones_recognised() {
        assert_eq!(element_size(&[0x81], 0), Some((1, Some(1))));
        assert_eq!(element_size(&[0x40, 0x02], 0), Some((2, Some(2))));
        assert_eq!(element_size(&[0xff], 0), Some((1, None)));
        assert_eq!(
            element_size(&[1, 255, 255, 255, 255, 255, 255, 255], 0),
            Some((8, None))
        );
        assert_eq!(element_size(&[0, 1], 0), None);
        assert_eq!(element_size(&[0x10, 1], 0), None);
    }
}
