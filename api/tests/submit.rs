use std::time::Duration;

use reqwest::multipart::{Form, Part};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Server, eventually, json, sample, texts, with_sample};
use crate::worker::Worker;

#[tokio::test]
async fn an_upload_becomes_a_job_with_a_plan() {
    let server = Server::start().await;
    let (status, created) = server
        .submit(with_sample(&[
            ("language", "en"),
            ("name", " Board meeting "),
        ]))
        .await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    assert_eq!(
        (&created["status"], &created["display_name"]),
        (&json!("pending"), &json!("Board meeting"))
    );
    assert!(created["created_at"].as_str().unwrap().ends_with('Z'));
    let id = created["id"].as_str().unwrap();

    let (_, job) = server.get(&format!("/v1/audio/transcriptions/{id}")).await;
    assert_eq!(
        (&job["model"], &job["progress"], &job["words"]),
        (&Value::Null, &json!(0), &Value::Null)
    );
    assert!(
        job["audio_duration_seconds"].as_f64().unwrap() > 1.0,
        "{job}"
    );
    assert_eq!(
        job["retention"],
        json!({"mode": "auto_delete", "hours": 720, "purge_after": null, "purged_at": null})
    );
    let stages: Vec<_> = job["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["stage"].as_str().unwrap())
        .collect();
    assert_eq!(stages, ["prepare", "transcribe", "merge"]);
    assert!(
        job["stages"][1]["chosen_because"]
            .as_str()
            .unwrap()
            .contains("whisper-nano")
    );

    let (_, tasks) = server
        .get(&format!("/v1/audio/transcriptions/{id}/tasks"))
        .await;
    assert_eq!(
        tasks["tasks"][2]["dependencies"],
        json!([tasks["tasks"][1]["task_id"]])
    );
    let objects = server.objects();
    assert_eq!(objects.len(), 1);
    assert!(objects[0].ends_with(format!("jobs/{id}/audio/original.wav")));
    let actions: Vec<String> = sqlx::query_scalar("select action from audit_log")
        .fetch_all(&server.pool)
        .await
        .unwrap();
    assert_eq!(actions, ["job.created"]);
}

#[tokio::test]
async fn the_order_of_fields_does_not_matter() {
    let server = Server::start().await;
    let form = Form::new()
        .part("file", sample())
        .text("model", "whisper-nano")
        .text("retention", "-1")
        .text("num_speakers", "");
    let (status, created) = server.submit(form).await;
    assert_eq!(status, StatusCode::CREATED, "{created}");
    let (_, job) = server
        .get(&format!(
            "/v1/audio/transcriptions/{}",
            created["id"].as_str().unwrap()
        ))
        .await;
    assert_eq!(
        (&job["model"], &job["retention"]["mode"]),
        (&json!("whisper-nano"), &json!("keep"))
    );
    assert_eq!(created["display_name"], "dev-00005.wav");
}

#[tokio::test]
async fn what_cannot_be_a_job_is_refused_and_leaves_nothing() {
    let server = Server::start().await;
    let bytes = |content: &'static [u8], name: &'static str| Part::bytes(content).file_name(name);
    let unreadable = "Unable to read audio file";
    for (form, status, message) in [
        (
            texts(&[("model", "auto")]),
            400,
            "Either 'file' or 'audio_url' must be provided",
        ),
        (
            with_sample(&[("audio_url", "https://example.com/a.wav")]),
            400,
            "Provide either 'file' or 'audio_url', not both",
        ),
        (
            texts(&[("file", "not a file")]),
            400,
            "File must have a filename",
        ),
        (
            with_sample(&[]).part("file", sample()),
            400,
            "Send exactly one 'file'",
        ),
        (
            Form::new().part("file", bytes(b"this is no audio", "note.txt")),
            400,
            unreadable,
        ),
        (
            Form::new().part("file", bytes(b"", "empty.wav")),
            400,
            unreadable,
        ),
        (
            with_sample(&[("speaker_detection", "per_channel")]),
            400,
            "per_channel speaker detection requires stereo audio, got 1 channel(s)",
        ),
        (
            with_sample(&[("retention", "9999")]),
            400,
            "Retention days must be 0 (transient), -1 (permanent), or 1-3650",
        ),
        (
            with_sample(&[("model", "whisper-99")]),
            404,
            "Model not found: whisper-99. Use GET /v1/models to see available models.",
        ),
        (
            with_sample(&[("num_speakers", "2")]),
            400,
            "num_speakers needs speaker_detection=diarize",
        ),
        (with_sample(&[("language", "xx")]), 422, ""),
        (with_sample(&[("num_speakers", "40")]), 422, ""),
        (with_sample(&[("speaker_detection", "magic")]), 422, ""),
    ] {
        let (got, body) = server.submit(form).await;
        assert_eq!(got.as_u16(), status, "{message}: {body}");
        let said = body["error"]["message"].as_str().unwrap_or_default();
        assert!(said.starts_with(message), "{said}");
    }
    let jobs: i64 = sqlx::query_scalar("select count(*) from jobs")
        .fetch_one(&server.pool)
        .await
        .unwrap();
    assert_eq!(jobs, 0);
    eventually("the store is empty", async || server.objects().is_empty()).await;
}

#[tokio::test]
async fn a_model_that_is_not_present_is_refused_with_the_remedy() {
    let server = Server::start().await;
    let (status, body) = server
        .submit(with_sample(&[("model", "Systran/faster-whisper-base")]))
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let message = body["error"]["message"].as_str().unwrap();
    assert!(message.contains("dalston models pull"), "{message}");
    assert!(message.starts_with("Model Systran/"), "{message}");
}

#[tokio::test]
async fn a_repeated_request_with_the_same_key_is_the_same_job() {
    let server = Server::start().await;
    let submit = async |key: &str, form: Form| {
        let request = server
            .request(Method::POST, "/v1/audio/transcriptions")
            .header("idempotency-key", key);
        json(request.multipart(form)).await
    };
    let (status, first) = submit("k1", with_sample(&[("language", "en")])).await;
    assert_eq!(status, StatusCode::CREATED, "{first}");
    let (status, again) = submit("k1", with_sample(&[("language", "en")])).await;
    assert_eq!((status, &again["id"]), (StatusCode::CREATED, &first["id"]));
    let (status, _) = submit("k1", with_sample(&[("language", "en"), ("retention", "1")])).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let other_audio = std::fs::read(crate::server::SAMPLE.replace("00005", "00006")).unwrap();
    let form = texts(&[("language", "en")])
        .part("file", Part::bytes(other_audio).file_name("dev-00005.wav"));
    assert_eq!(submit("k1", form).await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, second) = submit("k2", with_sample(&[("language", "en")])).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_ne!(second["id"], first["id"]);
    eventually("two recordings are stored", async || {
        server.objects().len() == 2
    })
    .await;

    // Another caller's key of the same text is another key.
    let stranger = server.new_key(&["jobs:read", "jobs:write"], None).await;
    let request = server
        .bare(Method::POST, "/v1/audio/transcriptions")
        .bearer_auth(&stranger)
        .header("idempotency-key", "k1");
    let (status, theirs) = json(request.multipart(with_sample(&[("language", "en")]))).await;
    assert_eq!(status, StatusCode::CREATED, "{theirs}");
    assert_ne!(theirs["id"], first["id"]);
}

#[tokio::test]
async fn a_tenant_may_have_only_so_many_unfinished_jobs() {
    let server = Server::configured(|config| config.limits.concurrent_jobs = Some(2)).await;
    server.new_job().await;
    server.new_job().await;
    let (status, body) = server.submit(with_sample(&[])).await;
    assert_eq!(
        (status, body),
        (
            StatusCode::TOO_MANY_REQUESTS,
            json!({"error": {"code": "rate_limit_exceeded", "message": "Concurrent job limit exceeded (2 max)"}})
        )
    );
    eventually("the refused recording is gone", async || {
        server.objects().len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_request_waits_a_little_for_the_first_worker() {
    let server =
        Server::without_worker(|config| config.capability_wait = Duration::from_secs(20)).await;
    let pool = server.pool.clone();
    let (submitted, _) = tokio::join!(server.submit(with_sample(&[])), Worker::register(&pool));
    assert_eq!(submitted.0, StatusCode::CREATED, "{}", submitted.1);
}

#[tokio::test]
async fn without_any_worker_a_request_is_refused_with_the_remedy() {
    let server = Server::without_worker(|config| config.capability_wait = Duration::ZERO).await;
    let (status, body) = server.submit(with_sample(&[])).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains("dalston worker"),
        "{body}"
    );
}

#[tokio::test]
async fn speakers_that_no_worker_can_tell_apart_are_refused_with_the_remedy() {
    let server = Server::start().await;
    let (status, body) = server
        .submit(with_sample(&[("speaker_detection", "diarize")]))
        .await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
    let message = body["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("diarize") && message.contains("dalston worker"),
        "{message}"
    );
}
