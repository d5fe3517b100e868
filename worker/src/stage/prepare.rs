//! The `prepare` stage: the upload becomes 16 kHz mono WAV in the object store, with its facts, its waveform, its speech
//! and what a user should know about it; a long one is cut into tasks. Audio that cannot be decoded fails the job at once.
//!
//! Memory is constant: the upload is read where it lies or from a copy in scratch, and the result goes through scratch
//! into the object store in blocks.

mod bleed;
mod facts;
mod fan_out;

use std::path::{Path, PathBuf};

use dalston_audio::{
    AudioError, AudioFacts, AudioInput, ChannelMode, PrepareOptions, Prepared, PreparedTrack,
};
use dalston_engines::{Control, WavSource};
use dalston_schema::ArtifactKey;
use dalston_schema::db::tasks::Completion;
use dalston_schema::task::{Bleed, PrepareRequest, PreparedAudio, TrackSource};

use super::portion::Portion;
use super::{TaskContext, answer, blocking};
use crate::coverage::Interval;
use crate::failure::{StageError, StageResult};
use crate::stop::Stop;
use facts::{response, track_warnings};

/// Share of the work that decoding is; the rest is finding speech.
const DECODING_SHARE: f64 = 0.6;

pub async fn run(context: &TaskContext<'_>) -> StageResult<Completion> {
    let request: PrepareRequest = context.request()?;
    let uploaded = || {
        context.job.audio_key.clone().ok_or_else(|| {
            StageError::permanent("The audio was deleted before it could be transcribed.")
        })
    };
    let mode = if request.split_channels {
        ChannelMode::Split
    } else {
        ChannelMode::Mix
    };
    let several = !request.tracks.is_empty();
    let sources = if !several {
        vec![Source {
            track: TrackSource {
                key: uploaded()?,
                offset: 0.0,
            },
            mode,
            index: None,
        }]
    } else {
        let number = |index| u16::try_from(index).unwrap_or(u16::MAX);
        let tracks = request.tracks.into_iter().enumerate();
        tracks
            .map(|(index, track)| Source {
                track,
                mode: ChannelMode::Mix,
                index: Some(number(index)),
            })
            .collect()
    };
    let whole = Portion::whole(context.progress);
    let width = 1.0 / sources.len() as f64;
    let mut files = Vec::new();
    let mut warnings = Vec::new();
    let mut facts: Option<AudioFacts> = None;
    for (at, source) in sources.into_iter().enumerate() {
        let portion = whole.part(at as f64 * width, width);
        let done = prepare_source(context, &source, &portion).await?;
        files.extend(done.files);
        warnings.extend(done.warnings);
        facts.get_or_insert(done.facts);
    }
    // There is always a source.
    let facts = facts.ok_or_else(|| StageError::permanent("The job has no audio."))?;
    let fan_out = match &request.fan_out {
        Some(plan) => fan_out::tasks(plan, &files)?,
        None => Vec::new(),
    };
    Ok(Completion {
        fan_out,
        before: request.fan_out.iter().map(|plan| plan.before).collect(),
        ..answer(&response(&facts, files, several, warnings))?
    })
}

/// A file to prepare.
struct Source {
    track: TrackSource,
    mode: ChannelMode,
    /// Its place among several files.
    index: Option<u16>,
}

/// What a file became.
struct Done {
    facts: AudioFacts,
    files: Vec<PreparedAudio>,
    warnings: Vec<String>,
}

