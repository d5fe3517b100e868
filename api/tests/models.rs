//! The registry of models over HTTP: pulling, removing, editing, and asking a hub what a repository is.

use dalston_schema::WorkerId;
use dalston_schema::db::models::{self, AnnouncedModel, PulledModel};
use poem::listener::{Acceptor, Listener, TcpListener};
use poem::web::Path;
use poem::{Route, get, handler};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Server, json as answer};

const BASE: &str = "onnx-community/whisper-base_timestamped";

#[tokio::test]
async fn a_pull_is_queued_watched_and_ends_in_a_ready_model() {
    let server = Server::start().await;
    // Another name and an id with its slash unencoded do as well; a body is not needed.
    let (status, started) = server
        .post("/v1/models/Systran/faster-whisper-base/pull")
        .await;
    assert_eq!(status, StatusCode::OK, "{started}");
    assert_eq!(
        started,
        json!({"message": "Download started", "model_id": BASE, "status": "downloading"})
    );
    let again = server.request(
        Method::POST,
        &format!("/v1/models/{}/pull", BASE.replace('/', "%2F")),
    );
    let (_, again) = answer(again.json(&json!({"force": true}))).await;
    assert_eq!(again["message"], "Model download already in progress");

    let pull = models::claim_pull(&server.pool, server.worker(), &[], 30.0)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(pull.id, BASE);
    models::extend_pull(&server.pool, &pull, 20, 80, 30.0)
        .await
        .unwrap();
    let (_, model) = server.get(&format!("/v1/models/{BASE}")).await;
    assert_eq!(
        (
            &model["status"],
            &model["downloaded_bytes"],
            &model["download_progress"]
        ),
        (&json!("downloading"), &json!(20), &json!(25))
    );
    announce(&server, &[BASE]).await;
    let pulled = PulledModel {
        engine: "whisper".to_owned(),
        stage: "transcribe".to_owned(),
        size_bytes: 80,
    };
    models::end_pull(&server.pool, &pull, Ok(&pulled))
        .await
        .unwrap();
    let (_, model) = server.get("/v1/models/Systran/faster-whisper-base").await;
    assert_eq!(
        (&model["status"], &model["size_bytes"]),
        (&json!("ready"), &json!(80))
    );
    assert_eq!(model["loaded_model_id"], BASE);
    let (_, done) = server.post(&format!("/v1/models/{BASE}/pull")).await;
    assert_eq!(done["message"], "Model already downloaded");
    let (_, ready) = server.get("/v1/models?status=ready").await;
    let listed = |list: &Value, id: &str| {
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .any(|model| model["id"] == id)
    };
    assert!(listed(&ready, BASE));

    let (status, _) = server.post("/v1/models/nobody-knows-this/pull").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (_, bundled) = server.post("/v1/models/whisper-nano/pull").await;
    assert_eq!(bundled["status"], "ready");
}

#[tokio::test]
async fn a_failed_pull_tells_why() {
    let server = Server::start().await;
    server.post("/v1/models/our/medical-whisper/pull").await;
    let pull = models::claim_pull(&server.pool, server.worker(), &[], 30.0)
        .await
        .unwrap()
        .unwrap();
    models::end_pull(&server.pool, &pull, Err("hub has no such repository"))
        .await
        .unwrap();
    let (_, model) = server.get("/v1/models/our/medical-whisper").await;
    assert_eq!(
        (&model["status"], &model["metadata"]["error"]),
        (&json!("failed"), &json!("hub has no such repository"))
    );
}

#[tokio::test]
async fn a_removal_reaches_workers_and_refuses_what_is_needed() {
    let server = Server::start().await;
    announce(&server, &[BASE, "whisper-nano"]).await;
    let (status, body) = server.delete("/v1/models/whisper-nano").await;
    assert_eq!(status, StatusCode::CONFLICT, "{body}");
    let (status, _) = server.delete("/v1/models/org/nothing").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (status, body) = server.delete(&format!("/v1/models/{BASE}")).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        (&body["message"], &body["deleted"]),
        (&json!("Model files removed"), &json!(true))
    );
    assert_eq!(models::to_remove(&server.pool).await.unwrap(), [BASE]);
    announce(&server, &["whisper-nano"]).await;
    let (_, body) = server
        .delete(&format!("/v1/models/{BASE}?purge=true"))
        .await;
    assert_eq!(
        body["error"]["message"],
        format!("Model not found in registry: {BASE}")
    );
    let (_, model) = server.get(&format!("/v1/models/{BASE}")).await;
    assert_eq!(model["status"], "not_downloaded");
    let (_, synced) = server.post("/v1/models/sync").await;
    assert_eq!(synced, json!({"updated": 1, "unchanged": 0}));
}

#[tokio::test]
async fn what_a_user_says_of_a_model_goes_before_what_its_files_say() {
    let server = Server::start().await;
    let edit = server.request(Method::PATCH, "/v1/models/whisper-nano");
    let said =
        json!({"name": "Ours", "languages": ["en", "cy"], "punctuation": false, "min_ram_gb": 1.5});
    let (status, model) = answer(edit.json(&said)).await;
    assert_eq!(status, StatusCode::OK, "{model}");
    for (field, value) in said.as_object().unwrap() {
        assert_eq!(&model[field], value, "{field}");
    }
    assert_eq!(
        (&model["metadata_source"], &model["status"]),
        (&json!("user"), &json!("ready"))
    );
    // The planner goes by it.
    let welsh = dalston_schema::db::workers::offered(&server.pool)
        .await
        .unwrap();
    let nano = welsh
        .iter()
        .find(|offer| offer.capability.model == "whisper-nano")
        .unwrap();
    assert_eq!(nano.languages.as_deref().unwrap(), ["en", "cy"]);
    let reader = server.new_key(&["jobs:read"], None).await;
    let denied = server
        .bare(Method::PATCH, "/v1/models/whisper-nano")
        .bearer_auth(reader);
    assert_eq!(
        answer(denied.json(&json!({}))).await.0,
        StatusCode::FORBIDDEN
    );
}

