//! Containers and codecs: which demuxer and which decoder a file needs, and what they are called.

use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia::core::codecs::audio::well_known::{
    self as codecs, CODEC_ID_AAC, CODEC_ID_OPUS, CODEC_ID_VORBIS,
};
use symphonia::core::codecs::audio::{
    AudioCodecId, AudioCodecParameters, AudioDecoder, AudioDecoderOptions,
};
use symphonia::core::errors::Error as SymphoniaError;
use symphonia::core::formats::{FormatOptions, FormatReader, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::default::formats::{
    AdtsReader, CafReader, FlacReader, IsoMp4Reader, MkvReader, MpaReader, OggReader, WavReader,
};

use super::headers;
use super::opus::OpusDecoder;
use super::sniff::Container;
use crate::{AudioError, AudioInput};

/// What turns packets into samples.
pub(super) enum Codec {
    Symphonia(Box<dyn AudioDecoder>),
    Opus(Box<OpusDecoder>),
}

/// Demuxers and decoders forbid unsafe code, but damaged input may still trip an assertion in them: that is the file's fault.
pub(super) fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, AudioError> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| AudioError::unreadable("its structure is damaged"))
}

pub(super) fn open_reader(
    input: AudioInput,
    container: Container,
) -> Result<Box<dyn FormatReader>, AudioError> {
    let mut stream = MediaSourceStream::new(Box::new(input), MediaSourceStreamOptions::default());
    let options = FormatOptions::default();
    let opened = guarded(move || -> Result<Box<dyn FormatReader>, SymphoniaError> {
        Ok(match container {
            Container::Flac => Box::new(FlacReader::try_new(stream, options)?),
            Container::Ogg => Box::new(OggReader::try_new(stream, options)?),
            Container::Mp4 => {
                // The reader steps back from the marker it is recognised by to the start of its box.
                let mut marker = [0; 4];
                std::io::Read::read_exact(&mut stream, &mut marker)?;
                Box::new(IsoMp4Reader::try_new(stream, options)?)
            }
            Container::Matroska => Box::new(MkvReader::try_new(stream, options)?),
            Container::Adts => Box::new(AdtsReader::try_new(stream, options)?),
            Container::Caf => Box::new(CafReader::try_new(stream, options)?),
            Container::Wav => Box::new(WavReader::try_new(stream, options)?),
            Container::Mp3 | Container::Aiff | Container::Au | Container::External(..) => {
                Box::new(MpaReader::try_new(stream, options)?)
            }
        })
    })?;
    opened.map_err(|error| {
        let (format, _) = names(container);
        AudioError::unreadable(match error {
            SymphoniaError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                format!("the {format} file is truncated: it ends inside its header")
            }
            error => format!("its {format} header is damaged ({error})"),
        })
    })
}

/// The container's name, and that of ffmpeg's demuxer.
pub(super) fn names(container: Container) -> (&'static str, &'static str) {
    match container {
        Container::Wav => ("wav", "wav"),
        Container::Aiff => ("aiff", "aiff"),
        Container::Au => ("au", "au"),
        Container::Caf => ("caf", "caf"),
        Container::Flac => ("flac", "flac"),
        Container::Ogg => ("ogg", "ogg"),
        Container::Mp4 => ("mp4", "mov"),
        Container::Matroska => ("matroska", "matroska"),
        Container::Mp3 => ("mp3", "mp3"),
        Container::Adts => ("adts", "aac"),
        Container::External(demuxer, _) => (demuxer, demuxer),
    }
}

/// The default audio track, else the first whose codec is known.
pub(super) fn choose_track(reader: &dyn FormatReader) -> Option<&symphonia::core::formats::Track> {
    reader
        .default_track(TrackType::Audio)
        .or_else(|| reader.first_track(TrackType::Audio))
}

