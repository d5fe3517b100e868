//! `/v1/models/hf/…`: what a hub repository is, and which engine runs it. Its files decide; the hub's own labels only
//! where they do not.

use std::collections::HashMap;
use std::time::Duration;

use dalston_schema::catalogue::{self, Meaning, catalogue};
use dalston_schema::db::models;
use poem::http::StatusCode;
use poem_openapi::payload::Json;
use poem_openapi::{Object, OpenApi};
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use super::models::is_repository;
use crate::auth::{Caller, Permission};
use crate::body::Body;
use crate::document::Tag;
use crate::error::ApiError;
use crate::state::App;

/// The hub answers within this time, or it is away.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Tags told to clients.
const MAX_TAGS: usize = 20;

/// Where to ask about repositories.
#[derive(Clone, Debug)]
pub struct HubAccess {
    /// Base URL of the hub or a mirror.
    pub endpoint: String,
    /// Access token, sent to the endpoint only.
    pub token: Option<SecretString>,
    /// The network may not be used.
    pub offline: bool,
}

impl Default for HubAccess {
    fn default() -> Self {
        Self {
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            offline: false,
        }
    }
}

/// Which repository to look at.
#[derive(Debug, Object)]
pub struct ResolveRequest {
    /// The repository, `organisation/name`.
    model_id: String,
    /// Enter it in the registry of models.
    #[oai(default)]
    auto_register: bool,
}

/// What a repository is.
#[derive(Debug, Object)]
pub struct ResolvedRepository {
    /// The repository.
    model_id: String,
    /// Library of its files.
    library_name: Option<String>,
    /// What it is for.
    pipeline_tag: Option<String>,
    /// Tags, at most 20.
    tags: Vec<String>,
    /// Languages, from its tags.
    languages: Vec<String>,
    /// Downloads.
    downloads: i64,
    /// Likes.
    likes: i64,
    /// The engine it is for.
    resolved_engine_id: Option<String>,
    /// Whether `POST /v1/models/{id}/pull` would fetch a model that runs here.
    can_route: bool,
}

/// How labels of the hub map to engines.
#[derive(Debug, Object)]
pub struct HubMappings {
    /// By library.
    library_to_engine_id: HashMap<String, String>,
    /// By tag.
    tag_to_engine_id: HashMap<String, String>,
    /// The engines of this version.
    supported_engine_ids: Vec<String>,
}

/// The hub endpoints.
pub struct HubApi(pub App);

#[OpenApi(tag = "Tag::Models")]
impl HubApi {
    /// Look at a hub repository.
    #[oai(path = "/v1/models/hf/resolve", method = "post")]
    async fn resolve(
        &self,
        caller: Caller,
        request: Body<ResolveRequest>,
    ) -> Result<Json<ResolvedRepository>, ApiError> {
        caller.require(Permission::ModelPull)?;
        let id = request.0.model_id.trim();
        if !is_repository(id) {
            return Err(not_on_hub(id));
        }
        let info = ask(&self.0.config.hub, id).await?;
        let by_files = info.layout();
        let published = match catalogue().meaning(id) {
            Meaning::Model(entry) => Some(entry),
            Meaning::Alias(entries) => entries.first().copied(),
            _ => None,
        };
        let kind =
            by_files.or(published.map(|entry| (entry.engine.as_str(), entry.stage.as_str())));
        if request.0.auto_register {
            let said = json!({
                "library_name": info.library_name, "pipeline_tag": info.pipeline_tag,
                "tags": info.tags(), "downloads": info.downloads, "likes": info.likes,
            });
            models::describe(&self.0.pool, id, kind, &said).await?;
        }
        Ok(Json(ResolvedRepository {
            model_id: id.to_owned(),
            tags: info.tags(),
            languages: info.languages(),
            downloads: info.downloads,
            likes: info.likes,
            resolved_engine_id: kind
                .map(|(engine, _)| engine.to_owned())
                .or_else(|| info.labelled_engine()),
            can_route: kind.is_some(),
            library_name: info.library_name,
            pipeline_tag: info.pipeline_tag,
        }))
    }

