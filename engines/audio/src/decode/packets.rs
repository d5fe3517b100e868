//! Compressed audio: packets from a container, decoded one by one, placed on the container's clock.
//!
//! A packet that cannot be decoded becomes silence of its length, as players do it; a gap in the clock of a container that has
//! one becomes silence too, so that times in the transcript are times in the file.

use std::io::{Seek, SeekFrom};

use symphonia::core::codecs::CodecParameters;
use symphonia::core::codecs::audio::well_known::{CODEC_ID_AAC, CODEC_ID_MP3, CODEC_ID_VORBIS};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::{FormatReader, TrackType};
use symphonia::core::packet::Packet;
use symphonia::core::units::{Duration, TimeBase, Timestamp};

use super::container::{
    Codec, choose_track, codec_name, expected_frames, guarded, make_codec, names, open_reader,
    pcm_bytes,
};
use super::mp4::{self, Samples};
use super::opus::OPUS_RATE;
use super::pcm::finite;
use super::sniff::Container;
use super::{check_plausible, headers};
use crate::{AudioError, AudioInput, Frames};

/// A gap in the clock that is filled with silence, in seconds: Matroska rounds to milliseconds, and encoders' delays are below.
const GAP: f64 = 0.05;
/// A first timestamp above this, in seconds, is the broadcast's own clock and not silence.
const LATE_START: f64 = 30.0;
/// Frames of silence made at a time.
const SILENCE_FRAMES: u64 = 48_000;

/// A packet with its place in the audio.
pub(crate) struct AudioPacket {
    packet: Packet,
    /// Frames it decodes to, 0 if only decoding tells.
    pub frames: u64,
    /// Frame it starts at by the container's clock, where there is one that tells more than counting does.
    at: Option<i64>,
    trim_start: u64,
    trim_end: u64,
}

/// A compressed stream and its decoder.
pub(crate) struct PacketDecoder {
    source: Source,
    codec: Codec,
    pub info: StreamInfo,
    /// Clock of the container, if gaps in it mean silence: seconds per tick.
    clock: Option<TimeBase>,
    /// Tolerated difference between clock and count, in frames.
    gap: u64,
    /// Frames of encoder delay still to be dropped.
    delay: u64,
    /// Bytes of a frame of an uncompressed codec, else 0.
    frame_bytes: u64,
    /// Frames delivered so far, silence included.
    position: u64,
    /// First time seen, in frames; subtracted from all.
    origin: Option<i64>,
    /// Silence still to be delivered before `waiting`.
    silence: u64,
    waiting: Option<AudioPacket>,
    samples: Vec<f32>,
    pub damaged_frames: u64,
    decoded_any: bool,
}

/// What is known about a stream before decoding it.
#[derive(Debug, Clone)]
pub(crate) struct StreamInfo {
    pub format: &'static str,
    pub codec: String,
    pub channels: usize,
    pub sample_rate: u32,
    pub bit_depth: Option<u16>,
    /// Frames the header promises; the stream is cut if it has clearly fewer.
    pub promised: Option<u64>,
    /// Length for progress, in frames.
    pub expected: Option<u64>,
    /// Frames after which the rest is the encoder's padding, where the header says so.
    pub played: Option<u64>,
}

enum Source {
    Reader {
        reader: Box<dyn FormatReader>,
        track: u32,
        time_base: Option<TimeBase>,
        /// True if running out of bytes in the middle of a structure means that the file is cut.
        strict: bool,
    },
    Mp4 {
        input: Box<AudioInput>,
        samples: Box<Samples>,
    },
}

