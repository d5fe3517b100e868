//! Words and the text they stand in.

use dalston_schema::transcript::{TranscriptSegment, Word, word_space};

/// Where each word begins in `text`, in bytes, never decreasing. A word that is not found begins where the last ended.
#[must_use]
pub fn word_places(text: &str, words: &[Word]) -> Vec<usize> {
    let mut from = 0;
    words
        .iter()
        .map(|word| {
            let word = word.text.trim();
            let Some(at) = text[from..].find(word) else {
                return from;
            };
            let place = from + at;
            from = place + word.len();
            place
        })
        .collect()
}

/// Texts that follow each other in a language (ISO 639-1), as one.
#[must_use]
pub fn join_texts<'a>(texts: impl IntoIterator<Item = &'a str>, language: &str) -> String {
    let texts: Vec<&str> = texts
        .into_iter()
        .map(str::trim)
        .filter(|text| !text.is_empty())
        .collect();
    texts.join(word_space(language))
}

/// The texts of segments as one.
#[must_use]
pub fn join_segments(segments: &[TranscriptSegment], language: &str) -> String {
    join_texts(
        segments.iter().map(|segment| segment.text.as_str()),
        language,
    )
}

/// A word as it is compared: letters and digits in lower case.
#[must_use]
pub fn spoken(text: &str) -> String {
    text.chars()
        .filter(|letter| letter.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_in_order_and_lost_ones_do_not_stop_the_search() {
        let words = ["the", "cat", "missing", "the", "Ünder."].map(|text| Word {
            text: text.to_owned(),
            ..Word::default()
        });
        assert_eq!(word_places("the cat  the Ünder.", &words), [0, 4, 7, 9, 13]);
    }

    #[test]
    fn texts_join_with_a_space_where_their_language_has_one() {
        assert_eq!(join_texts([" a b", "", "c "], "en"), "a b c");
        assert_eq!(join_texts(["你好", "世界"], "zh"), "你好世界");
    }

    #[test]
    fn punctuation_and_case_are_not_spoken() {
        assert_eq!(spoken(" Don't!"), "dont");
    }
}
