//! `/v1/models`: the models of the catalogue, those that workers have, those in the registry, and the OpenAI ids they
//! serve. One shape for our own clients and OpenAI's: theirs read `id`, `object`, `created` and `owned_by`.
//!
//! The API moves no files: it writes what is wanted into the registry, and workers do it.

use std::collections::BTreeMap;

use dalston_schema::ArtifactKey;
use dalston_schema::capability::OfferedCapability;
use dalston_schema::catalogue::{self, Entry, Meaning, Precision, Resolution, Wish};
use dalston_schema::db::models::{self, PullOutcome, RegisteredModel, RemoveOutcome};
use dalston_schema::db::workers;
use dalston_schema::{Stage, db};
use poem::Request;
use poem::http::StatusCode;
use poem_openapi::param::{Path, Query};
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use serde_json::json;

use super::model_object::{Known, ModelEdit, ModelObject};
use crate::auth::{Caller, Permission};
use crate::body::Body;
use crate::document::Tag;
use crate::error::ApiError;
use crate::openai::dialect;
use crate::state::App;

/// States of a model.
const STATUSES: [&str; 4] = ["not_downloaded", "downloading", "ready", "failed"];

/// Models.
#[derive(Object)]
pub struct ModelList {
    /// Always `list`.
    object: String,
    /// The models.
    data: Vec<ModelObject>,
}

/// How to pull a model.
#[derive(Debug, Default, Object)]
#[oai(default)]
pub struct PullRequest {
    /// Fetch it although it is there.
    force: bool,
}

/// What came of asking for a pull.
#[derive(Debug, Object)]
pub struct PullAnswer {
    /// In words.
    message: String,
    /// The model.
    model_id: String,
    /// `ready` or `downloading`.
    status: String,
}

/// What came of a removal, for our own clients and OpenAI's.
#[derive(Debug, Object)]
pub struct RemovalAnswer {
    /// In words.
    message: String,
    /// The model.
    model_id: String,
    /// The same.
    id: String,
    /// Always `model`.
    object: String,
    /// Always true.
    deleted: bool,
}

