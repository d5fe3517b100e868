//! LRC, the text that music players show line by line: `[mm:ss.xx]` and a line, hundredths of seconds.
//!
//! Lines have no end in this format, so an empty one clears the screen where nobody speaks for a while. The speaker
//! stands in front of a line where it is another than before.

use dalston_schema::Transcript;

use super::{Options, cue, speaker_of};

/// Seconds without speech after which a line is taken off the screen.
const CLEAR_AFTER: f64 = 3.0;

/// Writes LRC; nothing for a transcript without text.
#[must_use]
pub fn render(transcript: Option<&Transcript>, options: Options) -> String {
    let Some(transcript) = transcript else {
        return String::new();
    };
    let one_line = Options {
        max_lines: 1,
        ..options
    };
    let mut said = Vec::new();
    for segment in &transcript.segments {
        let speaker = speaker_of(transcript, segment).filter(|_| options.include_speakers);
        let name = speaker.map_or_else(String::new, |name| format!("{name}: "));
        let cues = cue::cut(segment, one_line, name.chars().count());
        said.extend(cues.into_iter().map(|cue| (cue, name.clone())));
    }
    // Players want lines in order, and speakers may overlap.
    said.sort_by(|(one, _), (other, _)| one.start.total_cmp(&other.start));
    let mut lines = String::new();
    let mut shown_until: Option<f64> = None;
    let mut previous = "";
    for (cue, name) in &said {
        if let Some(end) = shown_until.filter(|end| cue.start - end >= CLEAR_AFTER) {
            lines.push_str(&format!("{}\n", time(end)));
        }
        let prefix = if previous == name { "" } else { name };
        let text = format!("{prefix}{}", cue.lines.concat());
        // A bracket right after a time would begin another tag.
        let gap = if text.starts_with('[') { " " } else { "" };
        lines.push_str(&format!("{}{gap}{text}\n", time(cue.start)));
        shown_until = Some(shown_until.map_or(cue.end, |end| end.max(cue.end)));
        previous = name;
    }
    if let Some(end) = shown_until {
        lines.push_str(&format!("{}\n", time(end)));
    }
    lines
}

fn time(seconds: f64) -> String {
    let hundredths = (seconds.max(0.0) * 100.0).round() as u64;
    format!(
        "[{:02}:{:02}.{:02}]",
        hundredths / 6000,
        hundredths / 100 % 60,
        hundredths % 100
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::samples::transcript;

    #[test]
    fn the_screen_is_cleared_in_pauses_and_speakers_stand_where_they_change() {
        let sample = transcript(&[
            (0.0, 1.2, "Good morning.", Some("SPEAKER_00")),
            (1.5, 2.996, "[cough] Excuse me.", Some("SPEAKER_00")),
            (
                6.0,
                8.0,
                "The quick brown fox jumps over the lazy dog",
                Some("SPEAKER_01"),
            ),
            (6001.0, 6002.0, "Late.", None),
        ]);
        assert_eq!(
            render(Some(&sample), Options::default()),
            "[00:00.00]SPEAKER_00: Good morning.\n\
             [00:01.50] [cough] Excuse me.\n\
             [00:03.00]\n\
             [00:06.00]Bea: The quick brown fox\n\
             [00:06.91]jumps over the lazy dog\n\
             [00:08.00]\n\
             [100:01.00]Late.\n\
             [100:02.00]\n"
        );
    }
}
