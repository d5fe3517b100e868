//! A model as the API shows it: the catalogue's entry, what workers offer, what the registry knows, and on top what users
//! said of it.

use chrono::{DateTime, TimeZone, Utc};
use dalston_schema::Stage;
use dalston_schema::capability::{Capability, OfferedCapability};
use dalston_schema::catalogue::{Entry, Precision};
use dalston_schema::db::models::RegisteredModel;
use poem_openapi::Object;
use poem_openapi::types::{MaybeUndefined, ToJSON};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::language;
use crate::timestamp::Timestamp;

/// What hubs say of a model.
#[derive(Clone, Debug, Default, Deserialize, Object)]
#[oai(rename = "ModelMetadata")]
#[serde(default)]
pub struct MetadataObject {
    /// Downloads.
    downloads: Option<i64>,
    /// Likes.
    likes: Option<i64>,
    /// Tags.
    tags: Option<Vec<String>>,
    /// What it is for.
    pipeline_tag: Option<String>,
    /// Why the last download failed.
    #[serde(skip)]
    error: Option<String>,
}

/// A model.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Model")]
pub struct ModelObject {
    /// Its id.
    pub(super) id: String,
    /// Always `model`.
    pub(super) object: String,
    /// When it was published here, in seconds since 1970.
    pub(super) created: i64,
    /// Whose it is.
    pub(super) owned_by: String,
    /// Name for people.
    pub(super) name: Option<String>,
    /// Engine that runs it.
    pub(super) engine_id: String,
    /// The model that is really loaded.
    pub(super) loaded_model_id: String,
    /// Stage it serves.
    pub(super) stage: String,
    /// `not_downloaded`, `downloading`, `ready` or `failed`.
    pub(super) status: String,
    /// Where its files are.
    pub(super) download_path: Option<String>,
    /// Bytes of its files.
    pub(super) size_bytes: Option<u64>,
    /// Bytes a download will have.
    pub(super) expected_total_bytes: Option<u64>,
    /// Bytes downloaded.
    pub(super) downloaded_bytes: Option<u64>,
    /// Per cent downloaded.
    pub(super) download_progress: Option<i32>,
    /// When that was written.
    pub(super) progress_updated_at: Option<Timestamp>,
    /// When the download ended.
    pub(super) downloaded_at: Option<Timestamp>,
    /// Where it comes from.
    pub(super) source: Option<String>,
    /// Library of its files.
    pub(super) library_name: Option<String>,
    /// Languages it knows; null when multilingual.
    pub(super) languages: Option<Vec<String>>,
    /// It gives words with times.
    pub(super) word_timestamps: bool,
    /// It writes punctuation.
    pub(super) punctuation: bool,
    /// It writes capital letters.
    pub(super) capitalization: bool,
    /// It can transcribe live.
    pub(super) native_streaming: bool,
    /// Memory it needs on a GPU.
    pub(super) min_vram_gb: Option<f64>,
    /// Memory it needs on a CPU.
    pub(super) min_ram_gb: Option<f64>,
    /// It runs on a CPU.
    pub(super) supports_cpu: bool,
    /// Who described it: `yaml`, `user` or `hf`.
    pub(super) metadata_source: String,
    /// What hubs say of it.
    pub(super) metadata: MetadataObject,
    /// When it was last used.
    pub(super) last_used_at: Option<Timestamp>,
    /// When it was entered.
    pub(super) created_at: Timestamp,
    /// When it was last changed.
    pub(super) updated_at: Timestamp,
}

/// What a user says of a model. What is left out stays as it is.
#[derive(Clone, Debug, Default, Object)]
#[oai(deny_unknown_fields)]
pub struct ModelEdit {
    /// Name for people.
    name: MaybeUndefined<String>,
    /// Languages it knows (ISO 639-1); null for a multilingual one. `auto` chooses by them.
    languages: MaybeUndefined<Vec<String>>,
    /// It gives words with times.
    word_timestamps: MaybeUndefined<bool>,
    /// It writes punctuation.
    punctuation: MaybeUndefined<bool>,
    /// It writes capital letters.
    capitalization: MaybeUndefined<bool>,
    /// It can transcribe live.
    native_streaming: MaybeUndefined<bool>,
    /// Memory it needs on a GPU.
    min_vram_gb: MaybeUndefined<f64>,
    /// Memory it needs on a CPU.
    min_ram_gb: MaybeUndefined<f64>,
    /// It runs on a CPU.
    supports_cpu: MaybeUndefined<bool>,
}

