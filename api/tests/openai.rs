use std::time::Duration;

use reqwest::multipart::Part;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use dalston_schema::db::events::{self, SaidSegment, SaidSegments};

use crate::server::{Server, eventually, json, texts, with_sample};
use crate::worker::{TEXT, Worker, complete};

#[tokio::test]
async fn the_caller_waits_and_gets_the_text_in_its_format() {
    let server = Server::start().await;
    let _work = Worker::at_work(&server.pool).await;
    let response = server
        .request(Method::POST, "/v1/audio/transcriptions")
        .multipart(with_sample(&[("model", "whisper-1")]))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    for name in [
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "x-request-id",
    ] {
        assert!(response.headers().contains_key(name), "{name}");
    }
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        (&body["text"], &body["usage"]["type"]),
        (&json!(TEXT), &json!("duration"))
    );
    for (format, expected) in [
        ("text", TEXT),
        (
            "srt",
            "1\n00:00:00,000 --> 00:00:01,200\nGood morning.\n\n2\n00:00:01,500 --> 00:00:02,500\nAnd welcome.\n",
        ),
        (
            "vtt",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.200\nGood morning.\n\n00:00:01.500 --> 00:00:02.500\nAnd welcome.\n",
        ),
    ] {
        let (status, body) = server
            .submit(with_sample(&[
                ("model", "gpt-4o-transcribe"),
                ("response_format", format),
            ]))
            .await;
        assert_eq!(
            (status, body),
            (StatusCode::OK, json!(expected)),
            "{format}"
        );
    }
    let (_, verbose) = server
        .submit(with_sample(&[
            ("model", "whisper-1"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
        ]))
        .await;
    assert_eq!(
        (
            &verbose["task"],
            &verbose["language"],
            &verbose["words"][1]["word"]
        ),
        (&json!("transcribe"), &json!("en"), &json!("morning."))
    );
    assert!(verbose["duration"].as_f64().unwrap() > 1.0);
    assert!(verbose.get("segments").is_none(), "{verbose}");
}

#[tokio::test]
async fn an_official_client_speaks_openai_with_any_model() {
    let server = Server::start().await;
    let _work = Worker::at_work(&server.pool).await;
    let submit = async |form| {
        let request = server.request(Method::POST, "/v1/audio/transcriptions");
        json(
            request
                .header("user-agent", "OpenAI/Python 3.52.0")
                .header("x-stainless-package-version", "3.52.0")
                .multipart(form),
        )
        .await
    };
    let (status, body) = submit(with_sample(&[("model", "whisper-nano")])).await;
    assert_eq!(
        (status, &body["text"]),
        (StatusCode::OK, &json!(TEXT)),
        "{body}"
    );
    let (status, body) = submit(with_sample(&[("model", "whisper-99")])).await;
    assert_eq!(
        (status, &body["error"]["code"], &body["error"]["param"]),
        (
            StatusCode::NOT_FOUND,
            &json!("model_not_found"),
            &json!("model")
        )
    );
    // Anybody else gets a job with such a model, whatever fields of OpenAI's are there.
    for fields in [
        &[("model", "whisper-nano"), ("response_format", "text")][..],
        &[("known_speaker_names[]", "Bob")],
    ] {
        let (status, body) = server.submit(with_sample(fields)).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        let keys: Vec<&String> = body.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["created_at", "display_name", "id", "status"]);
        assert_eq!(body["status"], "pending");
    }
}

