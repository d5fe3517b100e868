//! Says what an upload is, and refuses what could not be transcribed later.
//!
//! Uncompressed files tell all by their size. Compressed ones are walked packet by packet to the end, which finds every
//! break in the container and the true length; the first seconds and the last packets are decoded. What only ffmpeg
//! reads is decoded whole.

use std::collections::VecDeque;

use crate::decode::{AudioPacket, Decoded, Kind, PacketDecoder};
use crate::{AudioError, AudioFacts, AudioInput, AudioLimits, Decoder};

/// Seconds decoded at the start.
const START: f64 = 2.0;
/// Packets decoded at the end.
const END: usize = 12;
/// Longest packet of any codec whose packets do not state their length, in frames.
const LAST: u64 = 16_384;
/// A file may hold this much less than its header promises: 0.25 s and a thousandth.
const MISSING_SECONDS: f64 = 0.25;
/// See [`MISSING_SECONDS`].
const MISSING_SHARE: f64 = 0.001;

/// Reads a file's facts from its data.
///
/// # Errors
/// [`AudioError::TooShort`], [`AudioError::TooLong`] or [`AudioError::Unreadable`] with the precise reason, all of them
/// an HTTP 400 by [`AudioError::is_client_error`]; [`AudioError::Io`] if storage fails.
pub fn probe(input: AudioInput, limits: &AudioLimits) -> Result<AudioFacts, AudioError> {
    let failure = input.failure();
    probe_stored(input, limits).map_err(|error| failure.take().unwrap_or(error))
}

fn probe_stored(input: AudioInput, limits: &AudioLimits) -> Result<AudioFacts, AudioError> {
    let mut decoder = Decoder::open(input, limits)?;
    let known = decoder.expected_duration();
    let duration = match decoder.kind() {
        Kind::Pcm(pcm) => {
            let seconds = known.unwrap_or(0.0);
            limits.check(seconds)?;
            pcm.check_end()?;
            decoder.next_frames()?;
            seconds
        }
        Kind::Packets(packets) => walk(packets, limits)?,
        Kind::External(_) => {
            while decoder.next_frames()?.is_some() {}
            decoder.seconds()
        }
    };
    limits.check(duration)?;
    Ok(AudioFacts {
        duration,
        ..decoder.facts()
    })
}

/// Walks all packets; gives the length in seconds.
fn walk(packets: &mut PacketDecoder, limits: &AudioLimits) -> Result<f64, AudioError> {
    let mut last = VecDeque::with_capacity(END);
    let mut sample = Sample::default();
    let mut coded = 0_u64;
    let mut unknown = false;
    while let Some(packet) = packets.next_packet()? {
        let seconds = packets.skip(&packet) as f64 / f64::from(packets.info.sample_rate);
        limits.check_longest(seconds)?;
        coded += packet.frames;
        unknown = packet.frames == 0;
        if seconds < START {
            sample.decode(packets, &packet)?;
        } else {
            if last.len() == END {
                last.pop_front();
            }
            last.push_back(packet);
        }
    }
    for packet in &last {
        sample.decode(packets, packet)?;
    }
    sample.judge(packets)?;
    let rate = f64::from(packets.info.sample_rate);
    if let Some(promised) = packets.info.promised {
        let (promised, found) = (
            promised as f64 / rate,
            coded.max(packets.position()) as f64 / rate,
        );
        if found < promised * (1.0 - MISSING_SHARE) - MISSING_SECONDS {
            let format = packets.info.format;
            return Err(AudioError::unreadable(format!(
                "the {format} file is truncated: its header promises {promised:.1} s of audio, {found:.1} s are there"
            )));
        }
    }
    let played = packets.info.played.unwrap_or(u64::MAX);
    let mut frames = packets.position().min(played);
    // The last packet's length may be known to the container alone.
    if unknown
        && let Some(expected) = packets
            .info
            .expected
            .filter(|expected| (frames..frames + LAST).contains(expected))
    {
        frames = expected;
    }
    Ok(frames as f64 / rate)
}

/// The packets that were decoded, and what came of them.
#[derive(Debug, Default)]
struct Sample {
    tried: usize,
    sound: usize,
    /// Frames that sound packets said they hold, and those they held; without the last one, which may be short.
    said: u64,
    held: u64,
    last: (u64, u64),
    longest: u64,
}

impl Sample {
    fn decode(
        &mut self,
        packets: &mut PacketDecoder,
        packet: &AudioPacket,
    ) -> Result<(), AudioError> {
        self.tried += 1;
        if let Decoded::Frames { all, .. } = packets.decode(packet)? {
            self.sound += 1;
            self.said += self.last.0;
            self.held += self.last.1;
            // Where a packet does not say, its decoder is believed.
            self.last = (
                if packet.frames > 0 {
                    packet.frames
                } else {
                    all
                },
                all,
            );
            self.longest = self.longest.max(all).max(packet.frames);
        }
        Ok(())
    }

    /// Refuses a file whose packets are not what its header says.
    fn judge(&self, packets: &PacketDecoder) -> Result<(), AudioError> {
        let (format, codec) = (packets.info.format, &packets.info.codec);
        if self.tried == 0 {
            let reason = format!("the {format} file holds no audio data");
            return Err(AudioError::unreadable(reason));
        }
        // Players skip a bad frame here and there; a file whose start and end are mostly bad is not worth a job.
        if self.sound * 2 < self.tried {
            let bad = self.tried - self.sound;
            let tried = self.tried;
            return Err(AudioError::unreadable(format!(
                "its {codec} audio is damaged: {bad} of {tried} packets tried cannot be decoded"
            )));
        }
        // The first packet of some codecs only prepares the second.
        if self.said.abs_diff(self.held) > self.longest + self.held / 10 {
            return Err(AudioError::unreadable(format!(
                "its header misstates how long the packets of its {codec} audio are"
            )));
        }
        Ok(())
    }
}
