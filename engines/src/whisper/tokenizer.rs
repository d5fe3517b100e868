//! Whisper's tokenizer: byte-level BPE both ways, time tokens, and the split of tokens into words
//! (`whisper/tokenizer.py`). Reads `tokenizer.json`, or `vocab.json` with `merges.txt`; Sennrich et al. (2016) for the
//! merges, Radford et al. (2019) for the bytes.

use std::collections::HashMap;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

use crate::error::{EngineError, Result};
use crate::model_folder::SpecialTokens;

/// Seconds between two time tokens.
pub const TIME_PRECISION: f64 = 0.02;

/// Pieces that are merged on their own. Whitespace before a word belongs to the word, as the original pattern's
/// look-ahead `\s+(?!\S)` says; this engine has no look-ahead, so [`pieces`] gives the last space back by hand.
const PATTERN: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";

/// Languages written without spaces: their words are cut at every complete character.
const UNSPACED_LANGUAGES: [&str; 6] = ["zh", "ja", "th", "lo", "my", "yue"];

/// Encodes text to tokens and back.
pub struct Tokenizer {
    special: SpecialTokens,
    /// Bytes of each text token, by id; empty where an id is none.
    bytes: Vec<Vec<u8>>,
    /// Token of a byte string.
    ids: HashMap<Vec<u8>, u32>,
    /// Rank of a merge by the two byte strings it joins; low ranks merge first.
    ranks: HashMap<(Vec<u8>, Vec<u8>), usize>,
    pattern: Regex,
}

impl Tokenizer {
    /// Reads a model folder's tokenizer.
    ///
    /// # Errors
    /// [`EngineError::ModelFileMissing`] or [`EngineError::ModelInvalid`].
    pub fn read(folder: &Path, special: SpecialTokens) -> Result<Self> {
        let (vocab, merges) = read_vocab_and_merges(folder)?;
        let invalid = |message: &str| EngineError::ModelInvalid {
            path: folder.to_owned(),
            message: message.to_owned(),
        };
        let byte_of = byte_of_char();
        let to_bytes = |text: &str| {
            text.chars()
                .map(|c| byte_of.get(&c).copied())
                .collect::<Option<Vec<u8>>>()
        };

        let mut bytes = vec![Vec::new(); special.eot as usize];
        let mut ids = HashMap::new();
        for (text, id) in vocab {
            // Special tokens may stand in the vocabulary too; their text is not in the byte alphabet's sense text.
            if id >= special.eot {
                continue;
            }
            let token =
                to_bytes(&text).ok_or_else(|| invalid("its vocabulary is not byte-level BPE"))?;
            bytes[id as usize] = token.clone();
            ids.insert(token, id);
        }
        let ranks = merges
            .into_iter()
            .enumerate()
            .map(|(rank, (left, right))| Some(((to_bytes(&left)?, to_bytes(&right)?), rank)))
            .collect::<Option<HashMap<_, _>>>()
            .ok_or_else(|| invalid("its merges are not byte-level BPE"))?;
        let pattern = Regex::new(PATTERN).map_err(|error| invalid(&error.to_string()))?;
        Ok(Self {
            special,
            bytes,
            ids,
            ranks,
            pattern,
        })
    }

    /// Token ids with a meaning of their own.
    pub fn special(&self) -> &SpecialTokens {
        &self.special
    }

    /// Whether a token is a time.
    pub fn is_timestamp(&self, token: u32) -> bool {
        token >= self.special.timestamp_begin
    }

    /// Seconds of a time token.
    pub fn timestamp(&self, token: u32) -> f64 {
        f64::from(token - self.special.timestamp_begin) * TIME_PRECISION
    }

