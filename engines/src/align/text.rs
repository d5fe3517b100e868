//! Text as an aligner sees it: words that keep every character of the text, and the symbols each is spelled with.

use super::vocabulary::{Symbol, Vocabulary};

/// A word of a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpelledWord {
    /// The word with its leading space and punctuation: words joined give the text.
    pub text: String,
    /// Its symbols; empty when nothing in it is spoken.
    pub symbols: Vec<Symbol>,
    /// Whether a space divides it from the word before it.
    pub spaced: bool,
}

/// Splits a text into words at its spaces, and at every character of the scripts that have none (Han, Hiragana,
/// Katakana), as `whisperX` does.
pub fn spell_words(text: &str, vocabulary: &Vocabulary) -> Vec<SpelledWord> {
    split_words(text)
        .into_iter()
        .map(|word| SpelledWord {
            text: word.to_owned(),
            symbols: spell(word, vocabulary),
            spaced: word.starts_with(char::is_whitespace),
        })
        .collect()
}

fn split_words(text: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut start = 0;
    // The last letter of the open word.
    let mut letter: Option<char> = None;
    let mut before = None;
    for (at, character) in text.char_indices() {
        let space = character.is_whitespace() && before.is_some_and(|c: char| !c.is_whitespace());
        let unspaced = character.is_alphanumeric()
            && letter.is_some_and(|letter| is_unspaced(character) || is_unspaced(letter));
        if space || unspaced {
            words.push(&text[start..at]);
            start = at;
            letter = None;
        }
        letter = Some(character).filter(|c| c.is_alphanumeric()).or(letter);
        before = Some(character);
    }
    let rest = &text[start..];
    if rest.trim().is_empty() {
        // Space at the end belongs to the last word.
        if let Some(last) = words.pop() {
            words.push(&text[start - last.len()..]);
        }
    } else {
        words.push(rest);
    }
    words
}

/// Whether a character is of a script written without spaces between words.
fn is_unspaced(character: char) -> bool {
    matches!(character,
        '\u{3040}'..='\u{30ff}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{ff66}'..='\u{ff9f}' | '\u{20000}'..='\u{323af}')
}

/// Quotation marks around a word may look like apostrophes and are not said; a run of wildcards is one sound of any
/// length.
fn spell(word: &str, vocabulary: &Vocabulary) -> Vec<Symbol> {
    let spoken = word.trim_matches(|c: char| {
        !c.is_alphanumeric() && vocabulary.spell(c) != [vocabulary.wildcard()]
    });
    let mut symbols: Vec<Symbol> = Vec::new();
    for symbol in spoken
        .chars()
        .flat_map(|character| vocabulary.spell(character))
    {
        if symbol != vocabulary.wildcard() || symbols.last() != Some(&symbol) {
            symbols.push(symbol);
        }
    }
    symbols
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn nano() -> Vocabulary {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/wav2vec2-nano");
        Vocabulary::read(&folder).unwrap()
    }

    fn texts(text: &str) -> Vec<&str> {
        split_words(text)
    }

    #[test]
    fn words_joined_give_the_text() {
        assert_eq!(
            texts(" It's  3rd — no. "),
            [" It's", "  3rd", " —", " no. "]
        );
        assert_eq!(texts("you"), ["you"]);
        assert!(texts("").is_empty() && texts("  ").is_empty());
        assert_eq!(
            texts("今日は、Rustを。"),
            ["今", "日", "は、", "Rust", "を。"]
        );
    }

    #[test]
    fn a_word_is_spelled_without_its_quotes_and_digits_are_one_wildcard() {
        let vocabulary = nano();
        let any = vocabulary.wildcard();
        let spelled = |text: &str| spell_words(text, &vocabulary).remove(0).symbols;
        assert_eq!(spelled("'A'"), [7]);
        assert_eq!(spelled("I'm."), [10, 27, 17]);
        assert_eq!(spelled("2025"), [any]);
        assert_eq!(spelled("3rd,"), [any, 13, 14]);
        assert_eq!(spelled("€20"), [any]);
        assert!(spelled("(…)").is_empty());
    }

    #[test]
    fn only_a_space_divides_words_for_the_model() {
        let spaced: Vec<bool> = spell_words("a b今日", &nano())
            .iter()
            .map(|word| word.spaced)
            .collect();
        assert_eq!(spaced, [false, true, false, false]);
    }
}
