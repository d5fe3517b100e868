//! The texts of all settings with who set them, checked against their kinds, and typed access to them.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::kind::flag;
use super::settings::{self, Setting};

/// Who set a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// An environment variable.
    Environment,
    /// An option on the command line.
    Flag,
}

impl Origin {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Origin::Default => "default",
            Origin::Environment => "environment",
            Origin::Flag => "flag",
        }
    }
}

/// A setting that cannot work. Its text names the variable and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} {problem}")]
pub struct ConfigError {
    name: String,
    problem: String,
}

impl ConfigError {
    pub(super) fn new(name: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError {
            name: name.into(),
            problem: problem.into(),
        }
    }

    fn refused(setting: &Setting, text: &str) -> ConfigError {
        let shown = if setting.secret { "(hidden)" } else { text };
        ConfigError::new(
            setting.name,
            format!("is {shown:?}, but must be {}", setting.kind.allowed()),
        )
    }
}

#[derive(Debug, Clone)]
struct Entry {
    setting: &'static Setting,
    /// `None` when nobody set it and it has no default.
    text: Option<SecretString>,
    origin: Origin,
}

/// Every setting's text.
#[derive(Debug, Clone)]
pub struct Values {
    entries: Vec<Entry>,
}

impl Values {
    /// Collects each setting from `flags`, then `environment`, then its default. Blank texts count as not set.
    ///
    /// # Errors
    /// The first text that its kind does not accept.
    pub fn read(
        flags: &[(&'static str, String)],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Values, ConfigError> {
        let mut entries = Vec::new();
        for setting in settings::all() {
            let flag = flags
                .iter()
                .find(|(name, _)| *name == setting.name)
                .map(|(_, value)| (value.clone(), Origin::Flag));
            let set = flag
                .or_else(|| environment(setting.name).map(|value| (value, Origin::Environment)));
            let set = set
                .map(|(text, origin)| (text.trim().to_owned(), origin))
                .filter(|(text, _)| !text.is_empty());
            let default = || {
                (!setting.default.is_empty()).then(|| (setting.default.to_owned(), Origin::Default))
            };
            let (text, origin) = set
                .or_else(default)
                .map_or((None, Origin::Default), |(text, origin)| {
                    (Some(text), origin)
                });
            if let Some(text) = text.as_deref().filter(|text| !setting.kind.accepts(text)) {
                return Err(ConfigError::refused(setting, text));
            }
            entries.push(Entry {
                setting,
                text: text.map(SecretString::from),
                origin,
            });
        }
        Ok(Values { entries })
    }

    /// Every setting with its text (`None`: not set; secrets: a placeholder) and who set it.
    pub fn shown(&self) -> impl Iterator<Item = (&'static Setting, Option<String>, Origin)> {
        self.entries.iter().map(|entry| {
            let text = entry.text.as_ref().map(|text| {
                if entry.setting.secret {
                    "(hidden)".to_owned()
                } else {
                    text.expose_secret().to_owned()
                }
            });
            (entry.setting, text, entry.origin)
        })
    }

    /// Who set `name`.
    pub fn origin(&self, name: &str) -> Origin {
        self.entry(name)
            .map_or(Origin::Default, |entry| entry.origin)
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.setting.name == name)
    }

    fn raw(&self, name: &str) -> Option<&str> {
        self.entry(name)?
            .text
            .as_ref()
            .map(ExposeSecret::expose_secret)
    }

    pub(super) fn secret(&self, name: &str) -> Option<SecretString> {
        self.entry(name)?.text.clone()
    }

    pub(super) fn optional<T: FromStr>(&self, name: &str) -> Result<Option<T>, ConfigError> {
        let Some(text) = self.raw(name) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|_| self.refused(name, text))
    }

    pub(super) fn parse<T: FromStr>(&self, name: &str) -> Result<T, ConfigError> {
        self.optional(name)?
            .ok_or_else(|| ConfigError::new(name, "is not set and has no default"))
    }

    pub(super) fn text(&self, name: &str) -> Result<String, ConfigError> {
        self.parse(name)
    }

    pub(super) fn optional_path(&self, name: &str) -> Result<Option<PathBuf>, ConfigError> {
        let Some(path) = self.optional::<PathBuf>(name)? else {
            return Ok(None);
        };
        std::path::absolute(&path)
            .map(Some)
            .map_err(|error| ConfigError::new(name, format!("cannot be made absolute: {error}")))
    }

    pub(super) fn path(&self, name: &str) -> Result<PathBuf, ConfigError> {
        self.optional_path(name)?
            .ok_or_else(|| ConfigError::new(name, "is not set and has no default"))
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.raw(name).and_then(flag).unwrap_or(false)
    }

    pub(super) fn seconds(&self, name: &str) -> Result<Duration, ConfigError> {
        let seconds: f64 = self.parse(name)?;
        Duration::try_from_secs_f64(seconds).map_err(|_| self.refused(name, &seconds.to_string()))
    }

    /// A number of decimal gigabytes, in bytes.
    pub(super) fn gigabytes(&self, name: &str) -> Result<u64, ConfigError> {
        Ok((self.parse::<f64>(name)? * 1e9).round() as u64)
    }

    pub(super) fn choose<T: Copy>(
        &self,
        name: &str,
        choices: &[(&str, T)],
    ) -> Result<T, ConfigError> {
        let text = self.text(name)?;
        choices
            .iter()
            .find(|(word, _)| *word == text)
            .map(|(_, choice)| *choice)
            .ok_or_else(|| self.refused(name, &text))
    }

    fn refused(&self, name: &str, text: &str) -> ConfigError {
        match self.entry(name) {
            Some(entry) => ConfigError::refused(entry.setting, text),
            None => ConfigError::new(name, "is not a setting"),
        }
    }
}