#[handler]
fn repository(Path((owner, name)): Path<(String, String)>) -> poem::Result<poem::web::Json<Value>> {
    let files = match (owner.as_str(), name.as_str()) {
        ("org", "aligner") => [
            "config.json",
            "preprocessor_config.json",
            "vocab.json",
            "onnx/model.onnx",
        ],
        ("org", "weights") => [
            "config.json",
            "model.safetensors",
            "tokenizer.json",
            "README.md",
        ],
        _ => return Err(poem::Error::from_status(StatusCode::NOT_FOUND)),
    };
    let files: Vec<_> = files
        .iter()
        .map(|file| json!({"rfilename": file}))
        .collect();
    Ok(poem::web::Json(json!({
        "id": format!("{owner}/{name}"), "library_name": "transformers", "likes": 7, "downloads": 12,
        "pipeline_tag": "automatic-speech-recognition", "tags": ["wav2vec2", "en", "onnx"], "siblings": files,
        "config": {"model_type": "wav2vec2"},
    })))
}

#[tokio::test]
async fn a_repository_is_resolved_by_its_files_and_entered_when_asked() {
    let acceptor = TcpListener::bind("127.0.0.1:0")
        .into_acceptor()
        .await
        .unwrap();
    let endpoint = format!(
        "http://{}",
        acceptor.local_addr()[0].as_socket_addr().unwrap()
    );
    let hub = Route::new().at("/api/models/:owner/:name", get(repository));
    tokio::spawn(poem::Server::new_with_acceptor(acceptor).run(hub));
    let server = Server::configured(|config| config.hub.endpoint = endpoint).await;
    let resolve = async |id: &str, register: bool| {
        let request = server.request(Method::POST, "/v1/models/hf/resolve");
        answer(request.json(&json!({"model_id": id, "auto_register": register}))).await
    };
    let (status, found) = resolve("org/aligner", true).await;
    assert_eq!(status, StatusCode::OK, "{found}");
    assert_eq!(
        (
            &found["resolved_engine_id"],
            &found["can_route"],
            &found["languages"],
            &found["likes"]
        ),
        (&json!("wav2vec2"), &json!(true), &json!(["en"]), &json!(7))
    );
    let (_, model) = server.get("/v1/models/org/aligner").await;
    assert_eq!(
        (
            &model["stage"],
            &model["metadata_source"],
            &model["metadata"]["downloads"]
        ),
        (&json!("align"), &json!("hf"), &json!(12))
    );
    let (_, weights) = resolve("org/weights", false).await;
    assert_eq!(
        (&weights["resolved_engine_id"], &weights["can_route"]),
        (&json!("wav2vec2"), &json!(false))
    );
    let (status, nothing) = resolve("org/nothing", false).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(
        nothing["error"]["message"],
        "Model not found on HuggingFace Hub: org/nothing"
    );
    let (_, mappings) = server.get("/v1/models/hf/mappings").await;
    assert_eq!(mappings["library_to_engine_id"]["nemo"], "parakeet");
}

/// Has the server's worker say that these models are on its disk.
#[tokio::test]
async fn the_date_of_a_model_stays_whatever_becomes_of_it() {
    let server = Server::start().await;
    announce(&server, &["our/own-model"]).await;
    for (id, since) in [
        (BASE, "2026-01-01T00:00:00Z"),
        ("whisper-nano", "2026-01-01T00:00:00Z"),
        ("our/own-model", "2025-12-24T00:00:00Z"),
    ] {
        let path = format!("/v1/models/{id}");
        let date = async || {
            let (_, model) = server.get(&path).await;
            (model["created_at"].clone(), model["created"].clone())
        };
        let before = date().await;
        assert_eq!(before.0, since, "{id}");
        // Each of these writes the model's row for the first time.
        server.post(&format!("{path}/pull")).await;
        let edit = server.request(Method::PATCH, &path);
        let (status, _) = answer(edit.json(&json!({"name": "Ours"}))).await;
        assert_eq!(status, StatusCode::OK, "{id}");
        assert_eq!(date().await, before, "{id}");
    }
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused() {
    let server = Server::start().await;
    for (query, message) in [
        (
            "status=foo",
            "Input should be one of: not_downloaded, downloading, ready, failed",
        ),
        (
            "stage=foo",
            "Input should be one of: prepare, transcribe, align, diarize, merge",
        ),
    ] {
        let (status, body) = server.get(&format!("/v1/models?{query}")).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{query}");
        let detail = &body["detail"][0];
        assert_eq!(
            (&detail["msg"], &detail["input"]),
            (&json!(message), &json!("foo"))
        );
    }
    let edit = server.request(Method::PATCH, "/v1/models/whisper-nano");
    let (status, body) = answer(edit.json(&json!({"colour": "red"}))).await;
    assert_eq!(
        (status, &body["detail"][0]["loc"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!(["body", "colour"]))
    );
}

async fn announce(server: &Server, ids: &[&str]) {
    let models: Vec<_> = ids
        .iter()
        .map(|id| AnnouncedModel {
            model: (*id).to_owned(),
            engine: "whisper".to_owned(),
            stage: "transcribe".to_owned(),
            size_bytes: 80,
            component: false,
            folder: "/models".to_owned(),
            since: "2025-12-24T00:00:00Z".parse().unwrap(),
        })
        .collect();
    let worker: WorkerId = server.worker();
    assert!(
        models::announce(&server.pool, worker, &models)
            .await
            .unwrap()
    );
}
