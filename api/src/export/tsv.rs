//! Tab-separated values as the reference Whisper program writes them: a header, then `start` and `end` in whole
//! milliseconds and `text` for each segment, and a last column `speaker` when anybody is known.

use dalston_schema::Transcript;

use super::{Options, milliseconds, one_line, speaker_of};

/// Writes TSV; nothing without a transcript. Tabs and line breaks in texts become spaces, so nothing needs quotes.
#[must_use]
pub fn render(transcript: Option<&Transcript>, options: Options) -> String {
    let Some(transcript) = transcript else {
        return String::new();
    };
    let speaker = |segment| speaker_of(transcript, segment).filter(|_| options.include_speakers);
    let named = transcript.segments.iter().any(|s| speaker(s).is_some());
    let mut text = String::from(if named {
        "start\tend\ttext\tspeaker\n"
    } else {
        "start\tend\ttext\n"
    });
    for segment in &transcript.segments {
        let words = one_line(&segment.text);
        if words.is_empty() {
            continue;
        }
        let (start, end) = (milliseconds(segment.start), milliseconds(segment.end));
        text.push_str(&format!("{start}\t{end}\t{words}"));
        if named {
            text.push('\t');
            text.push_str(&speaker(segment).unwrap_or_default());
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::samples::transcript;

    #[test]
    fn a_speaker_column_comes_only_with_speakers() {
        let sample = transcript(&[
            (0.0004, 1.2, "Good\tmorning.", None),
            (1.2, 2.0, " ", None),
            (2.5, 3.9996, "\"Hello\"", Some("SPEAKER_01")),
        ]);
        assert_eq!(
            render(Some(&sample), Options::default()),
            "start\tend\ttext\tspeaker\n0\t1200\tGood morning.\t\n2500\t4000\t\"Hello\"\tBea\n"
        );
        let plain = Options {
            include_speakers: false,
            ..Options::default()
        };
        assert_eq!(
            render(Some(&sample), plain),
            "start\tend\ttext\n0\t1200\tGood morning.\n2500\t4000\t\"Hello\"\n"
        );
    }
}