/// What came of opening a stream.
pub(crate) enum Opened {
    /// It can be decoded here.
    Decoder(Box<PacketDecoder>),
    /// It is sound, but its codec is not one of ours: ffmpeg's demuxer, and the codec in words.
    External(AudioInput, &'static str, String),
}

impl PacketDecoder {
    /// Opens a container that symphonia demuxes.
    pub fn open(mut input: AudioInput, container: Container) -> Result<Opened, AudioError> {
        let facts = headers::read(&mut input, container)?;
        let index = match container {
            Container::Mp4 => Some(mp4::read(&mut input)?),
            _ => None,
        };
        let mut from_start = input.clone();
        from_start.seek(SeekFrom::Start(0))?;
        let reader = open_reader(from_start, container)?;
        let (format, demuxer) = names(container);
        let Some(track) = choose_track(&*reader) else {
            let any = reader
                .tracks()
                .iter()
                .any(|track| track.track_type() == Some(TrackType::Audio))
                || index.as_ref().is_some_and(|index| !index.tracks.is_empty())
                || reader
                    .tracks()
                    .iter()
                    .any(|track| track.codec_params.is_none());
            if any {
                return Ok(Opened::External(
                    input,
                    demuxer,
                    format!("an unknown codec in {format}"),
                ));
            }
            return Err(AudioError::unreadable(match reader.tracks().is_empty() {
                true => format!("the {format} file holds no tracks"),
                false => format!("the {format} file holds no audio track"),
            }));
        };
        let Some(CodecParameters::Audio(params)) = track.codec_params.clone() else {
            return Err(AudioError::unreadable(format!(
                "the {format} file holds no audio track"
            )));
        };
        let codec_name = codec_name(params.codec);
        let Ok(codec) = guarded(|| make_codec(&params))? else {
            return Ok(Opened::External(
                input,
                demuxer,
                format!("{codec_name} in {format}"),
            ));
        };
        let (time_base, id) = (track.time_base, track.id);
        let (channels, sample_rate) = match &codec {
            Codec::Opus(opus) => (opus.channels(), OPUS_RATE),
            Codec::Symphonia(decoder) => {
                let known = decoder.codec_params();
                let channels = known.channels.as_ref().or(params.channels.as_ref());
                (
                    channels.map_or(0, |channels| channels.count()),
                    known.sample_rate.or(params.sample_rate).unwrap_or(0),
                )
            }
        };
        let mut info = StreamInfo {
            format,
            codec: codec_name,
            channels,
            sample_rate,
            bit_depth: params
                .bits_per_sample
                .and_then(|bits| u16::try_from(bits).ok()),
            promised: facts.promised.or(match container {
                Container::Flac | Container::Caf => track.num_frames.filter(|frames| *frames > 0),
                _ => None,
            }),
            expected: track
                .num_frames
                .or_else(|| expected_frames(&*reader, sample_rate)),
            played: facts.played.or(match container {
                Container::Caf => track.num_frames.filter(|_| track.padding.is_some()),
                _ => None,
            }),
        };
        let mut delay = match &codec {
            Codec::Opus(opus) => opus.pre_skip,
            Codec::Symphonia(_) => facts.delay.max(u64::from(match container {
                Container::Caf => track.delay.unwrap_or(0),
                _ => 0,
            })),
        };
        let mut source = Source::Reader {
            reader,
            track: id,
            time_base,
            strict: matches!(container, Container::Matroska | Container::Mp4),
        };
        let mut silence = 0;
        let mut origin = None;
        if let Some(index) = index
            && let Some(track) = index.tracks.into_iter().find(|track| track.id == id)
        {
            let frames = |ticks: u64| {
                (ticks as f64 / f64::from(track.timescale.max(1)) * f64::from(sample_rate)).round()
                    as u64
            };
            if track.skip > 0 {
                delay = frames(track.skip);
                // The clock runs from the first sample, playing from behind the edit.
                origin = Some(delay as i64);
            }
            if track.lead > GAP {
                silence = (track.lead * f64::from(sample_rate)) as u64;
            }
            // Movie fragments are appended after the index: only its encoder delay is of use.
            if !index.fragmented {
                info.played = track
                    .played
                    .map(|seconds| (seconds * f64::from(sample_rate)).round() as u64 + silence);
                let samples = Samples::new(track, input.len())?;
                let input = Box::new(input);
                source = Source::Mp4 {
                    input,
                    samples: Box::new(samples),
                };
            }
        }
        check_plausible(channels, sample_rate)?;
        let clock = match container {
            Container::Matroska | Container::Mp4 | Container::Flac => time_base,
            _ => None,
        };
        Ok(Opened::Decoder(Box::new(Self {
            source,
            codec,
            clock,
            gap: match container {
                Container::Flac => 0,
                _ => (GAP * f64::from(sample_rate)) as u64,
            },
            frame_bytes: pcm_bytes(params.codec).map_or(0, |bytes| bytes * channels as u64),
            info,
            delay,
            position: 0,
            origin,
            silence,
            waiting: None,
            samples: Vec::new(),
            damaged_frames: 0,
            decoded_any: false,
        })))
    }