async fn prepare_source(
    context: &TaskContext<'_>,
    source: &Source,
    portion: &Portion,
) -> StageResult<Done> {
    let storage = &context.environment.storage;
    let prefix = source
        .index
        .map_or_else(String::new, |index| format!("track{index}-"));
    let original = context
        .scratch
        .fetch(
            storage,
            &ArtifactKey::from_stored(&source.track.key),
            &format!("{prefix}original"),
        )
        .await?;
    let expected = context.job.audio_duration_seconds;
    let folder = context.scratch.folder().to_owned();
    let (stop, decoding) = (context.stop.clone(), portion.part(0.0, DECODING_SHARE));
    let (mode, name) = (source.mode, prefix.clone());
    let prepared = blocking(move || {
        decode(
            &original,
            &|index| track_path(&folder, &name, index),
            mode,
            expected,
            &stop,
            &decoding,
        )
    })
    .await?;
    let mut bleed = match source.mode {
        ChannelMode::Mix => vec![Vec::new()],
        ChannelMode::Split => find_bleed(context, &prefix, prepared.tracks.len()).await?,
    };
    let listening = portion.part(DECODING_SHARE, 1.0 - DECODING_SHARE);
    let width = 1.0 / prepared.tracks.len() as f64;
    let mut warnings = facts::damage_warning(&prepared.facts);
    let mut files = Vec::with_capacity(prepared.tracks.len());
    for (index, track) in prepared.tracks.iter().enumerate() {
        let channel = match source.mode {
            ChannelMode::Mix => source.index,
            ChannelMode::Split => Some(u16::try_from(index).unwrap_or(u16::MAX)),
        };
        let path = track_path(context.scratch.folder(), &prefix, index);
        let part = listening.part(width * index as f64, width);
        let speech_regions = find_speech(context, &path, track.duration(), part).await?;
        let key = ArtifactKey::prepared_audio(context.task.job_id, context.task.id, channel);
        context.scratch.store(storage, &path, &key).await?;
        let named = channel.map_or_else(String::new, |channel| format!("ch{channel}: "));
        warnings.extend(
            track_warnings(&track.levels, speech_regions.is_empty())
                .into_iter()
                .map(|warning| format!("{named}{warning}")),
        );
        files.push(PreparedAudio {
            offset: source.track.offset,
            bleed: std::mem::take(&mut bleed[index]),
            ..prepared_audio(track, channel, &key, speech_regions)
        });
        remove(&path);
    }
    Ok(Done {
        facts: prepared.facts,
        files,
        warnings,
    })
}

fn track_path(folder: &Path, prefix: &str, index: usize) -> PathBuf {
    folder.join(format!("{prefix}prepared{index}.wav"))
}

/// Makes room for the next file; the task's folder goes at its end anyway.
fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "a stored file could not be removed");
    }
}

/// Decodes and resamples a file to one WAV per track.
fn decode(
    original: &Path,
    path: &dyn Fn(usize) -> PathBuf,
    channels: ChannelMode,
    expected: f64,
    stop: &Stop,
    portion: &Portion,
) -> StageResult<Prepared> {
    let options = PrepareOptions {
        channels,
        ..PrepareOptions::default()
    };
    Ok(dalston_audio::prepare(
        AudioInput::open(original)?,
        &options,
        &mut |index| {
            let file = std::fs::File::create(path(index))?;
            Ok::<_, AudioError>(std::io::BufWriter::new(file))
        },
        &mut |progress| {
            let total = progress.total.unwrap_or(expected).max(progress.done);
            portion.report(progress.done, total);
        },
        stop.raised(),
    )?)
}

/// What the channels of a file picked up of each other, channel by channel.
async fn find_bleed(
    context: &TaskContext<'_>,
    prefix: &str,
    n_tracks: usize,
) -> StageResult<Vec<Vec<Bleed>>> {
    let folder = context.scratch.folder();
    let paths: Vec<PathBuf> = (0..n_tracks)
        .map(|index| track_path(folder, prefix, index))
        .collect();
    let stop = context.stop.clone();
    blocking(move || {
        let open = |path: &PathBuf| WavSource::open(path);
        let tracks = paths.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let mut found = vec![Vec::new(); n_tracks];
        for (quiet, bled) in found.iter_mut().enumerate() {
            for (loud, from) in (0..n_tracks).zip(0..).filter(|(loud, _)| *loud != quiet) {
                bled.extend(bleed::find(
                    &tracks[quiet],
                    &tracks[loud],
                    from,
                    stop.flag(),
                )?);
            }
        }
        Ok(found)
    })
    .await
}

async fn find_speech(
    context: &TaskContext<'_>,
    path: &Path,
    duration: f64,
    portion: Portion,
) -> StageResult<Vec<Interval>> {
    let finder = context.environment.speech.clone();
    let control = Control {
        cancel: context.stop.flag().clone(),
        progress: Some(std::sync::Arc::new(move |seconds: f64| {
            portion.report(seconds, duration);
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
        bleed: Vec::new(),
    }
}
