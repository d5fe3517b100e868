//! Rich Transcription Time Marked, the file that speaker diarization is scored with: one line for each turn.
//!
//! `SPEAKER <file> <channel> <start> <duration> <NA> <NA> <name> <NA> <NA>`, after the NIST evaluation plan RT-09, with
//! times in seconds. The file is named by its job.

use dalston_schema::Transcript;
use dalston_schema::transcript::TranscriptSegment;

use super::{milliseconds, name_of};

/// The name of whoever speaks where nobody was told apart.
const UNKNOWN: &str = "<NA>";
/// Words of one speaker this many seconds apart, or closer, are of one turn.
const PAUSE: f64 = 0.5;

/// Writes RTTM; nothing for a transcript without speech. The turns are those that voices were told apart by; without
/// any, as with one speaker a channel, they begin and end with words where these have times.
#[must_use]
pub fn render(transcript: Option<&Transcript>) -> String {
    let Some(transcript) = transcript else {
        return String::new();
    };
    if transcript.turns.is_empty() {
        let segments = transcript.segments.iter();
        let turns = segments.flat_map(|segment| {
            let spoken = turns(segment).into_iter();
            spoken.map(|(start, end)| line(transcript, segment.speaker.as_deref(), start, end))
        });
        return turns.collect();
    }
    let turns = transcript.turns.iter();
    turns
        .map(|turn| line(transcript, Some(&turn.speaker), turn.start, turn.end))
        .collect()
}

/// One turn, or nothing when it takes no time.
fn line(transcript: &Transcript, id: Option<&str>, start: f64, end: f64) -> String {
    let (start, end) = (milliseconds(start), milliseconds(end));
    if end <= start {
        return String::new();
    }
    let name = id
        .map(|id| name_of(transcript, id).replace(' ', "_"))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| UNKNOWN.to_owned());
    let speaker = transcript
        .speakers
        .iter()
        .find(|speaker| Some(speaker.id.as_str()) == id);
    let channel = speaker
        .and_then(|speaker| speaker.channel)
        .map_or(1, |channel| u32::from(channel) + 1);
    format!(
        "SPEAKER {} {channel} {} {} <NA> <NA> {name} <NA> <NA>\n",
        transcript.job_id,
        seconds(start),
        seconds(end - start),
    )
}

/// When there is speech in a segment: runs of words without a pause, or else all of it.
fn turns(segment: &TranscriptSegment) -> Vec<(f64, f64)> {
    let words = segment.words.as_deref().unwrap_or_default();
    if words.is_empty() {
        let spoken = !segment.text.trim().is_empty();
        return spoken
            .then_some((segment.start, segment.end))
            .into_iter()
            .collect();
    }
    let mut turns: Vec<(f64, f64)> = Vec::new();
    for word in words {
        match turns.last_mut() {
            Some((_, end)) if word.start - *end <= PAUSE => *end = end.max(word.end),
            _ => turns.push((word.start, word.end)),
        }
    }
    turns
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use crate::export::samples::transcript;
    use dalston_schema::transcript::{SpeakerTurn, Word};

    #[test]
    fn turns_of_voices_are_written_as_they_are_overlap_and_all() {
        let mut sample = transcript(&[(0.0, 4.0, "Good morning all.", Some("SPEAKER_00"))]);
        let turn = |speaker: &str, start: f64, end: f64| SpeakerTurn {
            speaker: speaker.to_owned(),
            start,
            end,
            ..SpeakerTurn::default()
        };
        sample.turns = vec![turn("SPEAKER_00", 0.1, 2.5), turn("SPEAKER_01", 2.0, 4.25)];
        let id = sample.job_id;
        assert_eq!(
            render(Some(&sample)),
            format!(
                "SPEAKER {id} 1 0.100 2.400 <NA> <NA> SPEAKER_00 <NA> <NA>\n\
                 SPEAKER {id} 1 2.000 2.250 <NA> <NA> Bea <NA> <NA>\n"
            )
        );
    }

    #[test]
    fn a_pause_between_words_parts_turns_of_one_speaker() {
        let mut sample = transcript(&[
            (0.0, 4.0, "Good morning all.", Some("SPEAKER_00")),
            (4.0, 5.5, "Hello.", Some("SPEAKER_01")),
            (6.0, 6.0, "Nothing.", None),
            (7.0, 8.0, "Who?", None),
        ]);
        sample.speakers[1].label = Some("Bea Smith".to_owned());
        sample.speakers[1].channel = Some(1);
        let word = |start: f64, end: f64| Word {
            start,
            end,
            ..Word::default()
        };
        sample.segments[0].words = Some(vec![word(0.1, 0.5), word(0.9, 1.2), word(2.0, 2.25)]);
        let id = sample.job_id;
        assert_eq!(
            render(Some(&sample)),
            format!(
                "SPEAKER {id} 1 0.100 1.100 <NA> <NA> SPEAKER_00 <NA> <NA>\n\
                 SPEAKER {id} 1 2.000 0.250 <NA> <NA> SPEAKER_00 <NA> <NA>\n\
                 SPEAKER {id} 2 4.000 1.500 <NA> <NA> Bea_Smith <NA> <NA>\n\
                 SPEAKER {id} 1 7.000 1.000 <NA> <NA> <NA> <NA> <NA>\n"
            )
        );
    }
}