    /// The next packet of the stream, undecoded; None at the end.
    pub fn next_packet(&mut self) -> Result<Option<AudioPacket>, AudioError> {
        loop {
            let packet = match &mut self.source {
                Source::Mp4 { input, samples } => next_mp4(input, samples)?,
                Source::Reader {
                    reader,
                    track,
                    strict,
                    ..
                } => match guarded(|| reader.next_packet())? {
                    Ok(Some(packet)) if packet.track_id == *track => Some(packet),
                    Ok(Some(_)) => continue,
                    Ok(None) => None,
                    Err(SymphoniaError::ResetRequired) => {
                        self.restart()?;
                        continue;
                    }
                    Err(SymphoniaError::IoError(error))
                        if error.kind() == std::io::ErrorKind::UnexpectedEof =>
                    {
                        if *strict {
                            let format = self.info.format;
                            return Err(AudioError::unreadable(format!(
                                "the {format} file is truncated: it ends in the middle of a block"
                            )));
                        }
                        None
                    }
                    Err(error) => {
                        let seconds = self.position as f64 / f64::from(self.info.sample_rate);
                        let format = self.info.format;
                        return Err(AudioError::unreadable(format!(
                            "the {format} file is damaged after {seconds:.1} s ({error})"
                        )));
                    }
                },
            };
            return Ok(packet.map(|packet| self.place(packet)));
        }
    }

    /// Works out how long a packet is and where it belongs.
    fn place(&mut self, packet: Packet) -> AudioPacket {
        let rate = f64::from(self.info.sample_rate);
        let time_base = match &self.source {
            Source::Reader { time_base, .. } => *time_base,
            Source::Mp4 { samples, .. } => TimeBase::try_from_recip(samples.track().timescale),
        };
        let frames = |duration: Duration| {
            let seconds = time_base.map_or(0.0, |base| {
                base.calc_duration_saturating(duration).as_secs_f64()
            });
            (seconds * rate).round() as u64
        };
        let coded = match &self.codec {
            Codec::Opus(opus) => opus.packet_frames(&packet.data).unwrap_or(0),
            Codec::Symphonia(decoder) => match decoder.codec_params().codec {
                CODEC_ID_AAC => 1_024,
                CODEC_ID_MP3 => headers::mp3_frames(&packet.data).unwrap_or(0),
                _ if self.frame_bytes > 0 => packet.data.len() as u64 / self.frame_bytes,
                // Duration is what is left after trimming; what is decoded is all of it.
                _ => frames(packet.block_dur()),
            },
        };
        let at = self.clock.and(time_base).map(|base| {
            let seconds = base.calc_time_saturating(packet.pts).as_secs_f64();
            (seconds * rate).round() as i64
        });
        // The MPEG reader trims by an estimate where there is no header: only a header is believed here.
        let trims = !matches!(&self.codec, Codec::Symphonia(decoder) if decoder.codec_params().codec == CODEC_ID_MP3);
        AudioPacket {
            frames: coded,
            at,
            trim_start: if trims { frames(packet.trim_start) } else { 0 },
            trim_end: if trims { frames(packet.trim_end) } else { 0 },
            packet,
        }
    }

