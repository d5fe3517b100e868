//! What a CTC model can spell: the symbols of `vocab.json` with its blank and word delimiter, how a character of any
//! text is spelled with them, and the languages the model was trained on.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::error::{EngineError, Result};
use crate::model_folder::Json;

/// A column of the trellis: a symbol's id in the model, or [`Vocabulary::wildcard`].
pub type Symbol = usize;

/// The symbols of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    letters: HashMap<char, Symbol>,
    blank: Symbol,
    delimiter: Option<Symbol>,
    size: usize,
}

impl Vocabulary {
    /// Reads `vocab.json` (one map, or one a language as in MMS models), `config.json` and, where it is there,
    /// `tokenizer_config.json`.
    ///
    /// # Errors
    /// [`EngineError::ModelFileMissing`] and [`EngineError::ModelInvalid`] with the file's name.
    pub fn read(folder: &Path) -> Result<Self> {
        let config = Json::required(folder, "config.json")?;
        let vocab = Json::required(folder, "vocab.json")?;
        let tokenizer = Json::optional(folder, "tokenizer_config.json")?;
        let setting = |key: &str| {
            let value = tokenizer.as_ref()?.get(key)?;
            // A token is written as itself or as an object around its content.
            value.as_str().or_else(|| value.get("content")?.as_str())
        };
        let map = match (setting("target_lang"), vocab.value.as_object()) {
            (Some(language), Some(map)) if map.values().any(Value::is_object) => {
                map.get(language).and_then(Value::as_object)
            }
            (_, map) => map,
        };
        let symbols: Option<HashMap<&str, Symbol>> = map.and_then(|map| {
            map.iter()
                .map(|(text, id)| Some((text.as_str(), usize::try_from(id.as_u64()?).ok()?)))
                .collect()
        });
        let symbols = symbols
            .filter(|symbols| !symbols.is_empty())
            .ok_or_else(|| vocab.invalid("it is no map of symbols to numbers".to_owned()))?;

        let size = config.size("vocab_size")?;
        if let Some((text, id)) = symbols.iter().find(|(_, id)| **id >= size) {
            return Err(vocab.invalid(format!(
                "{text:?} is number {id}, past the {size} symbols of config.json"
            )));
        }
        // The reference implementation's loss takes the padding symbol for the blank.
        let blank = config
            .get("pad_token_id")
            .and_then(Value::as_u64)
            .and_then(|id| usize::try_from(id).ok())
            .or_else(|| {
                symbols
                    .get(setting("pad_token").unwrap_or("<pad>"))
                    .copied()
            })
            .filter(|id| *id < size)
            .ok_or_else(|| config.invalid("pad_token_id, the CTC blank, is missing".to_owned()))?;
        let delimiter = symbols
            .get(setting("word_delimiter_token").unwrap_or("|"))
            .copied();
        let letters = symbols
            .iter()
            .filter(|(_, id)| **id != blank && Some(**id) != delimiter)
            .filter_map(|(text, id)| {
                let mut characters = text.chars();
                let only = characters.next().filter(|_| characters.next().is_none())?;
                Some((only, *id))
            })
            .collect();
        Ok(Self {
            letters,
            blank,
            delimiter,
            size,
        })
    }

    /// The CTC blank.
    pub fn blank(&self) -> Symbol {
        self.blank
    }

    /// What stands between words, in models that have it.
    pub fn delimiter(&self) -> Option<Symbol> {
        self.delimiter
    }

    /// The column after the model's own: any sound at all.
    pub fn wildcard(&self) -> Symbol {
        self.size
    }

    /// Symbols of the model; its logits have as many columns.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The symbols of a character, in the case the model knows; empty for what is not spoken (punctuation), the
    /// [`Vocabulary::wildcard`] for what is spoken and cannot be spelled (digits, signs, letters of other scripts).
    pub fn spell(&self, character: char) -> Vec<Symbol> {
        let character = match character {
            '\u{2018}' | '\u{2019}' | '\u{02bc}' | '\u{ff07}' => '\'',
            other => other,
        };
        let spelled = |letters: &mut dyn Iterator<Item = char>| -> Option<Vec<Symbol>> {
            letters
                .map(|letter| self.letters.get(&letter).copied())
                .collect()
        };
        spelled(&mut std::iter::once(character))
            .or_else(|| spelled(&mut character.to_uppercase()))
            .or_else(|| spelled(&mut character.to_lowercase()))
            .unwrap_or_else(|| {
                if character.is_alphanumeric() || SPOKEN_SIGNS.contains(character) {
                    vec![self.wildcard()]
                } else {
                    Vec::new()
                }
            })
    }

