//! Assembles a transcript from what the tasks of a job answered. Pure: the same parts give the same transcript, so a
//! retried `merge` changes nothing.
//!
//! Each transcription takes the word times of its alignment; the chunks of a file stand one after the other, channels and
//! tracks are interleaved by time, each being a speaker ([`bleed`] removes what one heard of another), and a mix is split
//! by speaker when voices were told apart ([`speakers`]).

mod bleed;
mod metadata;
mod speakers;
mod text;

use chrono::{DateTime, Utc};
use dalston_schema::JobId;
use dalston_schema::job::JobParameters;
use dalston_schema::task::{
    AlignResponse, DiarizeResponse, PrepareResponse, PreparedAudio, Stage, TranscribeResponse,
};
use dalston_schema::transcript::{Segment, Speaker, Transcript, TranscriptSegment, Word};

use crate::coverage;
use crate::times::milliseconds;
use text::{join_segments, join_texts};

/// Version of the transcript's layout.
const VERSION: &str = "1.0";

/// Everything a transcript is made of.
#[derive(Clone, Debug)]
pub struct Parts<'a> {
    /// The job.
    pub job_id: JobId,
    /// When it was submitted.
    pub created_at: DateTime<Utc>,
    /// When the transcript is assembled.
    pub completed_at: DateTime<Utc>,
    /// What was asked for.
    pub parameters: &'a JobParameters,
    /// What `prepare` answered.
    pub prepare: &'a PrepareResponse,
    /// What the `transcribe` tasks answered, each with its name, in any order.
    pub transcriptions: Vec<(String, TranscribeResponse)>,
    /// What the `align` tasks answered, in any order.
    pub alignments: Vec<AlignResponse>,
    /// What `diarize` answered.
    pub diarization: Option<DiarizeResponse>,
    /// Stages that ran to their end, in any order, `merge` among them.
    pub stages: Vec<Stage>,
    /// Optional tasks that failed: name and error.
    pub skipped: Vec<(String, Option<String>)>,
}

/// The transcriptions of one prepared file, in order, and their segments on the job's clock.
struct Channel<'a> {
    file: &'a PreparedAudio,
    segments: Vec<TranscriptSegment>,
    text: String,
}

/// Assembles the transcript. Every key of the contract is present; times are seconds with three decimals, inside the
/// audio, and no segment is empty.
#[must_use]
pub fn assemble(mut parts: Parts<'_>) -> Transcript {
    take_integrated(&mut parts);
    take_word_times(&mut parts);
    parts.transcriptions.sort_by_key(|(_, transcription)| {
        let index = transcription.chunk.map(|chunk| chunk.index);
        (transcription.channel, index)
    });
    let language = metadata::language(&parts);
    let mut warnings = warnings(&parts);
    let channels = channels(&mut parts);
    warnings.extend(channels.iter().filter_map(uncovered));
    let (mut text, mut segments) = interleave(channels, &language, &mut warnings);
    let speakers = match &parts.diarization {
        Some(diarization) => {
            segments = speakers::assign(segments, &diarization.turns);
            voices(diarization, parts.parameters)
        }
        None => channel_speakers(&parts),
    };
    for (index, segment) in segments.iter_mut().enumerate() {
        segment.id = format!("seg_{index:03}");
        (segment.start, segment.end) = (milliseconds(segment.start), milliseconds(segment.end));
    }
    if text.is_empty() {
        text = join_segments(&segments, &language);
    }
    let mut seen = std::collections::HashSet::new();
    warnings.retain(|warning| seen.insert(warning.clone()));
    Transcript {
        job_id: parts.job_id,
        version: VERSION.to_owned(),
        metadata: metadata::metadata(&parts, language, &segments, &speakers, warnings),
        text,
        speakers,
        segments,
        turns: parts
            .diarization
            .map(|diarization| diarization.turns)
            .unwrap_or_default(),
        paragraphs: Vec::new(),
        summary: None,
        redacted_text: None,
        pii_entities: None,
        pii_metadata: None,
    }
}

/// Takes what integrated tasks answered for the stages that they ran, as if tasks of their own had.
fn take_integrated(parts: &mut Parts<'_>) {
    for (_, transcription) in &mut parts.transcriptions {
        if let Some(alignment) = transcription.alignment.take() {
            parts.stages.push(Stage::Align);
            parts.alignments.push(alignment);
        }
        if let Some(diarization) = transcription.diarization.take() {
            parts.stages.push(Stage::Diarize);
            parts.diarization.get_or_insert(diarization);
        }
    }
}