pub(super) fn make_codec(params: &AudioCodecParameters) -> Result<Codec, ()> {
    if params.codec == CODEC_ID_OPUS {
        let head = params.extra_data.as_deref().unwrap_or(&[]);
        return OpusDecoder::new(head)
            .map(|opus| Codec::Opus(Box::new(opus)))
            .map_err(drop);
    }
    // Vorbis starts with half a block of nothing, which its decoder alone can tell from audio.
    let options = AudioDecoderOptions::default().gapless(params.codec == CODEC_ID_VORBIS);
    let registry = symphonia::default::get_codecs();
    let decoder = registry
        .make_audio_decoder(params, &options)
        .or_else(|error| {
            // HE-AAC is AAC at half the rate with a recipe for the treble; the core has all that speech needs.
            let core = params
                .extra_data
                .as_deref()
                .filter(|_| params.codec == CODEC_ID_AAC)
                .and_then(headers::aac_core);
            match core {
                Some((config, rate)) => {
                    let mut params = params.clone();
                    params.with_extra_data(config.into()).with_sample_rate(rate);
                    registry.make_audio_decoder(&params, &options)
                }
                None => Err(error),
            }
        });
    decoder.map(Codec::Symphonia).map_err(drop)
}

/// Bytes of a sample of an uncompressed codec.
pub(super) fn pcm_bytes(codec: AudioCodecId) -> Option<u64> {
    Some(match codec {
        codecs::CODEC_ID_PCM_S8
        | codecs::CODEC_ID_PCM_U8
        | codecs::CODEC_ID_PCM_MULAW
        | codecs::CODEC_ID_PCM_ALAW => 1,
        codecs::CODEC_ID_PCM_S16LE | codecs::CODEC_ID_PCM_S16BE => 2,
        codecs::CODEC_ID_PCM_S24LE | codecs::CODEC_ID_PCM_S24BE => 3,
        codecs::CODEC_ID_PCM_S32LE
        | codecs::CODEC_ID_PCM_S32BE
        | codecs::CODEC_ID_PCM_F32LE
        | codecs::CODEC_ID_PCM_F32BE => 4,
        codecs::CODEC_ID_PCM_F64LE | codecs::CODEC_ID_PCM_F64BE => 8,
        _ => return None,
    })
}

/// The container's own idea of its length.
pub(super) fn expected_frames(reader: &dyn FormatReader, sample_rate: u32) -> Option<u64> {
    let media = reader.media_info();
    let seconds = media
        .time_base?
        .calc_duration_saturating(media.duration?)
        .as_secs_f64();
    Some((seconds * f64::from(sample_rate)) as u64)
}

/// Codec names as ffmpeg writes them.
pub(super) fn codec_name(codec: AudioCodecId) -> String {
    let name = match codec {
        codecs::CODEC_ID_AAC => "aac",
        codecs::CODEC_ID_AC3 => "ac3",
        codecs::CODEC_ID_EAC3 => "eac3",
        codecs::CODEC_ID_DCA => "dts",
        codecs::CODEC_ID_ALAC => "alac",
        codecs::CODEC_ID_FLAC => "flac",
        codecs::CODEC_ID_MP1 => "mp1",
        codecs::CODEC_ID_MP2 => "mp2",
        codecs::CODEC_ID_MP3 => "mp3",
        codecs::CODEC_ID_OPUS => "opus",
        codecs::CODEC_ID_SPEEX => "speex",
        codecs::CODEC_ID_VORBIS => "vorbis",
        codecs::CODEC_ID_ADPCM_MS => "adpcm_ms",
        codecs::CODEC_ID_ADPCM_IMA_WAV => "adpcm_ima_wav",
        codecs::CODEC_ID_ADPCM_IMA_QT => "adpcm_ima_qt",
        codecs::CODEC_ID_PCM_S16LE => "pcm_s16le",
        codecs::CODEC_ID_PCM_S16BE => "pcm_s16be",
        codecs::CODEC_ID_PCM_S24LE => "pcm_s24le",
        codecs::CODEC_ID_PCM_S24BE => "pcm_s24be",
        codecs::CODEC_ID_PCM_S32LE => "pcm_s32le",
        codecs::CODEC_ID_PCM_F32LE => "pcm_f32le",
        codecs::CODEC_ID_PCM_MULAW => "pcm_mulaw",
        codecs::CODEC_ID_PCM_ALAW => "pcm_alaw",
        other => return format!("codec {other}"),
    };
    name.into()
}
