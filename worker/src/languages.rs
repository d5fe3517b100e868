//! Languages that this worker has heard in files it transcribes in chunks, so that each file is listened to once.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// Files remembered; more are rarely in work at a time.
const REMEMBERED: usize = 64;

/// A language (ISO 639-1) with its probability, 0–1.
pub type Heard = (String, f32);

/// Model id and object-store key of the audio.
type Key = (String, String);

/// The languages of the files heard last. `None` stands for a file whose language the model does not tell.
#[derive(Debug, Default)]
pub struct Languages(Mutex<VecDeque<(Key, Option<Heard>)>>);

impl Languages {
    /// What was heard, if the file was listened to.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Option<Heard>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known.iter().find(|(file, _)| file == key);
        found.map(|(_, heard)| heard.clone())
    }

    /// Remembers what was heard in a file, and forgets the oldest.
    pub fn keep(&self, key: Key, heard: Option<Heard>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(file, _)| *file != key);
        known.push_back((key, heard));
        while known.len() > REMEMBERED {
            known.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_files_are_remembered_and_older_ones_forgotten() {
        let languages = Languages::default();
        let key = |n: usize| ("model".to_owned(), format!("file{n}"));
        assert_eq!(languages.get(&key(0)), None);
        for n in 0..=REMEMBERED {
            languages.keep(key(n), Some(("en".to_owned(), 0.5)));
        }
        languages.keep(key(1), None);
        assert_eq!(languages.get(&key(0)), None);
        assert_eq!(languages.get(&key(1)), Some(None));
        assert_eq!(languages.get(&key(2)), Some(Some(("en".to_owned(), 0.5))));
    }
}