/// Gives each transcription that was aligned the segments with the word times of its alignment.
fn take_word_times(parts: &mut Parts<'_>) {
    for alignment in &mut parts.alignments {
        let segments = std::mem::take(&mut alignment.segments);
        let aligned = parts
            .transcriptions
            .iter_mut()
            .find(|(name, _)| *name == alignment.transcription);
        if let Some((_, transcription)) = aligned.filter(|_| !alignment.skipped) {
            transcription.segments = segments;
        }
    }
}

/// What each prepared file says, in order of channel. Takes the segments out of their transcriptions.
fn channels<'a>(parts: &mut Parts<'a>) -> Vec<Channel<'a>> {
    let several = parts.prepare.channel_files.len() > 1;
    let duration = parts.prepare.source.duration;
    let mut files: Vec<&PreparedAudio> = parts.prepare.channel_files.iter().collect();
    files.sort_by_key(|file| file.channel);
    files
        .into_iter()
        .map(|file| {
            let mut of_file: Vec<&mut TranscribeResponse> = parts
                .transcriptions
                .iter_mut()
                .map(|(_, transcription)| transcription)
                .filter(|transcription| transcription.channel == file.channel)
                .collect();
            let mut segments: Vec<TranscriptSegment> = Vec::new();
            for transcription in &mut of_file {
                let seam = segments.len();
                let part = std::mem::take(&mut transcription.segments).into_iter();
                segments.extend(
                    part.map(|segment| place(segment, file, duration))
                        .filter(|segment| !segment.text.is_empty()),
                );
                close(&mut segments, seam);
            }
            let texts = of_file
                .iter()
                .map(|transcription| transcription.text.as_str());
            let language = of_file
                .first()
                .map_or("", |transcription| &transcription.language);
            Channel {
                file,
                segments,
                // The text of several files is that of their segments, interleaved.
                text: if several {
                    String::new()
                } else {
                    join_texts(texts, language)
                },
            }
        })
        .collect()
}

/// Lets neither side of a seam between two parts reach into the other: the words of each were looked for by themselves,
/// a little beyond its edge. What both claim is shared in the middle.
fn close(segments: &mut [TranscriptSegment], seam: usize) {
    let (before, after) = segments.split_at_mut(seam);
    let (Some(last), Some(first)) = (before.last_mut(), after.first_mut()) else {
        return;
    };
    if last.end <= first.start {
        return;
    }
    let middle = (last.start.max(first.start) + last.end.min(first.end)) / 2.0;
    // Times stay in order should one lie inside the other.
    let middle = milliseconds(middle.clamp(last.start, first.end.max(last.start)));
    for word in last.words.iter_mut().flatten() {
        word.start = word.start.min(middle);
        word.end = word.end.min(middle);
    }
    for word in first.words.iter_mut().flatten() {
        word.start = word.start.max(middle);
        word.end = word.end.max(middle);
    }
    last.end = middle;
    first.start = middle;
    first.end = first.end.max(middle);
}

/// All segments by time, without what channels heard of each other, and the text if it is already known.
fn interleave(
    channels: Vec<Channel<'_>>,
    language: &str,
    warnings: &mut Vec<String>,
) -> (String, Vec<TranscriptSegment>) {
    let text = channels
        .iter()
        .map(|channel| channel.text.as_str())
        .collect::<String>();
    let files: Vec<&PreparedAudio> = channels.iter().map(|channel| channel.file).collect();
    let mut segments: Vec<Vec<TranscriptSegment>> = channels
        .into_iter()
        .map(|channel| channel.segments)
        .collect();
    if files.len() > 1 {
        let removed = bleed::remove(&mut segments, &files, language);
        if removed > 0 {
            warnings.push(if removed == 1 {
                "1 word was heard on two channels at once and stays on the louder one".to_owned()
            } else {
                format!(
                    "{removed} words were heard on two channels at once and stay on the louder one"
                )
            });
        }
    }
    let mut segments: Vec<TranscriptSegment> = segments.into_iter().flatten().collect();
    segments.sort_by(|a, b| a.start.total_cmp(&b.start));
    (text, segments)
}

/// The speakers whose voices were told apart, with the names that are known: those matched by voice, or else those given
/// in order of first speech.
fn voices(diarization: &DiarizeResponse, parameters: &JobParameters) -> Vec<Speaker> {
    let by_voice = !parameters.known_speaker_references.is_empty();
    diarization
        .speakers
        .iter()
        .enumerate()
        .map(|(index, id)| Speaker {
            id: id.clone(),
            label: if by_voice {
                diarization.names.get(id).cloned()
            } else {
                parameters.known_speaker_names.get(index).cloned()
            },
            channel: None,
        })
        .collect()
}

