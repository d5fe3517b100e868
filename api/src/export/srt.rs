//! SubRip: a number, the times and the text, with a blank line between cues and `[speaker] ` in front.

use dalston_schema::Transcript;

use super::{Options, cue, span, speaker_of};

/// Writes SubRip; nothing for a transcript without text. A segment without text is left out but keeps its number.
#[must_use]
pub fn render(transcript: Option<&Transcript>, options: Options) -> String {
    let Some(transcript) = transcript else {
        return String::new();
    };
    let mut lines: Vec<String> = Vec::new();
    let mut number = 0;
    for segment in &transcript.segments {
        let speaker = speaker_of(transcript, segment).filter(|_| options.include_speakers);
        let prefix = speaker.map_or_else(String::new, |speaker| format!("[{speaker}] "));
        let cues = cue::cut(segment, options, prefix.chars().count());
        if cues.is_empty() {
            number += 1;
        }
        for cue in cues {
            number += 1;
            lines.push(number.to_string());
            lines.push(span(cue.start, cue.end, ','));
            lines.push(format!("{prefix}{}", cue.lines.join("\n")));
            lines.push(String::new());
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::samples::transcript;

    #[test]
    fn cues_are_numbered_by_segment_with_speakers_in_front() {
        let transcript = transcript(&[
            (0.0, 1.2, "Good morning.", Some("SPEAKER_00")),
            (1.2, 2.0, "  ", None),
            (2.5, 3.9999, "Hello & welcome <all>", Some("SPEAKER_01")),
        ]);
        assert_eq!(
            render(Some(&transcript), Options::default()),
            "1\n00:00:00,000 --> 00:00:01,200\n[SPEAKER_00] Good morning.\n\n\
             3\n00:00:02,500 --> 00:00:04,000\n[Bea] Hello & welcome <all>\n"
        );
        let plain = Options {
            include_speakers: false,
            ..Options::default()
        };
        assert!(
            render(Some(&transcript), plain)
                .starts_with("1\n00:00:00,000 --> 00:00:01,200\nGood morning.\n")
        );
    }

    #[test]
    fn a_long_segment_becomes_several_cues() {
        let text = "The quick brown fox jumps over the lazy dog and then it rests for a very long while \
                    in the warm afternoon sun";
        let transcript = transcript(&[(0.0, 10.0, text, None), (10.0, 11.0, "End.", None)]);
        assert_eq!(
            render(Some(&transcript), Options::default()),
            "1\n00:00:00,000 --> 00:00:05,057\nThe quick brown fox jumps over the lazy\ndog and then it\n\n\
             2\n00:00:05,057 --> 00:00:10,000\nrests for a very long while in the warm\nafternoon sun\n\n\
             3\n00:00:10,000 --> 00:00:11,000\nEnd.\n"
        );
    }
}
