//! The vocabulary of a Parakeet export: one `piece id` a line (`vocab.txt`, or sherpa-onnx's `tokens.txt`), the blank
//! last. Pieces are SentencePiece's, with `▁` for a space before a word.

use std::path::{Path, PathBuf};

use crate::error::{EngineError, Result};

/// How a piece writes the space before a word.
const SPACE: char = '▁';

/// Pieces by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// With spaces for `▁`.
    pieces: Vec<String>,
}

/// The file of a folder that holds its vocabulary.
pub(super) fn file(folder: &Path) -> Option<PathBuf> {
    ["vocab.txt", "tokens.txt"]
        .map(|name| folder.join(name))
        .into_iter()
        .find(|path| path.is_file())
}

impl Vocabulary {
    /// Reads a vocabulary file.
    ///
    /// # Errors
    /// [`EngineError::ModelInvalid`] for an unreadable file, a line without an id, a gap between the ids, or a blank
    /// that is not the last of them.
    pub fn read(path: &Path) -> Result<Self> {
        let invalid = |message: String| EngineError::ModelInvalid {
            path: path.to_owned(),
            message,
        };
        let text = std::fs::read_to_string(path).map_err(|error| invalid(error.to_string()))?;
        Self::parse(&text).map_err(invalid)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut pieces: Vec<Option<String>> = Vec::new();
        for (line, entry) in text.lines().enumerate() {
            if entry.trim().is_empty() {
                continue;
            }
            let parsed = entry
                .rsplit_once([' ', '\t'])
                .and_then(|(piece, id)| Some((piece, id.trim().parse::<usize>().ok()?)));
            let Some((piece, id)) = parsed else {
                return Err(format!("line {} is no piece with its id", line + 1));
            };
            // A list of a million pieces is a file of something else.
            if id >= 1_000_000 {
                return Err(format!("line {} has the id {id}", line + 1));
            }
            if pieces.len() <= id {
                pieces.resize(id + 1, None);
            }
            pieces[id] = Some(piece.replace(SPACE, " "));
        }
        let n = pieces.len();
        let pieces: Vec<String> = pieces.into_iter().flatten().collect();
        if pieces.len() != n || n < 2 {
            return Err("its ids are not 0, 1, 2 … without a gap".to_owned());
        }
        let blank = pieces
            .iter()
            .position(|piece| piece == "<blk>" || piece == "<blank>");
        if blank.is_some_and(|blank| blank + 1 != n) {
            return Err("its blank is not the last piece".to_owned());
        }
        Ok(Self { pieces })
    }

    /// Pieces without the blank; the blank's id.
    pub fn blank(&self) -> usize {
        self.pieces.len() - 1
    }

    /// A piece's text, a space before a word included; empty for ids there are not.
    pub fn piece(&self, id: u32) -> &str {
        self.pieces.get(id as usize).map_or("", String::as_str)
    }

    /// Text pieces with their ids: all but the blank and names in angle brackets such as `<unk>`.
    pub fn text_pieces(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..)
            .zip(&self.pieces[..self.blank()])
            .filter(|(_, piece)| !(piece.starts_with('<') && piece.ends_with('>')))
            .map(|(id, piece)| (id, piece.as_str()))
    }

    /// What each token adds to the text: a space stands only before a letter or digit, and never at the start.
    /// The parts joined are the text.
    pub fn parts(&self, tokens: &[u32]) -> Vec<String> {
        let mut following = tokens
            .iter()
            .flat_map(|&token| self.piece(token).chars())
            .skip(1);
        let mut is_start = true;
        let mut parts = Vec::with_capacity(tokens.len());
        for &token in tokens {
            let mut part = String::new();
            for character in self.piece(token).chars() {
                let next = following.next();
                let before_word =
                    next.is_some_and(|next| next.is_alphanumeric() || next == '_') && !is_start;
                if !character.is_whitespace() || before_word {
                    part.push(character);
                }
                is_start = false;
            }
            parts.push(part);
        }
        parts
    }

    /// Whether every letter of every piece is one of English's.
    pub fn is_ascii(&self) -> bool {
        self.text_pieces()
            .all(|(_, piece)| piece.chars().all(|c| c.is_ascii() || !c.is_alphabetic()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn vocabulary() -> Vocabulary {
        Vocabulary::parse("<unk> 0\n▁a 1\nb 2\n▁ 3\n. 4\n' 5\n<blk> 6\n").unwrap()
    }

    #[test]
    fn spaces_stand_before_words_only_and_the_parts_are_the_text() {
        let parts = |tokens: &[u32]| vocabulary().parts(tokens);
        assert_eq!(parts(&[1, 2, 1]), ["a", "b", " a"]);
        assert_eq!(parts(&[1, 3, 4, 3, 2]), ["a", "", ".", " ", "b"]);
        assert_eq!(parts(&[3, 2, 5, 2, 3]), ["", "b", "'", "b", ""]);
        assert!(parts(&[]).is_empty());
    }

    #[test]
    fn the_blank_is_the_last_id_and_no_text() {
        let vocabulary = vocabulary();
        assert_eq!(vocabulary.blank(), 6);
        assert_eq!(
            vocabulary
                .text_pieces()
                .map(|(id, _)| id)
                .collect::<Vec<_>>(),
            [1, 2, 3, 4, 5]
        );
        assert!(vocabulary.is_ascii());
        assert!(!Vocabulary::parse("ä 0\n<blk> 1").unwrap().is_ascii());
    }

    #[test]
    fn gaps_missing_ids_and_a_blank_in_the_middle_are_refused() {
        assert!(Vocabulary::parse("a 0\nb 2\n").unwrap_err().contains("gap"));
        assert!(
            Vocabulary::parse("a 0\nb\n")
                .unwrap_err()
                .contains("line 2")
        );
        assert!(
            Vocabulary::parse("<blk> 0\na 1\n")
                .unwrap_err()
                .contains("blank")
        );
    }
}
