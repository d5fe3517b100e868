use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::server::{Server, json, with_sample};

#[tokio::test]
async fn every_answer_carries_a_request_id_and_lets_any_origin_read_it() {
    let server = Server::start().await;
    for path in [
        "/health",
        "/nowhere",
        "/v1/models",
        "/v1/audio/transcriptions/not-a-uuid",
    ] {
        let response = server
            .bare(Method::GET, path)
            .header("origin", "https://page.example")
            .send()
            .await
            .unwrap();
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        assert!(
            header("x-request-id").starts_with("req_") && header("x-request-id").len() == 36,
            "{path}"
        );
        assert_eq!(
            header("access-control-allow-origin"),
            "https://page.example",
            "{path}"
        );
    }
    let long = "x".repeat(129);
    for (sent, kept) in [
        ("abc-1.2_3", true),
        ("has space", false),
        (long.as_str(), false),
    ] {
        let response = server
            .bare(Method::GET, "/health")
            .header("x-request-id", sent)
            .send()
            .await
            .unwrap();
        assert_eq!(response.headers()["x-request-id"] == sent, kept, "{sent}");
    }
}

#[tokio::test]
async fn a_browser_may_ask_before_it_calls() {
    let server = Server::start().await;
    let response = server
        .bare(Method::OPTIONS, "/v1/audio/transcriptions")
        .header("origin", "https://page.example")
        .header("access-control-request-method", "POST")
        .header(
            "access-control-request-headers",
            "authorization, idempotency-key",
        )
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()["access-control-allow-headers"],
        "authorization, idempotency-key"
    );
    assert!(
        response.headers()["access-control-allow-methods"]
            .to_str()
            .unwrap()
            .contains("PATCH")
    );
}

#[tokio::test]
async fn unknown_routes_methods_and_values_have_the_framework_shape() {
    let server = Server::start().await;
    assert_eq!(
        server.get("/nowhere").await,
        (StatusCode::NOT_FOUND, json!({"detail": "Not Found"}))
    );
    assert_eq!(
        server.delete("/health").await,
        (
            StatusCode::METHOD_NOT_ALLOWED,
            json!({"detail": "Method Not Allowed"})
        )
    );
    for (place, name, sent, message) in [
        ("path", "job_id", "nope", "Input should be a valid UUID"),
        ("query", "limit", "0", "Input should be at least 1"),
        ("query", "limit", "101", "Input should be at most 100"),
        ("query", "limit", "x", "Input should be a valid integer"),
        ("query", "status", "asleep", "Input should be 'pending', "),
        (
            "query",
            "since",
            "yesterday",
            "Input should be a valid datetime",
        ),
    ] {
        let path = match place {
            "path" => format!("/v1/audio/transcriptions/{sent}"),
            _ => format!("/v1/audio/transcriptions?{name}={sent}"),
        };
        let (status, body) = server.get(&path).await;
        let detail = &body["detail"][0];
        assert_eq!(
            (status, &detail["loc"], &detail["input"]),
            (
                StatusCode::UNPROCESSABLE_ENTITY,
                &json!([place, name]),
                &json!(sent)
            ),
            "{body}"
        );
        assert!(
            detail["msg"].as_str().unwrap().starts_with(message),
            "{body}"
        );
    }
    for (asked, location) in [
        ("/health/", "/health"),
        (
            "/v1/models/?stage=align&limit=1",
            "/v1/models?stage=align&limit=1",
        ),
    ] {
        let redirect = server.bare(Method::GET, asked).send().await.unwrap();
        assert_eq!(
            (
                redirect.status(),
                redirect.headers()["location"].to_str().unwrap()
            ),
            (StatusCode::TEMPORARY_REDIRECT, location)
        );
    }
}

#[tokio::test]
async fn health_tells_when_the_database_is_gone() {
    let server = Server::start().await;
    assert_eq!(
        json(server.bare(Method::GET, "/health")).await,
        (StatusCode::OK, json!({"status": "healthy"}))
    );
    server.pool.close().await;
    crate::server::eventually("health is bad", async || {
        let (status, body) = json(server.bare(Method::GET, "/health")).await;
        status == StatusCode::SERVICE_UNAVAILABLE
            && body["status"] == "unhealthy"
            && body["storage"].is_null()
    })
    .await;
    let (status, body) = server.get("/v1/jobs/stats").await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            &json!("service_unavailable")
        )
    );
}

