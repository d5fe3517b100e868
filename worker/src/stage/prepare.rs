//! The `prepare` stage: the upload becomes 16 kHz mono WAV in the object store, with its facts, its waveform, its speech
//! and what a user should know about it. Audio that cannot be decoded fails the job at once.
//!
//! Memory is constant: the upload is read where it lies or from a copy in scratch, and the result goes through scratch
//! into the object store in blocks.

use std::path::{Path, PathBuf};

use dalston_audio::{
    AudioError, AudioInput, ChannelMode, Levels, PrepareOptions, Prepared, PreparedTrack,
};
use dalston_engines::{Control, WavSource};
use dalston_schema::ArtifactKey;
use dalston_schema::db::tasks::Completion;
use dalston_schema::task::{PrepareRequest, PrepareResponse, PreparedAudio, SourceAudio};

use super::{TaskContext, answer, blocking};
use crate::coverage::{Interval, total};
use crate::failure::{StageError, StageResult};
use crate::lease::ProgressMeter;
use crate::stop::Stop;

/// Share of the work that decoding is; the rest is finding speech.
const DECODING_SHARE: f64 = 0.6;
/// Share of samples at full scale from which a track counts as clipped.
const CLIPPED_SHARE: f64 = 0.001;
/// Level below which a track counts as almost silent, dBFS.
const ALMOST_SILENT_DBFS: f64 = -55.0;
/// Seconds that may be damaged without a word about it.
const DAMAGED_SECONDS: f64 = 0.1;

pub async fn run(context: &TaskContext<'_>) -> StageResult<Completion> {
    let request: PrepareRequest = context.request()?;
    let storage = &context.environment.storage;
    let key = context.job.audio_key.as_ref().ok_or_else(|| {
        StageError::permanent("The audio was deleted before it could be transcribed.")
    })?;
    let original = context
        .scratch
        .fetch(storage, &ArtifactKey::from_stored(key), "original")
        .await?;
    let mode = if request.split_channels {
        ChannelMode::Split
    } else {
        ChannelMode::Mix
    };
    let expected = context.job.audio_duration_seconds;
    let folder = context.scratch.folder().to_owned();
    let (stop, meter) = (context.stop.clone(), context.progress.clone());
    let prepared =
        blocking(move || decode(&original, &folder, mode, expected, &stop, &meter)).await?;
    let mut files = Vec::with_capacity(prepared.tracks.len());
    let tracks = prepared.tracks.len();
    for (index, track) in prepared.tracks.iter().enumerate() {
        let channel = match mode {
            ChannelMode::Mix => None,
            ChannelMode::Split => Some(u16::try_from(index).unwrap_or(u16::MAX)),
        };
        let path = track_path(context.scratch.folder(), index);
        let share = Share {
            from: DECODING_SHARE + (1.0 - DECODING_SHARE) * index as f64 / tracks as f64,
            width: (1.0 - DECODING_SHARE) / tracks as f64,
        };
        let speech_regions = find_speech(context, &path, track.duration(), share).await?;
        let key = ArtifactKey::prepared_audio(context.task.job_id, context.task.id, channel);
        context.scratch.store(storage, &path, &key).await?;
        files.push(prepared_audio(track, channel, &key, speech_regions));
    }
    answer(&response(&prepared, files))
}

fn track_path(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("track{index}.wav"))
}

/// Decodes and resamples the upload to one WAV per track.
fn decode(
    original: &Path,
    folder: &Path,
    channels: ChannelMode,
    expected: f64,
    stop: &Stop,
    meter: &ProgressMeter,
) -> StageResult<Prepared> {
    let options = PrepareOptions {
        channels,
        ..PrepareOptions::default()
    };
    Ok(dalston_audio::prepare(
        AudioInput::open(original)?,
        &options,
        &mut |index| {
            let file = std::fs::File::create(track_path(folder, index))?;
            Ok::<_, AudioError>(std::io::BufWriter::new(file))
        },
        &mut |progress| {
            let total = progress.total.unwrap_or(expected).max(progress.done);
            if total > 0.0 {
                meter.report(expected * DECODING_SHARE * progress.done / total, expected);
            }
        },
        stop.raised(),
    )?)
}

