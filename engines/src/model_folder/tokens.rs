//! Token ids with a meaning of their own, and the languages a model knows.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::json::{Json, token};
use crate::error::Result;

/// Token ids with a meaning of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpecialTokens {
    /// `<|endoftext|>`: every id below it is text.
    pub eot: u32,
    /// `<|startoftranscript|>`.
    pub sot: u32,
    /// `<|startofprev|>`, when the vocabulary has it.
    pub sot_prev: Option<u32>,
    /// `<|nospeech|>` (or `<|nocaptions|>`), when the vocabulary has it.
    pub no_speech: Option<u32>,
    /// `<|notimestamps|>`.
    pub no_timestamps: u32,
    /// `<|0.00|>`; every id from it on is a time.
    pub timestamp_begin: u32,
    /// `<|transcribe|>`; `None` in English-only models.
    pub transcribe: Option<u32>,
    /// `<|translate|>`; `None` in English-only models.
    pub translate: Option<u32>,
    /// Language code → token, in order of token; empty in English-only models.
    pub languages: Vec<(String, u32)>,
}

impl SpecialTokens {
    /// The token of a language code.
    pub fn language(&self, code: &str) -> Option<u32> {
        self.languages
            .iter()
            .find(|(known, _)| known == code)
            .map(|(_, token)| *token)
    }

    /// The code of a language token.
    pub fn language_code(&self, token: u32) -> Option<&str> {
        self.languages
            .iter()
            .find(|(_, known)| *known == token)
            .map(|(code, _)| code.as_str())
    }
}

/// Added tokens by their text, from `tokenizer.json` or, without it, `added_tokens.json` and `vocab.json`.
pub(super) fn read_added_tokens(folder: &Path) -> Result<HashMap<String, u32>> {
    let mut named = HashMap::new();
    let mut add = |json: &Json| {
        let entries = json.value.as_object().into_iter().flatten();
        named.extend(entries.filter_map(|(text, id)| Some((text.clone(), token(id)?))));
    };
    for name in ["vocab.json", "added_tokens.json"] {
        Json::optional(folder, name)?.iter().for_each(&mut add);
    }
    if let Some(tokenizer) = Json::optional(folder, "tokenizer.json")? {
        let added = tokenizer
            .get("added_tokens")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        named.extend(added.filter_map(|entry| {
            Some((
                entry.get("content")?.as_str()?.to_owned(),
                token(entry.get("id")?)?,
            ))
        }));
    }
    Ok(named)
}

pub(super) fn special_tokens(
    config: &Json,
    generation: &Json,
    named: &HashMap<String, u32>,
) -> Result<SpecialTokens> {
    let from_files = |key: &str| generation.get(key).or_else(|| config.get(key));
    let by_key = |key: &str| {
        from_files(key).and_then(|value| token(value).or_else(|| token(value.as_array()?.first()?)))
    };
    let by_text = |text: &str| named.get(text).copied();
    let required = |found: Option<u32>, what: &str| {
        found.ok_or_else(|| {
            generation.invalid(format!("neither it nor the tokenizer's files name {what}"))
        })
    };
    let eot = required(
        by_key("eos_token_id").or_else(|| by_text("<|endoftext|>")),
        "<|endoftext|>",
    )?;
    let sot = required(
        by_key("decoder_start_token_id").or_else(|| by_text("<|startoftranscript|>")),
        "<|startoftranscript|>",
    )?;
    let no_timestamps = required(
        by_key("no_timestamps_token_id").or_else(|| by_text("<|notimestamps|>")),
        "<|notimestamps|>",
    )?;
    let languages = languages(config, generation, named);
    let task = |name: &str| {
        let listed = generation
            .get("task_to_id")
            .and_then(|tasks| token(tasks.get(name)?));
        listed
            .or_else(|| by_text(&format!("<|{name}|>")))
            .filter(|_| !languages.is_empty())
    };
    Ok(SpecialTokens {
        eot,
        sot,
        sot_prev: by_key("prev_sot_token_id").or_else(|| by_text("<|startofprev|>")),
        no_speech: by_text("<|nospeech|>").or_else(|| by_text("<|nocaptions|>")),
        no_timestamps,
        timestamp_begin: by_text("<|0.00|>").unwrap_or(no_timestamps + 1),
        transcribe: task("transcribe"),
        translate: task("translate"),
        languages,
    })
}

/// Languages from `lang_to_id`; exports older than that key only have the tokens, between `<|startoftranscript|>` and
/// the task tokens. A model that says it is not multilingual has none: its language tokens were never trained.
fn languages(config: &Json, generation: &Json, named: &HashMap<String, u32>) -> Vec<(String, u32)> {
    let code = |text: &str| {
        let inner = text.strip_prefix("<|")?.strip_suffix("|>")?;
        let letters = inner.bytes().all(|byte| byte.is_ascii_lowercase());
        ((2..=3).contains(&inner.len()) && letters).then(|| inner.to_owned())
    };
    let mut languages: Vec<(String, u32)> =
        match generation.get("lang_to_id").and_then(Value::as_object) {
            Some(listed) => listed
                .iter()
                .filter_map(|(text, id)| Some((code(text)?, token(id)?)))
                .collect(),
            None if is_multilingual(config, generation, named) => named
                .iter()
                .filter_map(|(text, id)| Some((code(text)?, *id)))
                .collect(),
            None => Vec::new(),
        };
    languages.sort_by_key(|(_, id)| *id);
    languages
}

/// Without `is_multilingual`, a model that forces a language token right after the start is multilingual.
fn is_multilingual(config: &Json, generation: &Json, named: &HashMap<String, u32>) -> bool {
    if let Some(said) = generation.get("is_multilingual").and_then(Value::as_bool) {
        return said;
    }
    let forced = generation
        .get("forced_decoder_ids")
        .or_else(|| config.get("forced_decoder_ids"));
    let Some(first) = forced
        .and_then(Value::as_array)
        .and_then(|forced| forced.first())
    else {
        return false;
    };
    let id = first
        .as_array()
        .and_then(|pair| pair.get(1))
        .and_then(token);
    id.is_none_or(|id| {
        named
            .get("<|notimestamps|>")
            .is_none_or(|no_timestamps| id != *no_timestamps)
    })
}