#[tokio::test]
async fn metrics_count_requests_and_queues() {
    let server = Server::start().await;
    server.new_job().await;
    let (status, text) = json(server.bare(Method::GET, "/metrics")).await;
    let text = text.as_str().unwrap();
    assert_eq!(status, StatusCode::OK);
    for line in [
        "dalston_gateway_requests_total{method=\"POST\",endpoint=\"/v1/audio/transcriptions\",status=\"201\"}",
        "dalston_queue_depth{stage=\"prepare\",engine_id=\"\",model=\"\"} 1",
        "dalston_workers_live 1",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let silent = Server::configured(|config| config.metrics = false).await;
    assert_eq!(
        json(silent.bare(Method::GET, "/metrics")).await.0,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn metrics_have_as_many_series_as_there_are_routes() {
    let server = Server::start().await;
    let tasks = "/v1/audio/transcriptions/01890000-0000-7000-8000-000000000001/tasks";
    for path in [
        "/v1/audio/transcriptions/junk-a",
        "/v1/audio/transcriptions/junk-b/junk-c",
        "/v1/models/junk-d/junk-e",
        "/junk-f",
        "/docs/junk-g",
    ] {
        server.bare(Method::GET, path).send().await.unwrap();
    }
    server.get(&format!("{tasks}/junk-h/artifacts")).await;
    server.post(&format!("{tasks}/junk-i/retry")).await;
    let junk = Method::from_bytes(b"JUNK-J").unwrap();
    server.bare(junk, "/health").send().await.unwrap();

    let (_, text) = json(server.bare(Method::GET, "/metrics")).await;
    let text = text.as_str().unwrap();
    assert!(!text.to_lowercase().contains("junk"), "{text}");
    for endpoint in [
        "/v1/audio/transcriptions/{id}",
        "/v1/audio/transcriptions/{id}/tasks/{id}/artifacts",
        "/v1/audio/transcriptions/{id}/tasks/{id}/retry",
        "/v1/models/{id}",
        "/docs",
        "other",
    ] {
        let label = format!("endpoint=\"{endpoint}\"");
        assert!(text.contains(&label), "{label}\n{text}");
    }
}

#[tokio::test]
async fn models_engines_and_status_tell_what_is_there() {
    let server = Server::start().await;
    let (_, models) = server.get("/v1/models?status=ready&stage=transcribe").await;
    assert_eq!(models["object"], "list");
    let nano = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|model| model["id"] == "whisper-nano")
        .unwrap();
    assert_eq!(
        (nano["object"].as_str(), nano["engine_id"].as_str()),
        (Some("model"), Some("whisper"))
    );
    for id in [
        "Systran/faster-whisper-base",
        "Systran%2Ffaster-whisper-base",
    ] {
        let (status, model) = server.get(&format!("/v1/models/{id}")).await;
        assert_eq!(
            (status, model["id"].as_str()),
            (StatusCode::OK, Some("Systran/faster-whisper-base"))
        );
    }
    let (status, body) = server.get("/v1/models/org/nothing").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(
        body["error"]["message"],
        "Model not found in registry: org/nothing"
    );

    let (_, engines) = server.get("/v1/engines").await;
    let whisper = engines["engines"]
        .as_array()
        .unwrap()
        .iter()
        .find(|engine| engine["id"] == "whisper")
        .unwrap();
    assert_eq!(
        (
            whisper["status"].as_str(),
            whisper["capabilities"]["max_concurrency"].as_i64()
        ),
        (Some("running"), Some(2))
    );
    let merge = engines["engines"].as_array().unwrap();
    let merge = merge.iter().find(|engine| engine["stage"] == "merge");
    assert_eq!(
        merge.unwrap()["capabilities"]["max_concurrency"],
        serde_json::Value::Null
    );
    let (_, capabilities) = server.get("/v1/engines/capabilities").await;
    assert_eq!(
        capabilities["stages"]["transcribe"]["engines"],
        json!(["whisper"])
    );
    let (_, status) = server.get("/v1/system/status").await;
    assert_eq!(
        (
            status["status"].as_str(),
            status["workers"]["live"].as_i64()
        ),
        (Some("ok"), Some(1))
    );
}

#[tokio::test]
async fn a_json_body_without_end_is_refused() {
    let server = Server::start().await;
    let response = server
        .request(Method::POST, "/auth/keys")
        .header("content-type", "application/json")
        .body(format!(r#"{{"name": "{}"}}"#, "x".repeat(2 << 20)))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_character_that_cannot_be_stored_is_refused_with_the_remedy() {
    let server = Server::start().await;
    let (status, body) = server.submit(with_sample(&[("name", "x\0y")])).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    let (status, body) = json(
        server
            .request(Method::POST, "/auth/keys")
            .json(&json!({"name": "x\u{0}y", "scopes": ["jobs:read"]})),
    )
    .await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("NUL"), "{message}");
}
