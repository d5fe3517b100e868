//! `/v1/models`: the models of the catalogue, those that workers have, and the OpenAI ids they serve. One shape for our
//! own clients and OpenAI's: theirs read `id`, `object`, `created` and `owned_by`.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeZone, Utc};
use dalston_schema::capability::OfferedCapability;
use dalston_schema::catalogue::{self, Entry, Meaning, Precision, Resolution, Wish};
use dalston_schema::db::workers;
use dalston_schema::{Stage, catalogue as models};
use poem::Request;
use poem::http::StatusCode;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};

use crate::auth::{Caller, Permission};
use crate::document::Tag;
use crate::error::ApiError;
use crate::openai::dialect;
use crate::state::App;
use crate::timestamp::Timestamp;

/// What hubs say of a model.
#[derive(Clone, Debug, Default, Object)]
#[oai(rename = "ModelMetadata")]
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
    error: Option<String>,
}

/// A model.
#[derive(Clone, Debug, Object)]
#[oai(rename = "Model")]
pub struct ModelObject {
    /// Its id.
    id: String,
    /// Always `model`.
    object: String,
    /// When it was published here, in seconds since 1970.
    created: i64,
    /// Whose it is.
    owned_by: String,
    /// Name for people.
    name: Option<String>,
    /// Engine that runs it.
    engine_id: String,
    /// The model that is really loaded.
    loaded_model_id: String,
    /// Stage it serves.
    stage: String,
    /// `not_downloaded`, `downloading`, `ready` or `failed`.
    status: String,
    /// Where its files are.
    download_path: Option<String>,
    /// Bytes of its files.
    size_bytes: Option<u64>,
    /// Bytes a download will have.
    expected_total_bytes: Option<u64>,
    /// Bytes downloaded.
    downloaded_bytes: Option<u64>,
    /// Per cent downloaded.
    download_progress: Option<i32>,
    /// When that was written.
    progress_updated_at: Option<Timestamp>,
    /// When the download ended.
    downloaded_at: Option<Timestamp>,
    /// Where it comes from.
    source: Option<String>,
    /// Library of its files.
    library_name: Option<String>,
    /// Languages it knows; null when multilingual.
    languages: Option<Vec<String>>,
    /// It gives words with times.
    word_timestamps: bool,
    /// It writes punctuation.
    punctuation: bool,
    /// It writes capital letters.
    capitalization: bool,
    /// It can transcribe live.
    native_streaming: bool,
    /// Memory it needs on a GPU.
    min_vram_gb: Option<f64>,
    /// Memory it needs on a CPU.
    min_ram_gb: Option<f64>,
    /// It runs on a CPU.
    supports_cpu: bool,
    /// Who described it: `yaml`, `user` or `hf`.
    metadata_source: String,
    /// What hubs say of it.
    metadata: MetadataObject,
    /// When it was last used.
    last_used_at: Option<Timestamp>,
    /// When it was entered.
    created_at: Timestamp,
    /// When it was last changed.
    updated_at: Timestamp,
}

/// Models.
#[derive(Object)]
pub struct ModelList {
    /// Always `list`.
    object: String,
    /// The models.
    data: Vec<ModelObject>,
}

/// The model endpoints.
pub struct ModelsApi(pub App);

#[OpenApi(tag = "Tag::Models")]
impl ModelsApi {
    /// List models.
    #[oai(path = "/v1/models", method = "get")]
    async fn list(
        &self,
        caller: Caller,
        /// Only models of this engine.
        engine_id: Query<Option<String>>,
        /// Only models of this stage.
        stage: Query<Option<String>>,
        /// Only models in this state.
        status: Query<Option<String>>,
    ) -> Result<Json<ModelList>, ApiError> {
        caller.require(Permission::ModelRead)?;
        let offered = workers::offered(&self.0.pool).await?;
        let matches = |wanted: &Option<String>, value: &str| {
            wanted
                .as_deref()
                .filter(|wanted| !wanted.is_empty())
                .is_none_or(|wanted| wanted == value)
        };
        let mut data = all(&offered);
        data.retain(|model| {
            matches(&engine_id.0, &model.engine_id)
                && matches(&stage.0, &model.stage)
                && matches(&status.0, &model.status)
        });
        Ok(Json(ModelList {
            object: "list".to_owned(),
            data,
        }))
    }

    /// Read a model.
    ///
    /// The id may contain slashes, encoded or not, and may be another name of the model.
    #[oai(path = "/v1/models/:id", method = "get")]
    async fn get(
        &self,
        caller: Caller,
        request: &Request,
        id: Path<String>,
    ) -> Result<Json<ModelObject>, ApiError> {
        caller.require(Permission::ModelRead)?;
        let offered = workers::offered(&self.0.pool).await?;
        let found = one(&id.0, &offered);
        found.map(Json).ok_or_else(|| {
            let message = format!("Model not found in registry: {}", id.0);
            if dialect::is_openai_client(request) {
                let kind = "invalid_request_error";
                let code = Some("model_not_found");
                ApiError::openai(StatusCode::NOT_FOUND, kind, code, message, Some("model"))
            } else {
                ApiError::not_found(message)
            }
        })
    }
}

/// Every model worth listing: those of the catalogue this version can run, those only workers know, and OpenAI's ids.
fn all(offered: &[OfferedCapability]) -> Vec<ModelObject> {
    let mut found: BTreeMap<String, ModelObject> = catalogue::entries()
        .iter()
        .filter(|entry| catalogue::catalogue().serves(&entry.engine))
        .map(|entry| (entry.id.clone(), of_entry(entry, offered)))
        .collect();
    for offer in offered
        .iter()
        .filter(|offer| !offer.capability.model.is_empty())
    {
        found
            .entry(offer.capability.model.clone())
            .or_insert_with(|| of_offer(offer));
    }
    let mut listed: Vec<ModelObject> = found.into_values().collect();
    // What can be used at once comes first.
    listed.sort_by_key(|model| model.status != "ready");
    listed.extend(dialect::models().filter_map(|model| one(model.id, offered)));
    listed
}

