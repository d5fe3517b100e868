//! What the store knows about a model: `dalston.json` in its folder. It is written last, so a folder that has one is
//! complete.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use dalston_schema::capability::{Capability, OfferedCapability};
use dalston_schema::catalogue::{Entry, vocabulary_method};
use dalston_schema::task::Stage;
use serde::{Deserialize, Serialize};

use super::error::{ModelStoreError, Result};
use super::model_id::ModelId;

/// Name of the manifest in a model's folder.
pub const MANIFEST: &str = "dalston.json";

/// A model's manifest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Model id.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Engine that runs it.
    pub engine: String,
    /// Stage it serves.
    pub stage: Stage,
    /// Layout of its folder, as named in the catalogue.
    pub layout: String,
    /// Where it is from.
    pub source: Source,
    /// Languages (ISO 639-1); `None` when multilingual.
    pub languages: Option<Vec<String>>,
    /// The engine gives word times itself with this model.
    pub words: bool,
    /// It can translate to English.
    pub translates: bool,
    /// When it was put here.
    pub imported_at: DateTime<Utc>,
    /// Its files, in order of path.
    pub files: Vec<ModelFile>,
}

impl Manifest {
    /// The manifest of a catalogue entry with these files.
    #[must_use]
    pub fn of_entry(entry: &Entry, source: Source, files: Vec<ModelFile>) -> Self {
        Self {
            id: entry.id.clone(),
            name: entry.name.clone(),
            engine: entry.engine.clone(),
            stage: entry.stage,
            layout: entry.layout.clone(),
            source,
            languages: entry.languages.clone(),
            words: entry.words,
            translates: entry.translates,
            imported_at: Utc::now(),
            files,
        }
    }

    /// What a worker with the model can do.
    #[must_use]
    pub fn capability(&self) -> Capability {
        Capability {
            stage: self.stage,
            engine: self.engine.clone(),
            model: self.id.clone(),
        }
    }
}

/// Where a model is from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Source {
    /// It came with the program.
    Bundled,
    /// It was pulled from a hub.
    Hub {
        /// Repository, `organisation/name`.
        repository: String,
        /// Commit it was pulled at, or the revision's name where the hub did not tell.
        revision: String,
    },
    /// It was imported.
    Folder {
        /// The folder it was copied from.
        path: PathBuf,
    },
}

/// One file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelFile {
    /// Path in the model's folder, with `/`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256, lower-case hex.
    pub sha256: String,
}

/// A model in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct InstalledModel {
    /// Its folder.
    pub folder: PathBuf,
    /// Its manifest.
    pub manifest: Manifest,
}

impl InstalledModel {
    /// Reads a model's folder.
    ///
    /// # Errors
    /// [`ModelStoreError::Manifest`] when the manifest is missing, unreadable or another model's.
    pub(super) fn read(folder: &Path, id: &ModelId) -> Result<Self> {
        let path = folder.join(MANIFEST);
        let invalid = |message: String| ModelStoreError::Manifest {
            path: path.clone(),
            message,
        };
        let text = std::fs::read(&path).map_err(|error| invalid(error.to_string()))?;
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| invalid(error.to_string()))?;
        if manifest.id != id.as_str() {
            return Err(invalid(format!("it is the manifest of {}", manifest.id)));
        }
        Ok(Self {
            folder: folder.to_owned(),
            manifest,
        })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// Bytes of its files.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.size).sum()
    }

    /// The capability of a worker that holds this model on `device` (`cpu` or `cuda`).
    #[must_use]
    pub fn offered(&self, device: &str) -> OfferedCapability {
        OfferedCapability {
            languages: self.manifest.languages.clone(),
            native_words: self.manifest.words,
            translates: self.manifest.translates,
            size_bytes: self.size_bytes(),
            device: device.to_owned(),
            vocabulary_method: vocabulary_method(&self.manifest.engine).to_owned(),
            ..OfferedCapability::new(self.manifest.capability())
        }
    }
}