impl ModelEdit {
    /// What was said, as the registry keeps it.
    ///
    /// # Errors
    /// 422 for a language that there is not.
    pub fn overrides(&self) -> Result<Value, ApiError> {
        if let MaybeUndefined::Value(languages) = &self.languages {
            for text in languages {
                if language::read(text)?.is_none_or(|code| code != *text) {
                    return Err(ApiError::invalid_field(
                        "languages",
                        "Input should be ISO 639-1 language codes such as en",
                        text,
                    ));
                }
            }
        }
        let mut said = Map::new();
        let mut add = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                said.insert(name.to_owned(), value);
            }
        };
        add("name", json(&self.name));
        add("languages", json(&self.languages));
        add("word_timestamps", json(&self.word_timestamps));
        add("punctuation", json(&self.punctuation));
        add("capitalization", json(&self.capitalization));
        add("native_streaming", json(&self.native_streaming));
        add("min_vram_gb", json(&self.min_vram_gb));
        add("min_ram_gb", json(&self.min_ram_gb));
        add("supports_cpu", json(&self.supports_cpu));
        Ok(Value::Object(said))
    }
}

/// `None` for what was left out; JSON null for null.
fn json<T: ToJSON>(value: &MaybeUndefined<T>) -> Option<Value> {
    match value {
        MaybeUndefined::Undefined => None,
        MaybeUndefined::Null => Some(Value::Null),
        MaybeUndefined::Value(value) => value.to_json(),
    }
}

/// What is known of one model, from all that know something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known<'a> {
    /// The catalogue's word.
    pub entry: Option<&'a Entry>,
    /// What a worker offers.
    pub offer: Option<&'a OfferedCapability>,
    /// What the registry knows.
    pub row: Option<&'a RegisteredModel>,
}

impl Known<'_> {
    /// The model as the API shows it.
    #[must_use]
    pub fn object(&self, id: &str) -> ModelObject {
        let guess;
        let offer = match (self.offer, self.entry) {
            (Some(offer), _) => offer,
            (None, Some(entry)) => {
                guess = entry.offered("cpu", entry.size_bytes(Precision::default()));
                &guess
            }
            (None, None) => {
                guess = OfferedCapability::new(self.capability(id));
                &guess
            }
        };
        let row = self.row;
        let status = self.status();
        let transcribes = offer.capability.stage == Stage::Transcribe;
        let expected = row.and_then(|row| bytes(row.expected_bytes)).or(self
            .entry
            .map(|entry| entry.size_bytes(Precision::default())));
        let downloaded = row.and_then(|row| bytes(row.downloaded_bytes));
        // Whatever becomes of a model of the catalogue here, it was published when it was published.
        let created = row
            .filter(|_| self.entry.is_none())
            .map_or_else(entered, |row| row.created_at);
        let mut object = ModelObject {
            id: id.to_owned(),
            object: "model".to_owned(),
            created: created.timestamp(),
            owned_by: id
                .split_once('/')
                .map_or("dalston", |(owner, _)| owner)
                .to_owned(),
            name: self.entry.map(|entry| entry.name.clone()),
            engine_id: offer.capability.engine.clone(),
            loaded_model_id: id.to_owned(),
            stage: offer.capability.stage.as_str().to_owned(),
            status: status.to_owned(),
            download_path: row.and_then(|row| row.folder.clone()),
            size_bytes: (status == "ready").then(|| {
                row.and_then(|row| bytes(row.size_bytes))
                    .unwrap_or(offer.size_bytes)
            }),
            expected_total_bytes: expected,
            downloaded_bytes: downloaded,
            download_progress: percent(status, downloaded, expected),
            progress_updated_at: row.and_then(|row| row.progress_at).map(Into::into),
            downloaded_at: (status == "ready")
                .then(|| row.and_then(|row| row.downloaded_at).map(Into::into))
                .flatten(),
            source: id.contains('/').then(|| id.to_owned()),
            library_name: Some("onnx".to_owned()),
            languages: offer.languages.clone(),
            word_timestamps: offer.native_words,
            punctuation: transcribes,
            capitalization: transcribes,
            native_streaming: offer.streaming,
            min_vram_gb: None,
            min_ram_gb: (offer.memory_bytes > 0).then(|| gigabytes(offer.memory_bytes)),
            supports_cpu: true,
            metadata_source: "yaml".to_owned(),
            metadata: MetadataObject::default(),
            last_used_at: row.and_then(|row| row.last_used_at).map(Into::into),
            created_at: created.into(),
            updated_at: row.map_or_else(entered, |row| row.updated_at).into(),
        };
        if let Some(row) = row {
            object.add_hub(row, self.entry.is_none());
            object.override_with(&row.overrides);
        }
        object
    }

    fn capability(&self, id: &str) -> Capability {
        let row = self.row;
        Capability {
            stage: row
                .and_then(|row| row.stage.as_deref()?.parse().ok())
                .unwrap_or(Stage::Transcribe),
            engine: row.and_then(|row| row.engine.clone()).unwrap_or_default(),
            model: id.to_owned(),
        }
    }

    /// The registry's word; a worker that offers the model and has not announced its files yet counts too.
    fn status(&self) -> &str {
        match self.row {
            Some(row) if row.status != "not_downloaded" || row.removing => &row.status,
            _ if self.offer.is_some() => "ready",
            _ => "not_downloaded",
        }
    }
}