/// A part of the whole task's work.
#[derive(Clone, Copy)]
struct Share {
    from: f64,
    width: f64,
}

async fn find_speech(
    context: &TaskContext<'_>,
    path: &Path,
    duration: f64,
    share: Share,
) -> StageResult<Vec<Interval>> {
    let finder = context.environment.speech.clone();
    let (meter, expected) = (context.progress.clone(), context.job.audio_duration_seconds);
    let control = Control {
        cancel: context.stop.flag().clone(),
        progress: Some(std::sync::Arc::new(move |seconds: f64| {
            let done = share.from + share.width * (seconds / duration.max(f64::EPSILON)).min(1.0);
            meter.report(expected * done, expected);
        })),
        ..Control::default()
    };
    let path = path.to_owned();
    blocking(move || finder.find(&WavSource::open(&path)?, &control)).await
}

fn prepared_audio(
    track: &PreparedTrack,
    channel: Option<u16>,
    key: &ArtifactKey,
    speech_regions: Vec<Interval>,
) -> PreparedAudio {
    let unit = |hundredths: i8| f32::from(hundredths) / 100.0;
    PreparedAudio {
        key: key.to_string(),
        channel,
        offset: 0.0,
        duration: track.duration(),
        rms_dbfs: track.levels.rms_dbfs,
        speech_regions,
        peaks: track
            .peaks
            .pairs
            .iter()
            .map(|&(low, high)| (unit(low), unit(high)))
            .collect(),
    }
}

fn response(prepared: &Prepared, files: Vec<PreparedAudio>) -> PrepareResponse {
    let facts = &prepared.facts;
    let duration: f64 = files.iter().map(|file| file.duration).sum();
    let speech: f64 = files.iter().map(|file| total(&file.speech_regions)).sum();
    let mut warnings = Vec::new();
    if facts.damaged > DAMAGED_SECONDS {
        warnings.push(format!(
            "{:.1}s of the file could not be decoded and count as silence",
            facts.damaged
        ));
    }
    for (track, file) in prepared.tracks.iter().zip(&files) {
        let prefix = file
            .channel
            .map_or_else(String::new, |channel| format!("ch{channel}: "));
        warnings.extend(
            track_warnings(&track.levels, file.speech_regions.is_empty())
                .into_iter()
                .map(|warning| format!("{prefix}{warning}")),
        );
    }
    PrepareResponse {
        source: SourceAudio {
            format: facts.format.clone(),
            codec: facts.codec.clone(),
            duration: facts.duration,
            sample_rate: facts.sample_rate,
            channels: facts.channels,
            bit_depth: facts.bit_depth,
        },
        channel_files: files,
        speech_ratio: if duration > 0.0 {
            (speech / duration).clamp(0.0, 1.0)
        } else {
            0.0
        },
        warnings,
    }
}

/// What a user should know about how one track sounds.
fn track_warnings(levels: &Levels, speechless: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if levels.clipped >= CLIPPED_SHARE {
        warnings.push(format!(
            "the audio is clipped ({:.1}% of samples at full scale); words may be misheard",
            levels.clipped * 100.0
        ));
    }
    if levels.rms_dbfs < ALMOST_SILENT_DBFS {
        warnings.push(format!(
            "the audio is almost silent ({:.0} dBFS)",
            levels.rms_dbfs
        ));
    }
    if speechless {
        warnings.push("no speech was found in the audio".to_owned());
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_say_what_is_wrong_with_the_sound_and_nothing_else() {
        let levels = |rms_dbfs, clipped| Levels {
            rms_dbfs,
            peak_dbfs: 0.0,
            clipped,
            silent: 0.0,
        };
        let check = |levels: Levels, speechless, expected: &[&str]| {
            let found = track_warnings(&levels, speechless);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (warning, part) in found.iter().zip(expected) {
                assert!(warning.contains(part), "{warning}");
            }
        };
        check(levels(-20.0, 0.0), false, &[]);
        check(levels(-3.0, 0.05), false, &["clipped (5.0%"]);
        check(
            levels(-80.0, 0.0),
            true,
            &["almost silent (-80 dBFS)", "no speech"],
        );
    }
}