/// What a synchronisation did.
#[derive(Debug, Object)]
pub struct SyncAnswer {
    /// Models whose state was wrong.
    updated: i32,
    /// Models whose state was right.
    unchanged: i32,
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
        let stages = Stage::ALL.map(Stage::as_str);
        one_of("stage", stage.0.as_deref(), &stages)?;
        one_of("status", status.0.as_deref(), &STATUSES)?;
        let matches = |wanted: &Option<String>, value: &str| {
            wanted
                .as_deref()
                .filter(|wanted| !wanted.is_empty())
                .is_none_or(|wanted| wanted == value)
        };
        let mut data = Shelf::read(&self.0).await?.all();
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
        let found = Shelf::read(&self.0).await?.one(&id.0);
        found.map(Json).ok_or_else(|| {
            if dialect::is_openai_client(request) {
                let kind = "invalid_request_error";
                let code = Some("model_not_found");
                let message = unknown(&id.0).message();
                ApiError::openai(StatusCode::NOT_FOUND, kind, code, message, Some("model"))
            } else {
                unknown(&id.0)
            }
        })
    }

    /// Say something about a model.
    ///
    /// What is said goes before what the catalogue and the model's files say.
    #[oai(path = "/v1/models/:id", method = "patch")]
    async fn edit(
        &self,
        caller: Caller,
        id: Path<String>,
        edit: Body<ModelEdit>,
    ) -> Result<Json<ModelObject>, ApiError> {
        caller.require(Permission::ModelWrite)?;
        let shelf = Shelf::read(&self.0).await?;
        let model = shelf.real_id(&id.0).ok_or_else(|| unknown(&id.0))?;
        let said = edit.0.overrides()?;
        if said.as_object().is_some_and(|said| !said.is_empty()) {
            models::edit(&self.0.pool, &model, &said).await?;
            caller
                .audit(
                    &self.0,
                    "model.updated",
                    ("model", model.clone()),
                    Some(said),
                )
                .await;
        }
        let found = Shelf::read(&self.0).await?.one(&model);
        found.map(Json).ok_or_else(|| unknown(&id.0))
    }

    /// Pull a model.
    ///
    /// A worker fetches it in the background: watch `status`, `downloaded_bytes` and `download_progress` of the model.
    /// Besides the models of the catalogue, any hub repository with an ONNX export that Dalston runs can be pulled.
    #[oai(path = "/v1/models/:id/pull", method = "post")]
    async fn pull(
        &self,
        caller: Caller,
        id: Path<String>,
        options: Body<Option<PullRequest>>,
    ) -> Result<Json<PullAnswer>, ApiError> {
        caller.require(Permission::ModelPull)?;
        let force = options.0.is_some_and(|options| options.force);
        let shelf = Shelf::read(&self.0).await?;
        let model = shelf
            .real_id(&id.0)
            .or_else(|| is_repository(&id.0).then(|| id.0.clone()))
            .ok_or_else(|| unknown(&id.0))?;
        let entry = catalogue::entry(&model);
        let outcome = if entry.is_some_and(|entry| entry.bundled) {
            PullOutcome::Ready
        } else {
            let kind = entry.map(|entry| (entry.engine.as_str(), entry.stage.as_str()));
            let expected = entry.map(|entry| entry.size_bytes(Precision::default()));
            models::request_pull(&self.0.pool, &model, kind, expected, force).await?
        };
        let (message, status) = match outcome {
            PullOutcome::Ready => ("Model already downloaded", "ready"),
            PullOutcome::InProgress => ("Model download already in progress", "downloading"),
            PullOutcome::Started => ("Download started", "downloading"),
        };
        if outcome == PullOutcome::Started {
            let detail = Some(json!({ "force": force }));
            let resource = ("model", model.clone());
            caller
                .audit(&self.0, "model.pull_requested", resource, detail)
                .await;
        }
        Ok(Json(PullAnswer {
            message: message.to_owned(),
            model_id: model,
            status: status.to_owned(),
        }))
    }

    /// Remove a model.
    ///
    /// Every worker deletes its files within seconds. With `purge` what users and the hub said of it is forgotten too.
    #[oai(path = "/v1/models/:id", method = "delete")]
    async fn remove(
        &self,
        caller: Caller,
        id: Path<String>,
        /// Forget it altogether.
        #[oai(default)]
        purge: Query<bool>,
    ) -> Result<Json<RemovalAnswer>, ApiError> {
        caller.require(Permission::ModelDelete)?;
        let shelf = Shelf::read(&self.0).await?;
        let model = shelf.real_id(&id.0).ok_or_else(|| unknown(&id.0))?;
        if catalogue::entry(&model).is_some_and(|entry| entry.bundled) {
            return Err(ApiError::conflict(format!(
                "Model {model} comes with Dalston and would be there again at the next start; it needs no removing"
            )));
        }
        match models::remove(&self.0.pool, &model, purge.0).await? {
            RemoveOutcome::Missing => return Err(unknown(&id.0)),
            RemoveOutcome::Used => {
                return Err(ApiError::conflict(format!(
                    "Model {model} is needed by unfinished jobs; wait for them, or cancel them first"
                )));
            }
            RemoveOutcome::Removed => {}
        }
        // The registry has forgotten these objects: what stays behind is never read again.
        let objects = ArtifactKey::model_prefix(&model);
        if let Err(error) = self.0.storage.delete_prefix(&objects).await {
            tracing::warn!(%error, model, "the objects of {model} could not be deleted");
        }
        let (message, action) = if purge.0 {
            ("Model deleted from registry", "model.deleted_from_registry")
        } else {
            ("Model files removed", "model.removed")
        };
        caller
            .audit(&self.0, action, ("model", model.clone()), None)
            .await;
        Ok(Json(RemovalAnswer {
            message: message.to_owned(),
            model_id: model.clone(),
            id: model,
            object: "model".to_owned(),
            deleted: true,
        }))
    }

    /// Bring the registry in line with what the workers have.
    #[oai(path = "/v1/models/sync", method = "post")]
    async fn sync(&self, caller: Caller) -> Result<Json<SyncAnswer>, ApiError> {
        caller.require(Permission::ModelSync)?;
        let (updated, unchanged) = models::sync(&self.0.pool).await?;
        Ok(Json(SyncAnswer { updated, unchanged }))
    }
}

/// A filter that no model can pass is a mistake; an empty one is none.
fn one_of(name: &str, wanted: Option<&str>, known: &[&str]) -> Result<(), ApiError> {
    let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty() && !known.contains(wanted)) else {
        return Ok(());
    };
    let message = format!("Input should be one of: {}", known.join(", "));
    Err(ApiError::invalid_query(name, message, wanted))
}

fn unknown(id: &str) -> ApiError {
    ApiError::not_found(format!("Model not found in registry: {id}"))
}

/// Whether a name has the form of a hub repository, `organisation/name`.
pub(super) fn is_repository(id: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && !part.contains("--")
            && !part.contains("..")
            && !part.ends_with(['.', '-'])
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
    };
    id.len() <= 96
        && id
            .split_once('/')
            .is_some_and(|(owner, name)| part(owner) && part(name))
}

/// Everything that is known of models at one moment.
struct Shelf {
    offered: Vec<OfferedCapability>,
    rows: BTreeMap<String, RegisteredModel>,
}

impl Shelf {
    async fn read(app: &App) -> Result<Self, db::DbError> {
        let rows = models::list(&app.pool).await?;
        Ok(Self {
            offered: workers::offered(&app.pool).await?,
            rows: rows.into_iter().map(|row| (row.id.clone(), row)).collect(),
        })
    }

    fn offer(&self, id: &str) -> Option<&OfferedCapability> {
        self.offered
            .iter()
            .find(|offer| offer.capability.model == id)
    }

    fn object(&self, id: &str) -> ModelObject {
        let known = Known {
            entry: catalogue::entry(id),
            offer: self.offer(id),
            row: self.rows.get(id),
        };
        known.object(id)
    }

