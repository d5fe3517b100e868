//! WebVTT: the header, then times and text for each cue, with `<v speaker>` voice tags.

use dalston_schema::Transcript;

use super::{Options, cue, span, speaker_of};

/// Writes WebVTT; the bare header for a transcript without text.
#[must_use]
pub fn render(transcript: Option<&Transcript>, options: Options) -> String {
    let mut lines = vec!["WEBVTT".to_owned(), String::new()];
    let Some(transcript) = transcript else {
        return lines.join("\n");
    };
    for segment in &transcript.segments {
        let speaker = speaker_of(transcript, segment).filter(|_| options.include_speakers);
        let voice = speaker.map_or_else(String::new, |speaker| format!("<v {}>", escape(&speaker)));
        for cue in cue::cut(segment, options, 0) {
            lines.push(span(cue.start, cue.end, '.'));
            lines.push(format!("{voice}{}", escape(&cue.lines.join("\n"))));
            lines.push(String::new());
        }
    }
    lines.join("\n")
}

/// Text that cannot be taken for a tag, an entity or an arrow.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::samples::transcript;

    #[test]
    fn voices_are_tagged_and_markup_is_escaped() {
        let transcript = transcript(&[
            (0.0, 1.2, "Good morning.", None),
            (3725.0, 3726.5, "Hello & --> <all>", Some("SPEAKER_01")),
        ]);
        assert_eq!(
            render(Some(&transcript), Options::default()),
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.200\nGood morning.\n\n\
             01:02:05.000 --> 01:02:06.500\n<v Bea>Hello &amp; --&gt; &lt;all&gt;\n"
        );
    }
}
