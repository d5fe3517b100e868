//! Whether a prompt did harm. Words that stand before a window can make a model stop after a word, or say everything twice;
//! such a window is decoded once more without them, and what the model is surer of stays.

use super::decoded::Decoded;
use super::{Pick, Whisper, WhisperJob, heard};
use crate::error::Result;
use crate::session::RunGuard;
use crate::transcription::TranscribeOptions;
use crate::whisper::backend::Backend;
use crate::whisper::decoding::{DecodeJob, decode_with_fallback};
use crate::whisper::longform::Window;
use crate::whisper::tokenizer::Tokenizer;

/// Share of a window's speech that an unharmed text covers.
const COVERED: f64 = 0.5;
/// Bytes of text a second that nobody says.
const TOO_FAST: f64 = 60.0;
/// A run of so many words that comes twice in a row is a repetition.
const REPEATED_WORDS: usize = 3;

impl<B: Backend> Whisper<B> {
    /// Decodes windows that a prompt or a vocabulary seems to have harmed once more without it.
    pub(super) fn doubt(
        &mut self,
        jobs: &[&mut WhisperJob],
        picks: &[Pick],
        decoded: &mut [Decoded],
        decode_jobs: &mut [DecodeJob],
        encoded: &B::Encoded,
        run: &RunGuard,
    ) -> Result<()> {
        let is_doubtful = |&at: &usize| {
            let job = &jobs[picks[at].job];
            job.prompt.has_context()
                && decoded[at].is_doubtful(&picks[at].window, &self.tokenizer, &job.options)
        };
        let doubtful: Vec<usize> = (0..picks.len()).filter(is_doubtful).collect();
        if doubtful.is_empty() {
            return Ok(());
        }
        let again: Vec<DecodeJob> = doubtful
            .iter()
            .map(|&at| {
                let job = &*jobs[picks[at].job];
                let bare = job.prompt.bare();
                self.decode_job(at, &picks[at], job, &bare, heard(&decoded[at].detected))
            })
            .collect();
        let results = decode_with_fallback(
            &mut self.backend,
            &self.tokenizer,
            encoded,
            &again,
            self.folder.max_length,
            run,
        )?;
        for ((at, result), bare) in doubtful.into_iter().zip(results).zip(again) {
            let window = &picks[at].window;
            let walk = &jobs[picks[at].job].walk;
            let plain = Decoded {
                split: walk.split(window, &result, &self.tokenizer),
                result,
                words: Vec::new(),
                detected: decoded[at].detected.clone(),
                is_unprompted: true,
            };
            let vocabulary = &jobs[picks[at].job].options.vocabulary;
            if decoded[at].gives_way(&plain, window, &self.tokenizer, vocabulary) {
                decoded[at] = plain;
                decode_jobs[at] = bare;
            }
        }
        Ok(())
    }
}

impl Decoded {
    /// Whether it is worth decoding once more without prompt and vocabulary.
    pub(super) fn is_doubtful(
        &self,
        window: &Window,
        tokenizer: &Tokenizer,
        options: &TranscribeOptions,
    ) -> bool {
        // Words to expect can replace what was said by a sentence that is no less likely; a prompt sets a style, which may
        // well be less likely than none.
        !options.vocabulary.is_empty()
            || (options.logprob_threshold).is_some_and(|unsure| self.result.avg_logprob < unsure)
            || self.is_harmed(window, tokenizer)
    }

    /// Whether `plain`, decoded without prompt and vocabulary, is to be kept instead: where it is unharmed, and where it is
    /// surer and lacks no word of the vocabulary.
    pub(super) fn gives_way(
        &self,
        plain: &Self,
        window: &Window,
        tokenizer: &Tokenizer,
        vocabulary: &[String],
    ) -> bool {
        match (
            self.is_harmed(window, tokenizer),
            plain.is_harmed(window, tokenizer),
        ) {
            (true, false) => true,
            (false, true) => false,
            _ => {
                let text = |decoded: &Self| spoken(&tokenizer.decode(&decoded.result.tokens));
                plain.result.avg_logprob > self.result.avg_logprob
                    && !gains(&text(self), &text(plain), vocabulary)
            }
        }
    }

    /// Whether it leaves out much of the speech, is said faster than anybody speaks, or repeats itself.
    fn is_harmed(&self, window: &Window, tokenizer: &Tokenizer) -> bool {
        let segments = &self.split.segments;
        let too_fast = segments.iter().any(|segment| {
            let text = tokenizer.decode(&self.result.tokens[segment.tokens.clone()]);
            text.trim().len() as f64 > TOO_FAST * (segment.end - segment.start).max(0.05)
        });
        window
            .covered(segments)
            .is_some_and(|covered| covered < COVERED)
            || too_fast
            || repeats(&tokenizer.decode(&self.result.tokens))
    }
}

/// A text as it is said: words in lower case without signs, with a space before and after each.
fn spoken(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        let letters = word.chars().filter(|letter| letter.is_alphanumeric());
        letters.flat_map(char::to_lowercase).collect::<String>()
    });
    let words: Vec<String> = words.filter(|word| !word.is_empty()).collect();
    format!(" {} ", words.join("  "))
}

/// Whether a term of the vocabulary comes more often in `text` than in `other`, both as they are [`spoken`].
fn gains(text: &str, other: &str, vocabulary: &[String]) -> bool {
    let mut terms = vocabulary.iter().map(|term| spoken(term));
    terms.any(|term| {
        !term.trim().is_empty() && text.matches(&term).count() > other.matches(&term).count()
    })
}

/// Whether a run of words comes twice in a row.
fn repeats(text: &str) -> bool {
    let words: Vec<&str> = text.split_whitespace().collect();
    (REPEATED_WORDS..=words.len() / 2).any(|length| {
        words
            .windows(2 * length)
            .any(|pair| pair[..length] == pair[length..])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vocabulary_gains_where_one_of_its_terms_comes_more_often() {
        let gains = |text: &str, other: &str, terms: &[&str]| {
            let terms: Vec<String> = terms.iter().map(|term| (*term).to_owned()).collect();
            gains(&spoken(text), &spoken(other), &terms)
        };
        assert!(gains("Ask Zoë Quark.", "Ask so a quark.", &["zoë"]));
        assert!(gains(
            "New York, New York!",
            "New York, new work",
            &["New York"]
        ));
        assert!(!gains("Ask Zoë.", "Ask Zoë.", &["Zoë", ""]));
        assert!(!gains("Zoëlla came", "she came", &["Zoë"]));
        assert!(!gains("I am busy.", "That is not correct.", &["Carla"]));
    }

    #[test]
    fn a_run_of_words_said_twice_is_a_repetition_and_an_echo_of_one_word_is_not() {
        assert!(repeats(
            "Kevin has a question. Kevin has a question. about it"
        ));
        assert!(!repeats("No, no, no, I have a question about a question"));
        assert!(!repeats(""));
    }
}
