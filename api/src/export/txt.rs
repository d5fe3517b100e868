//! Plain text: a wrapped block for each segment, `speaker: ` in front with a hanging indent, a blank line where the
//! speaker changes.

use dalston_schema::Transcript;

use super::{Options, speaker_of};

/// Line length when the asked one is a subtitle's.
const DEFAULT_WIDTH: usize = 80;
/// Line lengths up to this are meant for subtitles.
const SUBTITLE_WIDTH: usize = 42;

/// Writes plain text; nothing for a transcript without text.
#[must_use]
pub fn render(transcript: Option<&Transcript>, options: Options) -> String {
    let Some(transcript) = transcript else {
        return String::new();
    };
    let width = if options.max_line_length > SUBTITLE_WIDTH {
        options.max_line_length
    } else {
        DEFAULT_WIDTH
    };
    let mut lines: Vec<String> = Vec::new();
    let mut previous: Option<Option<String>> = None;
    for segment in &transcript.segments {
        if segment.text.trim().is_empty() {
            continue;
        }
        let speaker = speaker_of(transcript, segment).filter(|_| options.include_speakers);
        if previous.is_some_and(|previous| previous != speaker) {
            lines.push(String::new());
        }
        let prefix = speaker
            .as_ref()
            .map_or_else(String::new, |speaker| format!("{speaker}: "));
        previous = Some(speaker);
        wrap(&mut lines, &prefix, &segment.text, width);
    }
    lines.join("\n")
}

fn wrap(lines: &mut Vec<String>, prefix: &str, text: &str, width: usize) {
    let indent = " ".repeat(prefix.chars().count());
    let mut line = prefix.to_owned();
    let mut bare = true;
    for word in text.split_whitespace() {
        if !bare && line.chars().count() + 1 + word.chars().count() > width {
            lines.push(std::mem::replace(&mut line, indent.clone()));
            bare = true;
        }
        if !bare {
            line.push(' ');
        }
        line.push_str(word);
        bare = false;
    }
    lines.push(line);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::samples::transcript;

    #[test]
    fn paragraphs_hang_under_their_speaker() {
        let long = "word ".repeat(18);
        let transcript = transcript(&[
            (0.0, 1.0, "Good morning.", Some("SPEAKER_00")),
            (1.0, 2.0, "How are you?", Some("SPEAKER_00")),
            (2.0, 9.0, long.trim(), Some("SPEAKER_01")),
        ]);
        let expected = format!(
            "SPEAKER_00: Good morning.\nSPEAKER_00: How are you?\n\nBea: {}\n     {}",
            "word ".repeat(15).trim(),
            "word ".repeat(3).trim()
        );
        assert_eq!(render(Some(&transcript), Options::default()), expected);
    }

    #[test]
    fn without_speakers_every_segment_is_a_line() {
        let transcript = transcript(&[
            (0.0, 1.0, "One.", Some("SPEAKER_00")),
            (1.0, 2.0, "Two.", Some("SPEAKER_01")),
        ]);
        let options = Options {
            include_speakers: false,
            ..Options::default()
        };
        assert_eq!(render(Some(&transcript), options), "One.\nTwo.");
    }
}