    /// How many frames the clock is ahead of the count at a packet.
    fn ahead(&mut self, packet: &AudioPacket) -> Option<i64> {
        let at = packet.at?;
        let late = (LATE_START * f64::from(self.info.sample_rate)) as i64;
        if self.origin.is_none() {
            // What plays before time zero is the encoder's delay.
            if at < 0 && self.delay == 0 {
                self.delay = at.unsigned_abs().min(u64::from(self.info.sample_rate));
            }
            self.origin = Some(if at > late { at } else { 0 });
        }
        Some(
            at.saturating_sub(self.origin.unwrap_or(0))
                .saturating_sub(self.position as i64),
        )
    }

    /// Frames of silence that the clock puts in front of a packet.
    fn gap_before(&mut self, packet: &AudioPacket) -> u64 {
        // The clock of some containers includes the delay, that of others does not.
        let slack = if self.gap == 0 {
            0
        } else {
            self.gap as i64 + self.delay as i64
        };
        self.ahead(packet)
            .filter(|ahead| *ahead > slack)
            .map_or(0, |ahead| ahead as u64)
    }

    /// Counts a packet without decoding it; gives the frames up to its end.
    pub fn skip(&mut self, packet: &AudioPacket) -> u64 {
        self.position += std::mem::take(&mut self.silence);
        let gap = match packet.frames {
            // Where only decoding tells how long packets are, the clock tells how far they have come.
            0 => self.ahead(packet).map_or(0, |ahead| ahead.max(0) as u64),
            _ => self.gap_before(packet),
        };
        let trimmed = packet
            .frames
            .saturating_sub(packet.trim_start + packet.trim_end);
        let dropped = self.delay.min(trimmed);
        self.delay -= dropped;
        self.position += gap + trimmed - dropped;
        self.position
    }

    /// Frames delivered or counted so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Decodes a packet to interleaved samples, or says that it is damaged.
    pub fn decode(&mut self, packet: &AudioPacket) -> Result<Decoded, AudioError> {
        self.samples.clear();
        let spec = match &mut self.codec {
            Codec::Opus(opus) => {
                let channels = opus.channels();
                let decoded = guarded(|| {
                    opus.decode(&packet.packet.data)
                        .map(|samples| self.samples.extend_from_slice(samples))
                })?;
                decoded.map(|()| (channels, OPUS_RATE))
            }
            Codec::Symphonia(decoder) => {
                let samples = &mut self.samples;
                let decoded = guarded(|| match decoder.decode(&packet.packet) {
                    Ok(buffer) => {
                        buffer.copy_to_vec_interleaved::<f32>(samples);
                        Some((buffer.spec().channels().count(), buffer.spec().rate()))
                    }
                    Err(_) => None,
                });
                // A panic leaves the decoder in an unknown state, but it forbids unsafe code: at worst it fails again.
                decoded.unwrap_or(None)
            }
        };
        let plausible = |&(channels, rate): &(usize, u32)| check_plausible(channels, rate).is_ok();
        let Some((channels, sample_rate)) = spec.filter(plausible) else {
            self.samples.clear();
            return Ok(Decoded::Damaged);
        };
        let frames = self.samples.len() / channels;
        // Containers are wrong about this now and then; the audio itself is not.
        self.info.sample_rate = sample_rate;
        self.info.channels = channels;
        let all = frames as u64;
        let (start, end) = match &self.codec {
            Codec::Symphonia(decoder) if decoder.codec_params().codec == CODEC_ID_VORBIS => (0, 0),
            _ => (packet.trim_start as usize, packet.trim_end as usize),
        };
        let start = start.min(frames);
        let end = end.min(frames - start);
        self.samples.truncate((frames - end) * channels);
        self.samples.drain(..start * channels);
        for sample in &mut self.samples {
            *sample = finite(*sample);
        }
        Ok(Decoded::Frames {
            channels,
            sample_rate,
            all,
        })
    }