/// One speaker per channel or track.
fn channel_speakers(parts: &Parts<'_>) -> Vec<Speaker> {
    let mut channels: Vec<u16> = parts
        .prepare
        .channel_files
        .iter()
        .filter_map(|file| file.channel)
        .collect();
    channels.sort_unstable();
    let of_track = |index: usize| {
        let track = parts.parameters.tracks.get(index)?;
        track.name.clone()
    };
    channels
        .into_iter()
        .enumerate()
        .map(|(index, channel)| Speaker {
            id: speaker_id(channel),
            label: of_track(index)
                .or_else(|| parts.parameters.known_speaker_names.get(index).cloned()),
            channel: Some(channel),
        })
        .collect()
}

fn speaker_id(channel: u16) -> String {
    format!("SPEAKER_{channel:02}")
}

/// What went less well than asked for: the planner's, the stages', the tasks left out.
fn warnings(parts: &Parts<'_>) -> Vec<String> {
    let mut warnings = parts.parameters.planning_warnings.clone();
    warnings.extend(parts.prepare.warnings.iter().cloned());
    for (name, transcription) in &parts.transcriptions {
        let prefix = channel_prefix(transcription.channel);
        let aligned = parts
            .alignments
            .iter()
            .find(|alignment| alignment.transcription == *name);
        let of_alignment = aligned.iter().flat_map(|alignment| &alignment.warnings);
        warnings.extend(
            transcription
                .warnings
                .iter()
                .chain(of_alignment)
                .map(|warning| format!("{prefix}{warning}")),
        );
    }
    if let Some(diarization) = &parts.diarization {
        warnings.extend(diarization.warnings.iter().cloned());
    }
    for (name, error) in &parts.skipped {
        let why = error.as_deref().unwrap_or("no reason was recorded");
        warnings.push(format!("{name} failed and was left out: {why}"));
    }
    warnings
}

/// The speech of a channel that none of its segments covers.
fn uncovered(channel: &Channel<'_>) -> Option<String> {
    let offset = channel.file.offset;
    let speech: Vec<_> = channel
        .file
        .speech_regions
        .iter()
        .map(|&(start, end)| (start + offset, end + offset))
        .collect();
    let covered: Vec<_> = channel
        .segments
        .iter()
        .map(|segment| (segment.start, segment.end))
        .collect();
    let warning = coverage::warning(&speech, &covered)?;
    Some(format!("{}{warning}", channel_prefix(channel.file.channel)))
}

fn channel_prefix(channel: Option<u16>) -> String {
    channel.map_or_else(String::new, |channel| format!("ch{channel}: "))
}

/// One engine segment as the transcript shows it, still without its id.
fn place(segment: Segment, file: &PreparedAudio, duration: f64) -> TranscriptSegment {
    let speaker = file.channel.map(speaker_id);
    let on_clock = |start: f64, end: f64| clamp(start + file.offset, end + file.offset, duration);
    let (start, end) = on_clock(segment.start, segment.end);
    let words = segment.words.map(|words| {
        words
            .into_iter()
            .map(|word| {
                let (start, end) = on_clock(word.start, word.end);
                Word {
                    text: word.text.trim().to_owned(),
                    start,
                    end,
                    speaker: speaker.clone().or(word.speaker),
                    channel: file.channel.or(word.channel),
                    ..word
                }
            })
            .filter(|word| !word.text.is_empty())
            .collect()
    });
    TranscriptSegment {
        id: String::new(),
        start,
        end,
        text: segment.text.trim().to_owned(),
        redacted_text: None,
        speaker,
        language: segment.language,
        words,
        tokens: segment.tokens,
        temperature: segment.temperature,
        confidence: segment.confidence,
        avg_logprob: segment.avg_logprob,
        compression_ratio: segment.compression_ratio,
        no_speech_prob: segment.no_speech_prob,
        speaker_confidence: None,
        emotion: None,
        emotion_confidence: None,
        events: Vec::new(),
    }
}

/// Brings times into the audio and to three decimals; an end before its start becomes the start.
fn clamp(start: f64, end: f64, duration: f64) -> (f64, f64) {
    let inside = |time: f64| {
        milliseconds(if time.is_finite() { time } else { 0.0 }.clamp(0.0, duration.max(0.0)))
    };
    let start = inside(start);
    (start, inside(end).max(start))
}

#[cfg(test)]
mod tests;