    /// How labels of the hub map to engines.
    #[oai(path = "/v1/models/hf/mappings", method = "get")]
    async fn mappings(&self, caller: Caller) -> Result<Json<HubMappings>, ApiError> {
        caller.require(Permission::ModelRead)?;
        let hints = catalogue().hub();
        let map = |map: &std::collections::BTreeMap<String, String>| {
            map.iter()
                .map(|(label, engine)| (label.clone(), engine.clone()))
                .collect()
        };
        Ok(Json(HubMappings {
            library_to_engine_id: map(&hints.libraries),
            tag_to_engine_id: map(&hints.tags),
            supported_engine_ids: catalogue().served_engines().to_vec(),
        }))
    }
}

/// `/api/models/{repository}`, as far as it is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Info {
    library_name: Option<String>,
    pipeline_tag: Option<String>,
    tags: Vec<String>,
    downloads: i64,
    likes: i64,
    siblings: Vec<Sibling>,
    config: Option<Config>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    rfilename: String,
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(default)]
    model_type: Option<String>,
}

impl Info {
    /// Engine and stage that its files are for.
    fn layout(&self) -> Option<(&'static str, &'static str)> {
        let model_type = self
            .config
            .as_ref()
            .and_then(|config| config.model_type.as_deref());
        let has = |path: &str| self.siblings.iter().any(|file| file.rfilename == path);
        let (_, layout) = catalogue().layout_of(has, model_type)?;
        let entry = catalogue::entries()
            .iter()
            .find(|entry| entry.engine == layout.engine)?;
        Some((&layout.engine, entry.stage.as_str()))
    }

    /// The engine that the hub's labels speak of.
    fn labelled_engine(&self) -> Option<String> {
        let hints = catalogue().hub();
        let by_library = self
            .library_name
            .as_ref()
            .and_then(|library| hints.libraries.get(library));
        let by_tag = || self.tags.iter().find_map(|tag| hints.tags.get(tag));
        // A general library says nothing of what the model is for.
        let speech = self.pipeline_tag.as_deref() == Some("automatic-speech-recognition");
        by_tag().or(by_library.filter(|_| speech)).cloned()
    }

    fn tags(&self) -> Vec<String> {
        self.tags.iter().take(MAX_TAGS).cloned().collect()
    }

    /// Tags that are language codes.
    fn languages(&self) -> Vec<String> {
        let is_code =
            |tag: &&String| tag.len() == 2 && tag.bytes().all(|byte| byte.is_ascii_lowercase());
        self.tags.iter().filter(is_code).cloned().collect()
    }
}

async fn ask(hub: &HubAccess, id: &str) -> Result<Info, ApiError> {
    let away = |why: String| {
        ApiError::standard(
            StatusCode::BAD_GATEWAY,
            format!("The model hub cannot be asked about {id}: {why}"),
        )
    };
    if hub.offline {
        return Err(away("DALSTON_OFFLINE is set".to_owned()));
    }
    let url = format!("{}/api/models/{id}", hub.endpoint.trim_end_matches('/'));
    let url: Url = url
        .parse()
        .map_err(|_| away("HF_ENDPOINT is no URL".to_owned()))?;
    let loopback = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    let mut client = reqwest::Client::builder().timeout(TIMEOUT);
    if loopback {
        client = client.no_proxy();
    }
    let client = client.build().map_err(|error| away(error.to_string()))?;
    let mut request = client.get(url);
    if let Some(token) = &hub.token {
        request = request.bearer_auth(token.expose_secret());
    }
    let response = request
        .send()
        .await
        .map_err(|error| away(error.without_url().to_string()))?;
    match response.status() {
        status if status.is_success() => {}
        // The hub hides what a token may not see.
        StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED => return Err(not_on_hub(id)),
        status => return Err(away(format!("it answered {status}"))),
    }
    response
        .json()
        .await
        .map_err(|error| away(error.without_url().to_string()))
}

fn not_on_hub(id: &str) -> ApiError {
    ApiError::not_found(format!("Model not found on HuggingFace Hub: {id}"))
}
