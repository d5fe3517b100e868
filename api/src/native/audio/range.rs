//! Byte ranges of stored objects (RFC 9110, section 14): one range at a time, read from the store as the client takes it.

use std::ops::Range;

use bytes::Bytes;
use dalston_schema::{ArtifactKey, Storage};
use futures_util::Stream;
use futures_util::stream;

/// Bytes read from the store at a time.
const READ_BYTES: u64 = 256 << 10;

/// Which bytes a request wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The whole object.
    All,
    /// A part.
    Part(Range<u64>),
    /// A part that does not exist.
    Nothing,
}

/// Reads a `Range` header for an object of `size` bytes. Headers that are not understood are ignored, as are several
/// ranges at once.
#[must_use]
pub fn requested(range: Option<&str>, size: u64) -> Wanted {
    let Some((first, last)) = range
        .and_then(|range| range.trim().strip_prefix("bytes="))
        .filter(|ranges| !ranges.contains(','))
        .and_then(|range| range.split_once('-'))
    else {
        return Wanted::All;
    };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first > last => Wanted::All,
        (Ok(first), _) if first >= size => Wanted::Nothing,
        (Ok(first), Ok(last)) => Wanted::Part(first..last.saturating_add(1).min(size)),
        (Ok(first), Err(_)) if last.trim().is_empty() => Wanted::Part(first..size),
        (Err(_), Ok(0)) if first.trim().is_empty() => Wanted::Nothing,
        (Err(_), Ok(suffix)) if first.trim().is_empty() && size > 0 => {
            Wanted::Part(size.saturating_sub(suffix)..size)
        }
        _ => Wanted::All,
    }
}

/// The bytes of a part, piece by piece.
pub fn stream(
    storage: Storage,
    key: ArtifactKey,
    part: Range<u64>,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send + 'static {
    stream::try_unfold(part, move |left| {
        let (storage, key) = (storage.clone(), key.clone());
        async move {
            if left.is_empty() {
                return Ok(None);
            }
            let end = (left.start + READ_BYTES).min(left.end);
            let bytes = storage
                .read_range(&key, left.start..end)
                .await
                .map_err(std::io::Error::other)?;
            Ok(Some((bytes, end..left.end)))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_standard_says() {
        for (header, wanted) in [
            (None, Wanted::All),
            (Some("bytes=0-99"), Wanted::Part(0..100)),
            (Some("bytes=900-"), Wanted::Part(900..1000)),
            (Some("bytes=-100"), Wanted::Part(900..1000)),
            (Some("bytes=-5000"), Wanted::Part(0..1000)),
            (Some("bytes=990-5000"), Wanted::Part(990..1000)),
            (Some("bytes=1000-"), Wanted::Nothing),
            (Some("bytes=-0"), Wanted::Nothing),
            (Some("bytes=5-2"), Wanted::All),
            (Some("bytes=0-1,5-6"), Wanted::All),
            (Some("items=0-1"), Wanted::All),
            (Some("bytes=x-y"), Wanted::All),
        ] {
            assert_eq!(requested(header, 1000), wanted, "{header:?}");
        }
    }
}