    /// The text of tokens; special and time tokens say nothing. Bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(tokens)).into_owned()
    }

    fn decode_bytes(&self, tokens: &[u32]) -> Vec<u8> {
        tokens
            .iter()
            .filter_map(|&token| self.bytes.get(token as usize))
            .flatten()
            .copied()
            .collect()
    }

    /// The tokens of a text. Special tokens cannot be written as text.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        for piece in pieces(&self.pattern, text) {
            self.encode_piece(piece.as_bytes(), &mut tokens);
        }
        tokens
    }

    /// Merges neighbours in order of rank until no merge applies.
    fn encode_piece(&self, piece: &[u8], tokens: &mut Vec<u32>) {
        let mut parts: Vec<Vec<u8>> = piece.iter().map(|&byte| vec![byte]).collect();
        loop {
            let ranked = parts.windows(2).enumerate().filter_map(|(at, pair)| {
                let rank = self.ranks.get(&(pair[0].clone(), pair[1].clone()))?;
                Some((*rank, at))
            });
            let Some((_, at)) = ranked.min() else { break };
            let right = parts.remove(at + 1);
            parts[at].extend(right);
        }
        tokens.extend(parts.iter().filter_map(|part| self.ids.get(part)));
    }

    /// Symbols that are written but not spoken (brackets, notes …), which a transcript should not hold. The reference's
    /// list: those of `symbols` that are one token, and the first token of any musical sign.
    pub fn non_speech_tokens(&self) -> Vec<u32> {
        const SINGLE: &str = "\"#()*+/:;<=>@[\\]^_`{|}~「」『』";
        const LONGER: &str = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪";
        const MUSICAL: &str = "♩♪♫♬♭♮♯";

        let first = |text: &str| self.encode(text).first().copied();
        // Hyphens and quotes are fine between words, not at the beginning of one.
        let mut tokens: Vec<u32> = [" -", " '"].into_iter().filter_map(first).collect();
        let symbols = SINGLE
            .chars()
            .map(String::from)
            .chain(LONGER.split(' ').map(String::from));
        for symbol in symbols {
            for text in [symbol.clone(), format!(" {symbol}")] {
                if let [single] = self.encode(&text)[..] {
                    tokens.push(single);
                }
            }
        }
        for sign in MUSICAL.chars() {
            tokens.extend(
                [sign.to_string(), format!(" {sign}")]
                    .iter()
                    .filter_map(|text| first(text)),
            );
        }
        tokens.sort_unstable();
        tokens.dedup();
        tokens
    }

    /// Splits text tokens into words: `(text, number of tokens)`, where texts joined give [`Tokenizer::decode`].
    pub fn split_to_words(&self, tokens: &[u32], language: &str) -> Vec<(String, usize)> {
        let characters = self.split_on_characters(tokens);
        if UNSPACED_LANGUAGES.contains(&language) {
            return characters;
        }
        let mut words: Vec<(String, usize)> = Vec::new();
        for (text, n_tokens) in characters {
            let trimmed = text.trim();
            let is_punctuation =
                trimmed.chars().count() <= 1 && trimmed.chars().all(|c| c.is_ascii_punctuation());
            match words.last_mut() {
                Some(word) if !text.starts_with(' ') && !is_punctuation => {
                    word.0.push_str(&text);
                    word.1 += n_tokens;
                }
                _ => words.push((text, n_tokens)),
            }
        }
        words
    }

    /// The shortest groups of tokens that hold whole characters.
    fn split_on_characters(&self, tokens: &[u32]) -> Vec<(String, usize)> {
        let mut groups = Vec::new();
        let mut bytes = Vec::new();
        let mut n_tokens = 0;
        for (at, token) in tokens.iter().enumerate() {
            bytes.extend(self.decode_bytes(&[*token]));
            n_tokens += 1;
            let is_last = at + 1 == tokens.len();
            let is_whole = match std::str::from_utf8(&bytes) {
                Ok(_) => true,
                // Not the beginning of a character: waiting for more bytes would not mend it.
                Err(error) => error.error_len().is_some(),
            };
            if is_whole || is_last {
                groups.push((String::from_utf8_lossy(&bytes).into_owned(), n_tokens));
                bytes.clear();
                n_tokens = 0;
            }
        }
        groups
    }
}

/// Cuts text where merges must not cross.
fn pieces<'t>(pattern: &Regex, text: &'t str) -> Vec<&'t str> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(found) = pattern.find_at(text, at) {
        let mut end = found.end();
        let piece = found.as_str();
        let is_space = piece.chars().all(char::is_whitespace);
        if is_space && end < text.len() && piece.chars().count() > 1 {
            end -= piece.chars().next_back().map_or(0, char::len_utf8);
        }
        pieces.push(&text[found.start()..end]);
        at = end;
    }
    pieces
}

/// GPT-2's alphabet: each byte as a printable character. Printable Latin-1 stands for itself, the rest for U+0100 on.
fn byte_of_char() -> HashMap<char, u8> {
    let stands_for_itself = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100_u32;
    (0..=u8::MAX)
        .filter_map(|byte| {
            let code = if stands_for_itself(byte) {
                u32::from(byte)
            } else {
                next += 1;
                next - 1
            };
            Some((char::from_u32(code)?, byte))
        })
        .collect()
}

type Vocab = Vec<(String, u32)>;
type Merges = Vec<(String, String)>;

fn read_vocab_and_merges(folder: &Path) -> Result<(Vocab, Merges)> {
    let tokenizer = folder.join("tokenizer.json");
    if tokenizer.is_file() {
        let json = read_json(&tokenizer)?;
        let model = json.get("model");
        let vocab = model.and_then(|model| vocab_entries(model.get("vocab")?));
        let merges = model.and_then(|model| {
            model
                .get("merges")?
                .as_array()?
                .iter()
                .map(merge_entry)
                .collect()
        });
        return vocab.zip(merges).ok_or_else(|| EngineError::ModelInvalid {
            path: tokenizer,
            message: "it holds no byte-level BPE model".to_owned(),
        });
    }
    let (vocab_path, merges_path) = (folder.join("vocab.json"), folder.join("merges.txt"));
    if !vocab_path.is_file() || !merges_path.is_file() {
        return Err(EngineError::ModelFileMissing {
            folder: folder.to_owned(),
            file: "tokenizer.json (or vocab.json with merges.txt)".to_owned(),
            remedy: "fetch the folder again, it is not a complete Whisper export".to_owned(),
        });
    }
    let vocab =
        vocab_entries(&read_json(&vocab_path)?).ok_or_else(|| EngineError::ModelInvalid {
            path: vocab_path,
            message: "it is not a map from text to id".to_owned(),
        })?;
    let text =
        std::fs::read_to_string(&merges_path).map_err(|error| EngineError::ModelInvalid {
            path: merges_path,
            message: error.to_string(),
        })?;
    let lines = text.lines().filter(|line| !line.starts_with("#version"));
    Ok((vocab, lines.filter_map(split_merge).collect()))
}