    /// Whether its letters are the English alphabet, in one case, and no others.
    fn is_english(&self) -> bool {
        let mut letters: Vec<char> = self
            .letters
            .keys()
            .filter(|letter| letter.is_alphabetic())
            .map(char::to_ascii_lowercase)
            .collect();
        letters.sort_unstable();
        letters.into_iter().eq('a'..='z')
    }
}

/// Signs that are read aloud.
const SPOKEN_SIGNS: &str = "%‰&@#+=×÷±°§€$£¥¢₹₽₩₺₴₪฿";

/// Codes of the languages a model's files say it was trained on: `language` in the front matter of `README.md` (the
/// model card), else `target_lang` of an MMS model; an alphabet of exactly A to Z is English's.
///
/// # Errors
/// [`EngineError::ModelInvalid`] when no file says it: to align words of another language is worse than not to align.
pub fn languages(folder: &Path, vocabulary: &Vocabulary) -> Result<Vec<String>> {
    let card = std::fs::read_to_string(folder.join("README.md")).unwrap_or_default();
    let mut found = card_languages(&card);
    if found.is_empty() {
        let tokenizer = Json::optional(folder, "tokenizer_config.json")?;
        let target = tokenizer.as_ref().and_then(|file| file.get("target_lang"));
        found.extend(target.and_then(Value::as_str).map(two_letter_code));
    }
    if found.is_empty() && vocabulary.is_english() {
        found.push("en".to_owned());
    }
    if found.is_empty() {
        return Err(EngineError::ModelInvalid {
            path: folder.to_owned(),
            message: "no file of the model says its language: put a README.md into the folder that begins with the \
                      lines `---`, `language: xx`, `---`"
                .to_owned(),
        });
    }
    Ok(found)
}

/// `language: en`, `language: [en, de]` or a list below it, in the front matter of a model card.
fn card_languages(card: &str) -> Vec<String> {
    let mut lines = card.lines().skip_while(|line| line.trim().is_empty());
    if lines.next().map(str::trim) != Some("---") {
        return Vec::new();
    }
    let mut front = lines.take_while(|line| line.trim() != "---");
    let Some(inline) = front.find_map(|line| line.strip_prefix("language:")) else {
        return Vec::new();
    };
    let inline = inline.split(" #").next().unwrap_or_default();
    let inline = inline.trim().trim_start_matches('[').trim_end_matches(']');
    let code = |item: &str| two_letter_code(item.trim().trim_matches(['"', '\'']));
    let codes: Vec<String> = if inline.is_empty() {
        front
            .map_while(|line| line.trim().strip_prefix('-'))
            .map(code)
            .collect()
    } else {
        inline.split(',').map(code).collect()
    };
    codes
        .into_iter()
        .filter(|code| (2..=3).contains(&code.len()))
        .collect()
}