    /// Whether a worker or the registry knows exactly this id.
    fn has(&self, id: &str) -> bool {
        self.rows.contains_key(id) || self.offer(id).is_some()
    }

    fn is_present(&self, entry: &Entry) -> bool {
        self.offer(&entry.id).is_some()
            || self
                .rows
                .get(&entry.id)
                .is_some_and(|row| row.status == "ready")
    }

    /// Every model worth listing: those of the catalogue this version can run, those only workers or the registry know,
    /// and OpenAI's ids.
    fn all(&self) -> Vec<ModelObject> {
        let published = catalogue::entries()
            .iter()
            .filter(|entry| catalogue::catalogue().serves(&entry.engine))
            .map(|entry| entry.id.as_str());
        let offered = self
            .offered
            .iter()
            .map(|offer| offer.capability.model.as_str());
        let mut ids: Vec<&str> = published
            .chain(offered.filter(|id| !id.is_empty()))
            .chain(self.rows.keys().map(String::as_str))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let mut listed: Vec<ModelObject> = ids.into_iter().map(|id| self.object(id)).collect();
        // What can be used at once comes first.
        listed.sort_by_key(|model| model.status != "ready");
        listed.extend(dialect::models().filter_map(|model| self.one(model.id)));
        listed
    }

    /// The id of the model that a name stands for; of several the first that is present.
    fn real_id(&self, name: &str) -> Option<String> {
        if self.has(name) {
            return Some(name.to_owned());
        }
        let entry = match catalogue::catalogue().meaning(name) {
            Meaning::Model(entry) => entry,
            Meaning::Alias(entries) => {
                let present = entries.iter().find(|entry| self.is_present(entry));
                present.or(entries.first()).copied()?
            }
            Meaning::Engines(_)
            | Meaning::Auto
            | Meaning::Unavailable { .. }
            | Meaning::Unknown => return None,
        };
        Some(entry.id.clone())
    }

    /// The model behind a name; its id in the answer is the name that was asked for.
    fn one(&self, name: &str) -> Option<ModelObject> {
        let mut found = match self.real_id(name) {
            Some(id) => self.object(&id),
            None if dialect::models().any(|model| model.id == name) => self.openai_model(name)?,
            None => return None,
        };
        name.clone_into(&mut found.id);
        Some(found)
    }

    /// One of OpenAI's ids, served by the best model of the engine that stands in for it.
    fn openai_model(&self, id: &str) -> Option<ModelObject> {
        let resolution: Resolution<'_> =
            catalogue::resolve(id, &Wish::transcribe(None), &self.offered);
        let mut found = match resolution.chosen() {
            Some(offer) => self.object(&offer.capability.model),
            None => {
                let entry = catalogue::entries()
                    .iter()
                    .find(|entry| entry.stage == Stage::Transcribe)?;
                let mut absent = self.object(&entry.id);
                "not_downloaded".clone_into(&mut absent.status);
                absent
            }
        };
        found.name = None;
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;

    fn shelf(ids: &[&str]) -> Shelf {
        let offered = ids
            .iter()
            .map(|id| catalogue::entry(id).unwrap().offered("cpu", 5));
        Shelf {
            offered: offered.collect(),
            rows: BTreeMap::new(),
        }
    }

    #[test]
    fn present_models_come_first_and_openai_ids_are_listed() {
        let listed = shelf(&["whisper-nano"]).all();
        let ids: Vec<_> = listed.iter().map(|model| model.id.as_str()).collect();
        assert_eq!(ids[0], "whisper-nano");
        assert!(ids.contains(&"whisper-1") && ids.contains(&"gpt-4o-transcribe"));
        assert_eq!(listed[0].status, "ready");
        assert!(listed.iter().any(|model| model.status == "not_downloaded"));
    }

    #[test]
    fn other_names_answer_with_the_name_that_was_asked_for() {
        let shelf_with_nano = shelf(&["whisper-nano"]);
        let found = shelf_with_nano.one("Systran/faster-whisper-base").unwrap();
        assert_eq!(
            (found.id.as_str(), found.status.as_str()),
            ("Systran/faster-whisper-base", "not_downloaded")
        );
        assert_ne!(found.loaded_model_id, found.id);
        let found = shelf_with_nano.one("whisper-1").unwrap();
        assert_eq!(
            (found.id.as_str(), found.loaded_model_id.as_str()),
            ("whisper-1", "whisper-nano")
        );
        assert!(shelf_with_nano.one("org/nothing here").is_none());
        assert!(shelf(&[]).one("whisper-1").unwrap().status == "not_downloaded");
    }

    #[test]
    fn only_a_plain_organisation_and_name_is_a_repository() {
        for (id, expected) in [
            ("openai/whisper-base", true),
            ("whisper", false),
            ("a/b/c", false),
            ("../etc", false),
            ("a/..", false),
            ("a/b c", false),
            ("/a", false),
        ] {
            assert_eq!(is_repository(id), expected, "{id}");
        }
    }
}
