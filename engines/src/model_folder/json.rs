//! A folder's JSON files, with errors that name the file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{EngineError, Result};

/// A JSON object and the file it is from.
#[derive(Clone)]
pub(crate) struct Json {
    pub path: PathBuf,
    pub value: Value,
}

impl Json {
    pub(crate) fn optional(folder: &Path, name: &str) -> Result<Option<Self>> {
        let path = folder.join(name);
        if !path.is_file() {
            return Ok(None);
        }
        let invalid = |message: String| EngineError::ModelInvalid {
            path: path.clone(),
            message,
        };
        let text = std::fs::read_to_string(&path).map_err(|error| invalid(error.to_string()))?;
        let value = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        Ok(Some(Self { path, value }))
    }

    pub(crate) fn required(folder: &Path, name: &str) -> Result<Self> {
        Self::optional(folder, name)?.ok_or_else(|| EngineError::ModelFileMissing {
            folder: folder.to_owned(),
            file: name.to_owned(),
            remedy: "fetch the folder again, it is not a complete export".to_owned(),
        })
    }

    /// `null` counts as absent.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.value.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        self.get(key)
            .and_then(Value::as_u64)
            .and_then(|size| usize::try_from(size).ok())
            .filter(|&size| size > 0)
            .ok_or_else(|| self.invalid(format!("{key} is missing or not a positive number")))
    }

    pub(crate) fn invalid(&self, message: String) -> EngineError {
        EngineError::ModelInvalid {
            path: self.path.clone(),
            message,
        }
    }
}

pub(crate) fn token(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

pub(crate) fn token_list(value: &Value) -> Option<Vec<u32>> {
    value.as_array()?.iter().map(token).collect()
}