    /// The next block of samples: a decoded packet, or silence. None at the end.
    pub fn next_block(&mut self) -> Result<Option<Frames<'_>>, AudioError> {
        loop {
            if self
                .info
                .played
                .is_some_and(|played| self.position >= played)
            {
                return Ok(None);
            }
            if self.silence > 0 {
                let frames = self.silence.min(SILENCE_FRAMES);
                self.silence -= frames;
                self.position += frames;
                self.samples.clear();
                self.samples
                    .resize(frames as usize * self.info.channels, 0.0);
                return Ok(Some(self.block(self.info.channels, self.info.sample_rate)));
            }
            let packet = match self.waiting.take() {
                Some(packet) => packet,
                None => match self.next_packet()? {
                    None if self.decoded_any => return Ok(None),
                    None => {
                        return Err(AudioError::unreadable(format!(
                            "none of its {} audio can be decoded",
                            self.info.codec
                        )));
                    }
                    Some(packet) => {
                        self.silence = self.gap_before(&packet);
                        if self.silence > 0 {
                            if self.gap == 0 {
                                self.damaged_frames += self.silence;
                            }
                            self.waiting = Some(packet);
                            continue;
                        }
                        packet
                    }
                },
            };
            match self.decode(&packet)? {
                Decoded::Damaged => {
                    self.damaged_frames += packet.frames;
                    let dropped = self.delay.min(packet.frames);
                    self.delay -= dropped;
                    self.silence = packet.frames - dropped;
                }
                Decoded::Frames {
                    channels,
                    sample_rate,
                    ..
                } => {
                    self.decoded_any = true;
                    let dropped = (self.delay as usize).min(self.samples.len() / channels);
                    self.delay -= dropped as u64;
                    self.samples.drain(..dropped * channels);
                    let mut frames = (self.samples.len() / channels) as u64;
                    if let Some(played) = self.info.played {
                        frames = frames.min(played - self.position);
                        self.samples.truncate(frames as usize * channels);
                    }
                    if frames > 0 {
                        self.position += frames;
                        return Ok(Some(self.block(channels, sample_rate)));
                    }
                }
            }
        }
    }

    fn block(&self, channels: usize, sample_rate: u32) -> Frames<'_> {
        Frames {
            samples: &self.samples,
            channels,
            sample_rate,
        }
    }

    /// A chained stream begins anew: its track and its decoder are others.
    fn restart(&mut self) -> Result<(), AudioError> {
        let Source::Reader {
            reader,
            track,
            time_base,
            ..
        } = &mut self.source
        else {
            return Ok(());
        };
        let changed = || {
            AudioError::unreadable("the chained stream changes to something that cannot be decoded")
        };
        let next = choose_track(&**reader).ok_or_else(changed)?;
        let Some(CodecParameters::Audio(params)) = &next.codec_params else {
            return Err(changed());
        };
        *track = next.id;
        *time_base = next.time_base;
        self.codec = guarded(|| make_codec(params))?.map_err(|()| changed())?;
        if let Codec::Opus(opus) = &self.codec {
            self.delay += opus.pre_skip;
        }
        Ok(())
    }
}

/// What decoding a packet gave; the samples are in the decoder.
pub(crate) enum Decoded {
    Frames {
        channels: usize,
        sample_rate: u32,
        /// Frames in the packet, those to be trimmed included.
        all: u64,
    },
    Damaged,
}

fn next_mp4(input: &mut AudioInput, samples: &mut Samples) -> Result<Option<Packet>, AudioError> {
    let Some(sample) = samples.next() else {
        return Ok(None);
    };
    let mut data = vec![0; sample.size as usize];
    let read = input.read_at(sample.offset, &mut data)?;
    data.truncate(read);
    let pts = Timestamp::new(i64::try_from(sample.time).unwrap_or(i64::MAX));
    Ok(Some(Packet::new(
        samples.track().id,
        pts,
        Duration::new(sample.ticks),
        data,
    )))
}