impl ModelObject {
    fn add_hub(&mut self, row: &RegisteredModel, unlisted: bool) {
        self.metadata = MetadataObject::deserialize(&row.hub).unwrap_or_default();
        self.metadata.error.clone_from(&row.error);
        if let Some(library) = row.hub.get("library_name").and_then(Value::as_str) {
            self.library_name = Some(library.to_owned());
        }
        if unlisted && row.hub.as_object().is_some_and(|said| !said.is_empty()) {
            "hf".clone_into(&mut self.metadata_source);
        }
    }

    fn override_with(&mut self, said: &Value) {
        let Some(said) = said.as_object().filter(|said| !said.is_empty()) else {
            return;
        };
        "user".clone_into(&mut self.metadata_source);
        let flag = |name: &str, field: &mut bool| {
            if let Some(value) = said.get(name).and_then(Value::as_bool) {
                *field = value;
            }
        };
        flag("word_timestamps", &mut self.word_timestamps);
        flag("punctuation", &mut self.punctuation);
        flag("capitalization", &mut self.capitalization);
        flag("native_streaming", &mut self.native_streaming);
        flag("supports_cpu", &mut self.supports_cpu);
        if let Some(name) = said.get("name") {
            self.name = name.as_str().map(str::to_owned);
        }
        if let Some(languages) = said.get("languages") {
            self.languages = Option::deserialize(languages).unwrap_or_default();
        }
        if let Some(gigabytes) = said.get("min_vram_gb") {
            self.min_vram_gb = gigabytes.as_f64();
        }
        if let Some(gigabytes) = said.get("min_ram_gb") {
            self.min_ram_gb = gigabytes.as_f64();
        }
    }
}

fn bytes(stored: Option<i64>) -> Option<u64> {
    stored.and_then(|stored| u64::try_from(stored).ok())
}

/// Gigabytes, rounded up to tenths.
fn gigabytes(bytes: u64) -> f64 {
    (bytes as f64 / 1e8).ceil() / 10.0
}

fn percent(status: &str, downloaded: Option<u64>, expected: Option<u64>) -> Option<i32> {
    match (status, downloaded, expected) {
        ("ready", ..) => Some(100),
        ("downloading", Some(downloaded), Some(expected)) if expected > 0 => {
            // Less than all until the files are checked and in place.
            i32::try_from(downloaded.saturating_mul(100) / expected)
                .ok()
                .map(|percent| percent.min(99))
        }
        ("downloading", ..) => Some(0),
        _ => None,
    }
}

/// The catalogue is part of the program, so its entries are as old as its first release.
fn entered() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0)
        .single()
        .unwrap_or(DateTime::<Utc>::MIN_UTC)
}