#[tokio::test]
async fn what_openai_refuses_has_its_shape_and_leaves_nothing() {
    let server = Server::start().await;
    let bytes = |content: Vec<u8>, name: &'static str| {
        texts(&[("model", "whisper-1")]).part("file", Part::bytes(content).file_name(name))
    };
    for (form, status, code) in [
        (
            bytes(b"no audio at all".to_vec(), "note.txt"),
            400,
            "invalid_file_format",
        ),
        (bytes(vec![0; 26 << 20], "big.wav"), 413, "file_too_large"),
        (
            texts(&[("model", "whisper-1")]),
            400,
            "missing_required_parameter",
        ),
        (
            with_sample(&[("model", "whisper-1"), ("response_format", "docx")]),
            400,
            "invalid_response_format",
        ),
        (
            with_sample(&[("model", "whisper-1"), ("temperature", "3")]),
            400,
            "invalid_request",
        ),
    ] {
        let (got, body) = server.submit(form).await;
        assert_eq!(
            (got.as_u16(), body["error"]["code"].as_str()),
            (status, Some(code)),
            "{body}"
        );
        assert_eq!(body["error"]["type"], "invalid_request_error");
        assert!(body["error"].as_object().unwrap().contains_key("param"));
    }
    let strange = with_sample(&[("model", "whisper-1"), ("language", "xx")]);
    let (_, body) = server.submit(strange).await;
    assert_eq!(body["error"]["param"], "language", "{body}");
    // The limit holds too when the model comes after the file.
    let late = reqwest::multipart::Form::new()
        .part("file", Part::bytes(vec![0; 26 << 20]).file_name("big.wav"))
        .text("model", "whisper-1");
    assert_eq!(server.submit(late).await.0, StatusCode::PAYLOAD_TOO_LARGE);
    eventually("the store is empty", async || server.objects().is_empty()).await;
}

#[tokio::test]
async fn a_stream_ends_with_the_whole_text() {
    let server = Server::start().await;
    let _work = Worker::at_work(&server.pool).await;
    let response = server
        .request(Method::POST, "/v1/audio/transcriptions")
        .multipart(with_sample(&[
            ("model", "gpt-4o-transcribe"),
            ("stream", "true"),
        ]))
        .send()
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.text().await.unwrap();
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let deltas: String = events
        .iter()
        .filter_map(|event| event["delta"].as_str())
        .collect();
    assert_eq!(deltas, TEXT);
    assert_eq!(
        events.last().unwrap(),
        &json!({"type": "transcript.text.done", "text": TEXT})
    );
}

#[tokio::test]
async fn text_is_streamed_while_the_transcription_still_runs() {
    let server = Server::start().await;
    let mut response = server
        .request(Method::POST, "/v1/audio/transcriptions")
        .multipart(with_sample(&[
            ("model", "gpt-4o-transcribe"),
            ("stream", "true"),
        ]))
        .send()
        .await
        .unwrap();
    let worker = Worker::register(&server.pool).await;
    let prepare = worker.claim(&server.pool).await.remove(0);
    complete(&server.pool, &prepare).await;
    let running = worker.claim(&server.pool).await.remove(0);
    let said = SaidSegments {
        task_id: running.id,
        name: running.name.clone(),
        attempt: 1,
        channel: None,
        chunk: None,
        first: 0,
        segments: vec![SaidSegment {
            start: 0.0,
            end: 1.2,
            text: " Good morning.".to_owned(),
        }],
    };
    let body = serde_json::to_value(&said).unwrap();
    events::append(&server.pool, running.job_id, events::SEGMENTS, &body)
        .await
        .unwrap();
    let mut stream = String::new();
    while !stream.contains("transcript.text.delta") {
        let piece = response.chunk().await.unwrap().unwrap();
        stream.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert!(stream.contains("Good morning."), "{stream}");
    complete(&server.pool, &running).await;
    worker.work(&server.pool).await;
    stream.push_str(&response.text().await.unwrap());
    let deltas: Vec<Value> = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data:"))
        .map(|data| serde_json::from_str::<Value>(data).unwrap()["delta"].clone())
        .collect();
    assert_eq!(
        deltas,
        [json!("Good morning."), json!(" And welcome."), Value::Null]
    );
    let native = format!("/v1/audio/transcriptions/{}/events", running.job_id);
    let native = server.request(Method::GET, &native).send().await.unwrap();
    let native = native.text().await.unwrap();
    assert!(native.contains("event: transcript.segments"), "{native}");
}

#[tokio::test]
async fn a_caller_that_waits_too_long_is_told_where_to_look() {
    let server = Server::configured(|config| config.sync_timeout = Duration::from_millis(50)).await;
    let request = server
        .request(Method::POST, "/v1/audio/transcriptions")
        .multipart(with_sample(&[("model", "whisper-1")]));
    let response = request.send().await.unwrap();
    assert_eq!(
        (
            response.status(),
            response.headers()["x-should-retry"].to_str().unwrap()
        ),
        (StatusCode::REQUEST_TIMEOUT, "false")
    );
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        (&body["error"]["type"], &body["error"]["code"]),
        (&json!("timeout_error"), &json!("timeout"))
    );
    let (_, list) = server.get("/v1/audio/transcriptions").await;
    assert!(
        body["error"]["message"]
            .as_str()
            .unwrap()
            .contains(list["jobs"][0]["id"].as_str().unwrap())
    );
}