/// The model behind a name; its id in the answer is the name that was asked for.
fn one(id: &str, offered: &[OfferedCapability]) -> Option<ModelObject> {
    if let Some(offer) = offered.iter().find(|offer| offer.capability.model == id) {
        return Some(match catalogue::entry(id) {
            Some(entry) => of_entry(entry, offered),
            None => of_offer(offer),
        });
    }
    let mut found = match catalogue::catalogue().meaning(id) {
        Meaning::Model(entry) => of_entry(entry, offered),
        Meaning::Alias(entries) => {
            let present = |entry: &&&'static Entry| is_present(entry, offered);
            let entry = entries.iter().find(present).or(entries.first())?;
            of_entry(entry, offered)
        }
        Meaning::Engines(_) if dialect::models().any(|model| model.id == id) => {
            openai_model(id, offered)?
        }
        Meaning::Engines(_) | Meaning::Auto | Meaning::Unavailable { .. } | Meaning::Unknown => {
            return None;
        }
    };
    id.clone_into(&mut found.id);
    Some(found)
}

/// One of OpenAI's ids, served by the best model of the engine that stands in for it.
fn openai_model(id: &str, offered: &[OfferedCapability]) -> Option<ModelObject> {
    let resolution: Resolution<'_> = models::resolve(id, &Wish::transcribe(None), offered);
    let mut found = match resolution.chosen() {
        Some(offer) => catalogue::entry(&offer.capability.model)
            .map_or_else(|| of_offer(offer), |entry| of_entry(entry, offered)),
        None => {
            let entry = catalogue::entries()
                .iter()
                .find(|entry| entry.stage == Stage::Transcribe)?;
            let mut absent = of_entry(entry, offered);
            "not_downloaded".clone_into(&mut absent.status);
            absent
        }
    };
    id.clone_into(&mut found.id);
    found.name = None;
    Some(found)
}

fn is_present(entry: &Entry, offered: &[OfferedCapability]) -> bool {
    offered
        .iter()
        .any(|offer| offer.capability.model == entry.id)
}

fn of_entry(entry: &Entry, offered: &[OfferedCapability]) -> ModelObject {
    let offer = offered
        .iter()
        .find(|offer| offer.capability.model == entry.id);
    let expected = entry.size_bytes(Precision::default());
    ModelObject {
        name: Some(entry.name.clone()),
        expected_total_bytes: Some(expected),
        size_bytes: offer.map(|offer| offer.size_bytes),
        source: (!entry.bundled).then(|| entry.id.clone()),
        status: if offer.is_some() {
            "ready"
        } else {
            "not_downloaded"
        }
        .to_owned(),
        ..of_offer(&entry.offered("cpu", expected))
    }
}

fn of_offer(offer: &OfferedCapability) -> ModelObject {
    let id = &offer.capability.model;
    let entered = entered();
    ModelObject {
        id: id.clone(),
        object: "model".to_owned(),
        created: entered.timestamp(),
        owned_by: id
            .split_once('/')
            .map_or("dalston", |(owner, _)| owner)
            .to_owned(),
        name: None,
        engine_id: offer.capability.engine.clone(),
        loaded_model_id: id.clone(),
        stage: offer.capability.stage.as_str().to_owned(),
        status: "ready".to_owned(),
        download_path: None,
        size_bytes: Some(offer.size_bytes),
        expected_total_bytes: None,
        downloaded_bytes: None,
        download_progress: None,
        progress_updated_at: None,
        downloaded_at: None,
        source: None,
        library_name: Some("onnx".to_owned()),
        languages: offer.languages.clone(),
        word_timestamps: offer.native_words,
        punctuation: true,
        capitalization: true,
        native_streaming: false,
        min_vram_gb: None,
        min_ram_gb: None,
        supports_cpu: true,
        metadata_source: "yaml".to_owned(),
        metadata: MetadataObject::default(),
        last_used_at: None,
        created_at: entered.into(),
        updated_at: entered.into(),
    }
}

/// The catalogue is part of the program, so its entries are as old as its first release.
fn entered() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0)
        .single()
        .unwrap_or(DateTime::<Utc>::MIN_UTC)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn present() -> Vec<OfferedCapability> {
        vec![catalogue::entry("whisper-nano").unwrap().offered("cpu", 5)]
    }

    #[test]
    fn present_models_come_first_and_openai_ids_are_listed() {
        let listed = all(&present());
        let ids: Vec<_> = listed.iter().map(|model| model.id.as_str()).collect();
        assert_eq!(ids[0], "whisper-nano");
        assert!(ids.contains(&"whisper-1") && ids.contains(&"gpt-4o-transcribe"));
        assert_eq!(listed[0].status, "ready");
        assert!(listed.iter().any(|model| model.status == "not_downloaded"));
    }

    #[test]
    fn other_names_answer_with_the_name_that_was_asked_for() {
        let found = one("Systran/faster-whisper-base", &present()).unwrap();
        assert_eq!(
            (found.id.as_str(), found.status.as_str()),
            ("Systran/faster-whisper-base", "not_downloaded")
        );
        assert_ne!(found.loaded_model_id, found.id);
        let found = one("whisper-1", &present()).unwrap();
        assert_eq!(
            (found.id.as_str(), found.loaded_model_id.as_str()),
            ("whisper-1", "whisper-nano")
        );
        assert!(one("org/nothing here", &present()).is_none());
        assert!(one("whisper-1", &[]).unwrap().status == "not_downloaded");
    }
}