/// ISO 639-3 to the ISO 639-1 code that transcribers use, for the languages a file may name so; `zh-CN` to `zh`.
fn two_letter_code(code: &str) -> String {
    const CODES: &str = "afr af ara ar aze az bel be ben bn bul bg cat ca ces cs cmn zh cym cy dan da deu de ell el eng en \
        est et eus eu fas fa fin fi fra fr glg gl guj gu heb he hin hi hrv hr hun hu hye hy ind id isl is ita it jpn ja \
        kan kn kat ka kaz kk kor ko lav lv lit lt mal ml mar mr mkd mk mlt mt mya my nep ne nld nl nob no pan pa pol pl \
        por pt ron ro rus ru slk sk slv sl spa es sqi sq srp sr swe sv swh sw tam ta tel te tgl tl tha th tur tr ukr uk \
        urd ur uzb uz vie vi zho zh";
    let code = code.to_lowercase();
    let language = code.split(['-', '_']).next().unwrap_or_default();
    let mut codes = CODES.split_whitespace();
    while let (Some(long), Some(short)) = (codes.next(), codes.next()) {
        if long == language {
            return short.to_owned();
        }
    }
    language.to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn nano() -> Vocabulary {
        Vocabulary::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/wav2vec2-nano"))
            .unwrap()
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
        }
        folder
    }

    #[test]
    fn letters_are_spelled_in_the_models_case_and_the_rest_by_what_it_sounds_like() {
        let vocabulary = nano();
        assert_eq!((vocabulary.blank(), vocabulary.delimiter()), (0, Some(4)));
        assert_eq!(vocabulary.spell('a'), [7]);
        assert_eq!(vocabulary.spell('A'), [7]);
        assert_eq!(vocabulary.spell('ß'), [12, 12]);
        assert_eq!(vocabulary.spell('’'), [27]);
        for unknown in ['3', '€', 'é', '語', '%'] {
            assert_eq!(vocabulary.spell(unknown), [vocabulary.wildcard()]);
        }
        for silent in ['.', ',', '—', '♪', ' ', '|'] {
            assert!(vocabulary.spell(silent).is_empty());
        }
    }

    #[test]
    fn a_model_with_small_letters_and_its_own_names_is_read_from_its_files() {
        let folder = folder(&[
            ("config.json", r#"{"vocab_size": 5, "pad_token_id": 4}"#),
            (
                "vocab.json",
                r#"{"_": 0, "ä": 1, "b": 2, "[UNK]": 3, "[PAD]": 4}"#,
            ),
            ("tokenizer_config.json", r#"{"word_delimiter_token": "_"}"#),
            (
                "README.md",
                "---\nlicense: mit\nlanguage:\n- de\n- \"en\"\ntags:\n- speech\n---\n# A model\n",
            ),
        ]);
        let vocabulary = Vocabulary::read(folder.path()).unwrap();
        assert_eq!((vocabulary.blank(), vocabulary.delimiter()), (4, Some(0)));
        assert_eq!(vocabulary.spell('Ä'), [1]);
        assert_eq!(vocabulary.spell('z'), [5]);
        assert_eq!(languages(folder.path(), &vocabulary).unwrap(), ["de", "en"]);
    }

    #[test]
    fn a_vocabulary_of_many_languages_is_read_for_the_one_it_targets() {
        let folder = folder(&[
            ("config.json", r#"{"vocab_size": 4, "pad_token_id": 0}"#),
            (
                "vocab.json",
                r#"{"eng": {"a": 1}, "deu": {"<pad>": 0, "|": 1, "ü": 2}}"#,
            ),
            ("tokenizer_config.json", r#"{"target_lang": "deu"}"#),
        ]);
        let vocabulary = Vocabulary::read(folder.path()).unwrap();
        assert_eq!(vocabulary.spell('ü'), [2]);
        assert_eq!(languages(folder.path(), &vocabulary).unwrap(), ["de"]);
    }

    #[test]
    fn a_language_nobody_names_is_english_only_with_englishs_alphabet() {
        let other = folder(&[
            ("config.json", r#"{"vocab_size": 3, "pad_token_id": 0}"#),
            ("vocab.json", r#"{"<pad>": 0, "|": 1, "я": 2}"#),
        ]);
        let vocabulary = Vocabulary::read(other.path()).unwrap();
        let error = languages(other.path(), &vocabulary)
            .unwrap_err()
            .to_string();
        assert!(error.contains("README.md"), "{error}");
        assert_eq!(languages(other.path(), &nano()).unwrap(), ["en"]);
    }

    #[test]
    fn a_model_card_names_languages_in_one_line_too() {
        assert_eq!(card_languages("---\nlanguage: en\n---\n"), ["en"]);
        assert_eq!(
            card_languages("---\nlanguage: [fr, \"nl\"]\n---\n"),
            ["fr", "nl"]
        );
        assert_eq!(card_languages("---\nlanguage: zh-CN\n---\n"), ["zh"]);
        assert!(card_languages("# language: en\n").is_empty());
        assert!(card_languages("---\nlicense: mit\n---\nlanguage: en\n").is_empty());
    }
}