fn read_json(path: &Path) -> Result<Value> {
    let invalid = |message: String| EngineError::ModelInvalid {
        path: path.to_owned(),
        message,
    };
    let text = std::fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))
}

fn vocab_entries(value: &Value) -> Option<Vocab> {
    let entry =
        |(text, id): (&String, &Value)| Some((text.clone(), u32::try_from(id.as_u64()?).ok()?));
    value.as_object()?.iter().map(entry).collect()
}

/// A merge is `"a b"` in older files and `["a", "b"]` in newer ones.
fn merge_entry(value: &Value) -> Option<(String, String)> {
    match value {
        Value::String(text) => split_merge(text),
        Value::Array(pair) => Some((
            pair.first()?.as_str()?.to_owned(),
            pair.get(1)?.as_str()?.to_owned(),
        )),
        _ => None,
    }
}

fn split_merge(line: &str) -> Option<(String, String)> {
    let (left, right) = line.split_once(' ')?;
    Some((left.to_owned(), right.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::model_folder::{ModelFolder, Precision};
    use crate::session::Device;

    fn nano() -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/whisper-nano");
        let model = ModelFolder::read(&folder, Precision::Auto, Device::Cpu).unwrap();
        Tokenizer::read(&folder, model.tokens).unwrap()
    }

    #[test]
    fn text_is_cut_as_the_original_pattern_cuts_it() {
        let pattern = Regex::new(PATTERN).unwrap();
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(pieces(&pattern, text), expected, "{text:?}");
        };
        check("Hello  world", &["Hello", " ", " world"]);
        check("it's 42%!", &["it", "'s", " 42", "%!"]);
        check("a \n\t b", &["a", " \n\t", " b"]);
        check("end   ", &["end", "   "]);
        check("\n\nx", &["\n", "\n", "x"]);
        check("हिन्दी", &["ह", "ि", "न", "्", "द", "ी"]);
    }

    #[test]
    fn any_text_survives_encoding_and_decoding() {
        let tokenizer = nano();
        for text in [
            "",
            " We will finish in thirty four minutes.",
            "Grüße, 東京! ♪♪",
            "  two  spaces ",
            "<|endoftext|>",
        ] {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text)), text);
        }
    }

    #[test]
    fn encoding_gives_the_tokens_the_model_was_trained_on() {
        let tokens = [331, 329, 452, 286, 461, 333, 429, 13];
        let tokenizer = nano();
        assert_eq!(
            tokenizer.encode(" We will finish in thirty four minutes."),
            tokens
        );
        assert_eq!(
            tokenizer.decode(&tokens),
            " We will finish in thirty four minutes."
        );
    }

    #[test]
    fn the_list_of_unspoken_symbols_is_the_one_in_the_models_own_files() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/whisper-nano");
        let model = ModelFolder::read(&folder, Precision::Auto, Device::Cpu).unwrap();
        let special = [
            model.tokens.sot,
            model.tokens.transcribe.unwrap(),
            model.tokens.translate.unwrap(),
        ];
        let listed = model.suppress_tokens.unwrap();
        let mut symbols: Vec<u32> = listed
            .iter()
            .copied()
            .filter(|&token| token < model.tokens.eot)
            .collect();
        symbols.sort_unstable();
        assert!(special.iter().all(|token| listed.contains(token)));
        let ours = nano().non_speech_tokens();
        assert!(
            symbols.iter().all(|token| ours.contains(token)),
            "ours {ours:?}, theirs {symbols:?}"
        );
    }

    #[test]
    fn words_carry_their_space_and_punctuation_stands_alone() {
        let tokenizer = nano();
        let tokens = tokenizer.encode(" Okay, I will check it.");
        let words = tokenizer.split_to_words(&tokens, "en");
        let texts: Vec<&str> = words.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, [" Okay", ",", " I", " will", " check", " it", "."]);
        assert_eq!(words.iter().map(|(_, n)| n).sum::<usize>(), tokens.len());
    }

    #[test]
    fn a_character_of_several_tokens_is_never_cut() {
        let tokenizer = nano();
        let tokens = tokenizer.encode("東京");
        assert!(tokens.len() > 2);
        let words = tokenizer.split_to_words(&tokens, "ja");
        let texts: Vec<&str> = words.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(texts, ["東", "京"]);
    }
}
