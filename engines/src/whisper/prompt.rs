//! What stands before the first generated token: previous text, vocabulary and prompt, then the start sequence with
//! language and task (`DecodingTask._get_initial_tokens` in `whisper/decoding.py`); and which tokens are never said.

use crate::model_folder::ModelFolder;
use crate::transcription::{Task, TranscribeOptions};
use crate::whisper::decoding::filters::{LogitFilters, TimestampRules};
use crate::whisper::tokenizer::Tokenizer;

/// What a request wants every window to know.
pub(crate) struct Prompt {
    /// Prompt and vocabulary, as tokens; at most half of the decoder's positions.
    context: Vec<u32>,
    limit: usize,
    sot_prev: Option<u32>,
}

impl Prompt {
    pub(crate) fn new(
        tokenizer: &Tokenizer,
        options: &TranscribeOptions,
        n_text_ctx: usize,
    ) -> Self {
        let limit = n_text_ctx / 2 - 1;
        let mut context = Vec::new();
        let vocabulary = options.vocabulary.join(", ");
        for text in [
            vocabulary.as_str(),
            options.prompt.as_deref().unwrap_or_default(),
        ] {
            if !text.trim().is_empty() {
                context.extend(tokenizer.encode(&format!(" {}", text.trim())));
            }
        }
        // The end of a prompt is what the speech continues from.
        context.drain(..context.len().saturating_sub(limit));
        Self {
            context,
            limit,
            sot_prev: tokenizer.special().sot_prev,
        }
    }

    /// Whether there is anything that the request wants known, and a way to say it.
    pub(crate) fn has_context(&self) -> bool {
        self.sot_prev.is_some() && !self.context.is_empty()
    }

    /// The same without prompt and vocabulary.
    pub(crate) fn bare(&self) -> Self {
        Self {
            context: Vec::new(),
            ..*self
        }
    }

    /// Why the prompt has no effect, if it has none.
    pub(crate) fn warning(&self) -> Option<String> {
        let ignored = self.sot_prev.is_none() && !self.context.is_empty();
        ignored.then(|| {
            "this model has no <|startofprev|> token: prompt and vocabulary have no effect"
                .to_owned()
        })
    }

    /// The tokens before a window's text, and the position of `<|startoftranscript|>` among them.
    pub(crate) fn tokens(
        &self,
        folder: &ModelFolder,
        language: Option<&str>,
        task: Task,
        timestamps: bool,
        previous: &[u32],
    ) -> (Vec<u32>, usize) {
        let special = &folder.tokens;
        let mut tokens = Vec::new();
        if let Some(sot_prev) = special
            .sot_prev
            .filter(|_| !self.context.is_empty() || !previous.is_empty())
        {
            let room = self.limit - self.context.len();
            tokens.push(sot_prev);
            tokens.extend_from_slice(&self.context);
            tokens.extend_from_slice(&previous[previous.len().saturating_sub(room)..]);
        }
        let sot = tokens.len();
        tokens.push(special.sot);
        tokens.extend(language.and_then(|code| special.language(code)));
        tokens.extend(match task {
            Task::Transcribe => special.transcribe,
            Task::Translate => special.translate,
        });
        if !timestamps {
            tokens.push(special.no_timestamps);
        }
        (tokens, sot)
    }
}

/// A model's rules on what may be said.
pub(crate) struct Rules {
    without_timestamps: LogitFilters,
    with_timestamps: LogitFilters,
}

impl Rules {
    /// The export's own lists; without them the reference's: a lone space and the end do not begin a text, unspoken symbols
    /// and control tokens are never said.
    pub(crate) fn new(folder: &ModelFolder, tokenizer: &Tokenizer) -> Self {
        let special = &folder.tokens;
        let suppress = folder.suppress_tokens.clone().unwrap_or_else(|| {
            let control = [
                Some(special.sot),
                special.sot_prev,
                special.no_speech,
                special.transcribe,
                special.translate,
            ];
            let mut tokens = tokenizer.non_speech_tokens();
            tokens.extend(control.into_iter().flatten());
            tokens
        });
        let suppress_at_begin = folder.begin_suppress_tokens.clone().unwrap_or_else(|| {
            let mut tokens = tokenizer.encode(" ");
            tokens.push(special.eot);
            tokens
        });
        let without_timestamps = LogitFilters {
            suppress_at_begin,
            suppress,
            timestamps: None,
        };
        let rules = TimestampRules {
            eot: special.eot,
            no_timestamps: special.no_timestamps,
            timestamp_begin: special.timestamp_begin,
            max_initial_index: folder.max_initial_timestamp_index,
        };
        let with_timestamps = LogitFilters {
            timestamps: Some(rules),
            ..without_timestamps.clone()
        };
        Self {
            without_timestamps,
            with_timestamps,
        }
    }

    pub(crate) fn filters(&self, timestamps: bool) -> LogitFilters {
        if timestamps {
            self.with_timestamps.clone()
        } else {
            self.without_timestamps.clone()
        }
    }
}