#[tokio::test]
async fn a_job_that_is_cancelled_or_fails_is_an_error() {
    let server = Server::start().await;
    let waiting = server.submit(with_sample(&[("model", "whisper-1")]));
    let cancelling = async {
        let mut id = String::new();
        eventually("the job exists", async || {
            let (_, list) = server.get("/v1/audio/transcriptions").await;
            list["jobs"][0]["id"].as_str().is_some_and(|found| {
                found.clone_into(&mut id);
                true
            })
        })
        .await;
        server
            .post(&format!("/v1/audio/transcriptions/{id}/cancel"))
            .await
    };
    let ((status, body), _) = tokio::join!(waiting, cancelling);
    assert_eq!(
        (status, &body["error"]["code"], &body["error"]["message"]),
        (
            StatusCode::BAD_REQUEST,
            &json!("cancelled"),
            &json!("Transcription was cancelled")
        )
    );

    let waiting = server.submit(with_sample(&[("model", "whisper-1")]));
    let failing = async {
        let worker = Worker::register(&server.pool).await;
        let mut claimed = Vec::new();
        eventually("a task is there", async || {
            claimed = worker.claim(&server.pool).await;
            !claimed.is_empty()
        })
        .await;
        dalston_schema::db::tasks::fail(
            &server.pool,
            claimed[0].lease(),
            "the disk is on fire",
            false,
        )
        .await
        .unwrap();
    };
    let ((status, body), ()) = tokio::join!(waiting, failing);
    assert_eq!(
        (status, &body["error"]["code"]),
        (
            StatusCode::INTERNAL_SERVER_ERROR,
            &json!("processing_failed")
        )
    );
    let message = body["error"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("Transcription failed: ") && message.contains("the disk is on fire"),
        "{message}"
    );
}

#[tokio::test]
async fn translations_refuse_models_that_cannot() {
    let server = Server::start().await;
    let translate = async |form| {
        json(
            server
                .request(Method::POST, "/v1/audio/translations")
                .multipart(form),
        )
        .await
    };
    for (form, status, code) in [
        (
            with_sample(&[("model", "gpt-4o-transcribe")]),
            400,
            "invalid_model",
        ),
        (
            with_sample(&[("model", "whisper-99")]),
            404,
            "model_not_found",
        ),
        (
            texts(&[("model", "whisper-1")]),
            400,
            "missing_required_parameter",
        ),
    ] {
        let (got, body) = translate(form).await;
        assert_eq!(
            (got.as_u16(), body["error"]["code"].as_str()),
            (status, Some(code)),
            "{body}"
        );
    }
    let (status, body) = json(
        server
            .bare(Method::POST, "/v1/audio/translations")
            .multipart(with_sample(&[])),
    )
    .await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (StatusCode::UNAUTHORIZED, &json!("invalid_api_key"))
    );
}
