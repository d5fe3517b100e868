//! Model ids and the folder names made from them. An id is `name` or `organisation/name`, as on the hub; its folder is
//! the same with `--` for the slash, which no part may contain, so the way back is unambiguous.

use std::fmt;

use super::bundled::BUNDLED;
use super::error::{ModelStoreError, Result};

/// Longest id: the hub's own limit.
const MAX_LENGTH: usize = 96;

/// A checked model id.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelId(String);

impl ModelId {
    /// Checks an id.
    ///
    /// # Errors
    /// [`ModelStoreError::InvalidId`] with the rule it breaks.
    pub fn parse(id: &str) -> Result<Self> {
        let refuse = |why| {
            Err(ModelStoreError::InvalidId {
                id: id.to_owned(),
                why,
            })
        };
        if id.len() > MAX_LENGTH {
            return refuse("it is longer than 96 characters");
        }
        if id.eq_ignore_ascii_case("auto") {
            return refuse("`auto` stands for the best model present");
        }
        let parts: Vec<&str> = id.split('/').collect();
        if parts.len() > 2 {
            return refuse("it has more than one slash");
        }
        for part in parts {
            let Some(first) = part.chars().next() else {
                return refuse("a part of it is empty");
            };
            if !first.is_ascii_alphanumeric() || part.ends_with(['.', '-']) {
                return refuse(
                    "each part starts with a letter or digit and does not end in . or -",
                );
            }
            if !part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
            {
                return refuse(
                    "only letters, digits, and . _ - are allowed, with one slash at most",
                );
            }
            if part.contains("--") || part.contains("..") {
                return refuse("-- and .. are not allowed");
            }
        }
        Ok(Self(id.to_owned()))
    }

    /// The id a folder of the store was made from; `None` for a folder this module never names.
    #[must_use]
    pub fn from_folder_name(name: &str) -> Option<Self> {
        let id = Self::parse(&name.replacen("--", "/", 1)).ok()?;
        (id.folder_name() == name).then_some(id)
    }

    /// The folder's name: `org--name`.
    #[must_use]
    pub fn folder_name(&self) -> String {
        self.0.replacen('/', "--", 1)
    }

    /// Whether it has the form of a hub repository, `organisation/name`.
    #[must_use]
    pub fn is_repository(&self) -> bool {
        self.0.contains('/')
    }

    /// Whether the model comes with the program.
    #[must_use]
    pub fn is_bundled(&self) -> bool {
        BUNDLED.iter().any(|bundled| bundled.id == self.0)
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ModelId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn an_id_comes_back_from_its_folder_name() {
        for id in [
            "whisper-nano",
            "onnx-community/whisper-large-v3-turbo_timestamped",
            "distil-whisper/distil-large-v3.5",
            "a/b",
            "A_b/c-d",
        ] {
            let parsed = ModelId::parse(id).unwrap();
            assert!(!parsed.folder_name().contains('/'));
            assert_eq!(
                ModelId::from_folder_name(&parsed.folder_name()).unwrap(),
                parsed
            );
        }
    }

    #[test]
    fn what_could_leave_the_store_or_be_ambiguous_is_refused() {
        for id in [
            "", "/", "a/", "/a", "../x", "a/..", "a/b/c", ".hidden", "a--b", "a/-b", "a-/b", "a b",
            "a\\b", "ü", "auto", "Auto", "a/b..c", "a\0b", "~",
        ] {
            assert!(ModelId::parse(id).is_err(), "{id:?}");
        }
        assert!(ModelId::parse(&"x".repeat(97)).is_err());
        for folder in [".locks", "a--b--c", "a/b", "--a", "a--"] {
            assert_eq!(ModelId::from_folder_name(folder), None, "{folder}");
        }
    }

    #[test]
    fn every_entry_of_the_catalogue_has_a_valid_id() {
        for entry in dalston_schema::catalogue::entries() {
            ModelId::parse(&entry.id).unwrap();
        }
    }
}
