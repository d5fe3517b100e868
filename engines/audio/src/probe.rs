//! Says what an upload is, and refuses what could not be transcribed later.

use crate::{AudioError, AudioFacts, AudioInput, AudioLimits, Decoder};

/// Reads a file's facts from its data. Compressed audio is walked packet by packet, decoding only samples of it.
///
/// # Errors
/// [`AudioError::TooShort`], [`AudioError::TooLong`] or [`AudioError::Unreadable`] with the precise reason, all of them
/// an HTTP 400 by [`AudioError::is_client_error`]; [`AudioError::Io`] if storage fails.
pub fn probe(input: AudioInput, limits: &AudioLimits) -> Result<AudioFacts, AudioError> {
    let mut decoder = Decoder::open(input, limits)?;
    let duration = decoder.expected_duration().unwrap_or(0.0);
    limits.check(duration)?;
    decoder.next_frames()?;
    Ok(AudioFacts {
        format: decoder.format().into(),
        codec: decoder.codec(),
        duration,
        channels: decoder.channels() as u16,
        sample_rate: decoder.sample_rate(),
        bit_depth: decoder.bit_depth(),
        damaged: decoder.damaged(),
    })
}
