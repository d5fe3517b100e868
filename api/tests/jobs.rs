use std::collections::HashSet;

use dalston_schema::db::tasks::{self, Completion};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::server::{Server, json, with_sample};
use crate::worker::{TEXT, Worker, complete};

#[tokio::test]
async fn a_completed_job_shows_its_transcript() {
    let server = Server::start().await;
    let id = server.completed_job().await;
    let (_, job) = server.get(&format!("/v1/audio/transcriptions/{id}")).await;
    assert_eq!(
        (&job["status"], &job["text"], &job["language_code"]),
        (&json!("completed"), &json!(TEXT), &json!("en"))
    );
    assert_eq!(
        (
            &job["result_word_count"],
            &job["result_speaker_count"],
            &job["progress"]
        ),
        (&json!(4), &Value::Null, &json!(100))
    );
    assert_eq!(job["segments"][0]["words"][1]["text"], "morning.");
    for key in [
        "speakers",
        "pii",
        "redacted_text",
        "entities",
        "error",
        "total_wait_ms",
        "current_stage",
        "eta_seconds",
    ] {
        assert!(job.as_object().unwrap().contains_key(key), "{key}");
    }
    let stats = server.get("/v1/jobs/stats").await.1;
    assert_eq!(
        stats,
        json!({"running": 0, "queued": 0, "completed_today": 1, "failed_today": 0})
    );
}

#[tokio::test]
async fn lists_are_paged_newest_first_without_gaps_or_repeats() {
    let server = Server::start().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(server.new_job().await);
    }
    made.reverse();
    let (mut listed, mut cursor) = (Vec::new(), String::new());
    loop {
        let (_, page) = server
            .get(&format!("/v1/audio/transcriptions?limit=2&cursor={cursor}"))
            .await;
        listed.extend(
            page["jobs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|job| job["id"].as_str().unwrap().to_owned()),
        );
        assert_eq!(page["has_more"], !page["cursor"].is_null());
        let Some(next) = page["cursor"].as_str() else {
            break;
        };
        cursor = next.to_owned();
    }
    assert_eq!(listed, made);
    let (status, body) = server.get("/v1/audio/transcriptions?cursor=nonsense").await;
    assert_eq!(
        (status, &body["error"]["message"]),
        (StatusCode::BAD_REQUEST, &json!("Invalid cursor format"))
    );
    assert_eq!(
        server
            .get("/v1/audio/transcriptions?status=completed")
            .await
            .1["jobs"],
        json!([])
    );
    assert_eq!(
        server
            .get("/v1/audio/transcriptions?since=2999-01-01T00:00:00Z")
            .await
            .1["jobs"],
        json!([])
    );
    assert_eq!(
        server
            .get("/v1/audio/transcriptions?since=2020-01-01&status=pending")
            .await
            .1["jobs"]
            .as_array()
            .unwrap()
            .len(),
        5
    );
}

#[tokio::test]
async fn somebody_elses_job_does_not_exist() {
    let server = Server::start().await;
    let (ann, bob) = (
        server.new_key(&["jobs:read", "jobs:write"], None).await,
        server.new_key(&["jobs:read", "jobs:write"], None).await,
    );
    let (status, job) = json(
        server
            .bare(Method::POST, "/v1/audio/transcriptions")
            .bearer_auth(&ann)
            .multipart(with_sample(&[])),
    )
    .await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    let path = format!("/v1/audio/transcriptions/{}", job["id"].as_str().unwrap());
    let nothing = (
        StatusCode::NOT_FOUND,
        json!({"error": {"code": "not_found", "message": "Job not found"}}),
    );
    for (method, suffix) in [
        (Method::GET, ""),
        (Method::GET, "/tasks"),
        (Method::GET, "/audio"),
        (Method::GET, "/events"),
        (Method::GET, "/export/srt"),
        (Method::POST, "/cancel"),
        (Method::POST, "/retry"),
        (Method::DELETE, "/audio"),
        (Method::DELETE, ""),
    ] {
        assert_eq!(
            json(
                server
                    .bare(method, &format!("{path}{suffix}"))
                    .bearer_auth(&bob)
            )
            .await,
            nothing,
            "{suffix}"
        );
    }
    let (_, list) = json(
        server
            .bare(Method::GET, "/v1/audio/transcriptions")
            .bearer_auth(&bob),
    )
    .await;
    assert_eq!(list["jobs"], json!([]));
    for key in [&ann, &server.key] {
        assert_eq!(
            json(server.bare(Method::GET, &path).bearer_auth(key))
                .await
                .0,
            StatusCode::OK
        );
    }
}

#[tokio::test]
async fn a_job_is_renamed_and_the_old_name_remembered() {
    let server = Server::start().await;
    let id = server.new_job().await;
    let rename = |id: &str, name: &str| {
        json(
            server
                .request(Method::PATCH, &format!("/v1/audio/transcriptions/{id}"))
                .json(&json!({"display_name": name})),
        )
    };
    let (status, job) = rename(&id, "Interview").await;
    assert_eq!(
        (status, &job["display_name"], &job["stages"]),
        (StatusCode::OK, &json!("Interview"), &Value::Null)
    );
    assert_eq!(rename(&id, "").await.0, StatusCode::UNPROCESSABLE_ENTITY);
    let missing = "01890000-0000-7000-8000-000000000001";
    assert_eq!(
        rename(missing, "x").await,
        (
            StatusCode::NOT_FOUND,
            json!({"detail": format!("job not found: {missing}"), "code": "resource_not_found", "resource_type": "job"})
        )
    );
    let detail: Value =
        sqlx::query_scalar("select detail from audit_log where action = 'job.renamed'")
            .fetch_one(&server.pool)
            .await
            .unwrap();
    assert_eq!(
        detail,
        json!({"old_name": "dev-00005.wav", "new_name": "Interview"})
    );
}

#[tokio::test]
async fn a_refused_retry_says_what_is_in_its_way() {
    let server = Server::start().await;
    let running = server.new_job().await;
    let cancelled = server.new_job().await;
    let path = |id: &str, what: &str| format!("/v1/audio/transcriptions/{id}{what}");
    server.post(&path(&cancelled, "/cancel")).await;
    server.delete(&path(&cancelled, "/audio")).await;
    let (_, tasks) = server.get(&path(&cancelled, "/tasks")).await;
    let task = tasks["tasks"][0]["task_id"].as_str().unwrap();
    let deleted = "Cannot retry job: its audio was deleted. Submit the audio again as a new job.";
    for (path, message) in [
        (path(&cancelled, "/retry"), deleted),
        (path(&cancelled, &format!("/tasks/{task}/retry")), deleted),
        (
            path(&running, "/retry"),
            "Cannot retry job in 'pending' state. Only failed or cancelled jobs can be retried.",
        ),
    ] {
        let (status, body) = server.post(&path).await;
        assert_eq!(
            (status, &body["error"]["message"]),
            (StatusCode::CONFLICT, &json!(message))
        );
    }
}

#[tokio::test]
async fn cancel_says_whether_tasks_are_still_running() {
    let server = Server::start().await;
    let idle = server.new_job().await;
    let cancel = async |id: &str| {
        server
            .post(&format!("/v1/audio/transcriptions/{id}/cancel"))
            .await
    };
    assert_eq!(
        cancel(&idle).await,
        (
            StatusCode::OK,
            json!({"id": idle, "status": "cancelled", "message": "Job cancelled."})
        )
    );
    let (status, body) = cancel(&idle).await;
    assert_eq!(
        (status, body["error"]["message"].as_str().unwrap()),
        (
            StatusCode::CONFLICT,
            "Cannot cancel job in 'cancelled' state. Only pending or running jobs can be cancelled."
        )
    );
    let busy = server.new_job().await;
    let worker = Worker::register(&server.pool).await;
    assert_eq!(worker.claim(&server.pool).await.len(), 1);
    let (status, body) = cancel(&busy).await;
    assert_eq!(
        (status, &body["status"]),
        (StatusCode::OK, &json!("cancelling"))
    );
    assert_eq!(
        body["message"],
        "Cancellation requested. 1 task(s) still running."
    );
}

#[tokio::test]
async fn only_finished_jobs_are_deleted_with_everything() {
    let server = Server::start().await;
    let id = server.new_job().await;
    let path = format!("/v1/audio/transcriptions/{id}");
    let (status, body) = server.delete(&path).await;
    assert_eq!(
        (status, body["error"]["message"].as_str().unwrap()),
        (
            StatusCode::CONFLICT,
            "Cannot delete job in 'pending' state. Only completed, failed, or cancelled jobs can be deleted."
        )
    );
    Worker::register(&server.pool)
        .await
        .work(&server.pool)
        .await;
    assert_eq!(
        server.delete(&path).await,
        (StatusCode::NO_CONTENT, Value::Null)
    );
    assert_eq!(server.get(&path).await.0, StatusCode::NOT_FOUND);
    assert!(server.objects().is_empty());
}

#[tokio::test]
async fn exports_are_files_in_four_formats() {
    let server = Server::start().await;
    let id = server.completed_job().await;
    let export = async |format: &str| {
        let path = format!("/v1/audio/transcriptions/{id}/export/{format}");
        let response = server.request(Method::GET, &path).send().await.unwrap();
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
        (
            header("content-type"),
            header("content-disposition"),
            response.text().await.unwrap(),
        )
    };
    let (kind, name, text) = export("srt").await;
    assert_eq!(
        (kind.as_str(), name.as_str()),
        (
            "text/plain; charset=utf-8",
            "attachment; filename=\"transcript.srt\""
        )
    );
    assert_eq!(
        text,
        "1\n00:00:00,000 --> 00:00:01,200\nGood morning.\n\n2\n00:00:01,500 --> 00:00:02,500\nAnd welcome.\n"
    );
    let (kind, name, text) = export("WEBVTT").await;
    assert_eq!(
        (kind.as_str(), name.as_str()),
        (
            "text/vtt; charset=utf-8",
            "attachment; filename=\"transcript.vtt\""
        )
    );
    assert!(text.starts_with("WEBVTT\n\n00:00:00.000 --> 00:00:01.200\nGood morning.\n"));
    assert_eq!(export("txt").await.2, "Good morning.\nAnd welcome.");
    let transcript: Value = serde_json::from_str(&export("json").await.2).unwrap();
    assert_eq!(transcript["text"], TEXT);

    let pending = server.new_job().await;
    for (path, message) in [
        (
            format!("{id}/export/docx"),
            "Unsupported format: docx. Supported formats: srt, vtt, txt, json, tsv, rttm, lrc",
        ),
        (
            format!("{pending}/export/srt"),
            "Job not completed. Current status: pending",
        ),
    ] {
        let (status, body) = server
            .get(&format!("/v1/audio/transcriptions/{path}"))
            .await;
        assert_eq!(
            (status, body["error"]["message"].as_str().unwrap()),
            (StatusCode::BAD_REQUEST, message)
        );
    }
    assert_eq!(
        server
            .get(&format!(
                "/v1/audio/transcriptions/{id}/export/srt?max_lines=0"
            ))
            .await
            .0,
        StatusCode::UNPROCESSABLE_ENTITY
    );
}

#[tokio::test]
async fn a_task_shows_what_it_was_given_and_answered() {
    let server = Server::start().await;
    let id = server.new_job().await;
    let worker = Worker::register(&server.pool).await;
    let claimed = worker.claim(&server.pool).await;
    complete(&server.pool, &claimed[0]).await;
    let (_, tasks) = server
        .get(&format!("/v1/audio/transcriptions/{id}/tasks"))
        .await;
    let names: HashSet<_> = tasks["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|task| task["stage"].as_str().unwrap())
        .collect();
    assert_eq!(names, HashSet::from(["prepare", "transcribe", "merge"]));
    let artifacts = async |at: usize| {
        let task = tasks["tasks"][at]["task_id"].as_str().unwrap();
        server
            .get(&format!(
                "/v1/audio/transcriptions/{id}/tasks/{task}/artifacts"
            ))
            .await
    };
    let (status, prepare) = artifacts(0).await;
    assert_eq!(
        (status, &prepare["status"]),
        (StatusCode::OK, &json!("completed"))
    );
    assert_eq!(prepare["request"]["config"]["split_channels"], false);
    assert_eq!(prepare["response"]["data"]["engine_id"], "prepare");
    let (status, body) = artifacts(1).await;
    assert_eq!(
        (status, &body["error"]["message"]["code"]),
        (StatusCode::BAD_REQUEST, &json!("no_artifacts"))
    );
    let nobody = "01890000-0000-7000-8000-000000000001";
    let (status, body) = server
        .get(&format!(
            "/v1/audio/transcriptions/{id}/tasks/{nobody}/artifacts"
        ))
        .await;
    assert_eq!(
        (status, &body["error"]["message"]["code"]),
        (StatusCode::NOT_FOUND, &json!("task_not_found"))
    );
    let (status, body) = server
        .get(&format!(
            "/v1/audio/transcriptions/{nobody}/tasks/{nobody}/artifacts"
        ))
        .await;
    assert_eq!(
        (status, &body["error"]["message"]["code"]),
        (StatusCode::NOT_FOUND, &json!("job_not_found"))
    );
}

#[tokio::test]
async fn requests_and_responses_of_tasks_have_the_shape_of_the_contract() {
    let server = Server::start().await;
    let id = server.new_job().await;
    let worker = Worker::register(&server.pool).await;
    let key = "jobs/x/tasks/y/prepared.wav";
    let answers = [
        json!({
            "source": {"format": "wav", "codec": "pcm_s16le", "duration": 2.5, "sample_rate": 16000, "channels": 1,
                       "bit_depth": 16},
            "channel_files": [{"key": key, "duration": 2.5, "speech_regions": [[0.1, 2.0]]}],
            "speech_ratio": 0.76, "warnings": [],
        }),
        json!({
            "text": "Good morning.", "language": "en", "language_confidence": 0.9, "engine": "whisper",
            "model": "whisper-nano", "warnings": [], "alignment": null, "diarization": null, "chunk": null,
            "segments": [{"start": 0.1, "end": 1.0, "text": "Good morning.", "words": [
                {"text": "Good", "start": 0.1, "end": 0.4}, {"text": "morning.", "start": 0.5, "end": 1.0}]}],
        }),
    ];
    for response in answers {
        let [task] = worker.claim(&server.pool).await.try_into().unwrap();
        let completion = Completion::answering(&response).unwrap();
        tasks::complete(&server.pool, task.lease(), &completion)
            .await
            .unwrap();
    }
    let job = format!("/v1/audio/transcriptions/{id}");
    let (_, list) = server.get(&format!("{job}/tasks")).await;
    let task = |at: usize| list["tasks"][at]["task_id"].as_str().unwrap().to_owned();
    let artifacts = async |at: usize| {
        let path = format!("{job}/tasks/{}/artifacts", task(at));
        server.get(&path).await.1
    };

    let prepare = artifacts(0).await;
    let original = format!("{id}:original");
    assert_eq!(
        prepare["request"]["payload"]["media"]["artifact_id"],
        *original
    );
    assert_eq!(prepare["request"]["payload"]["media"]["format"], "wav");
    let locator = &prepare["request"]["artifact_index"][&original]["storage_locator"];
    assert_eq!(*locator, format!("jobs/{id}/audio/original.wav"));
    let audio = format!("{}:prepared", task(0));
    assert_eq!(prepare["response"]["produced_artifact_ids"], json!([audio]));
    assert_eq!(
        prepare["response"]["produced_artifacts"][0]["storage_locator"],
        key
    );
    let data = &prepare["response"]["data"];
    assert_eq!(data["source_media"]["duration"], 2.5);
    assert_eq!(data["channel_files"][0]["artifact_id"], *audio);
    assert_eq!(
        (
            &data["split_channels"],
            &data["skipped"],
            &data["speech_regions"]
        ),
        (&json!(false), &json!(false), &json!([[0.1, 2.0]]))
    );

    let transcribe = artifacts(1).await;
    let request = &transcribe["request"];
    assert_eq!(
        request["request_bindings"],
        json!([{"slot": "audio", "selector": {
            "producer_stage": "prepare", "kind": "audio", "role": "prepared", "required": true}}])
    );
    assert_eq!(request["resolved_artifact_ids"], json!({"audio": audio}));
    assert_eq!(request["artifact_index"][&audio]["media_type"], "audio/wav");
    assert_eq!(request["payload"]["media"]["sample_rate"], 16000);
    assert_eq!(
        request["previous_responses"]["prepare"]["engine_id"],
        "prepare"
    );
    assert!(request["config"].get("prompt").is_none(), "{request}");
    let data = &transcribe["response"]["data"];
    assert_eq!(
        (
            &data["schema_version"],
            &data["engine_id"],
            &data["duration"]
        ),
        (&json!("1"), &json!("whisper"), &json!(2.5))
    );
    assert_eq!(data["timestamp_granularity"], "word");
    assert_eq!(data["languages"][0]["code"], "en");
    assert_eq!(
        (&data["metadata"], &data["segments"][0]["metadata"]),
        (&json!({}), &json!({}))
    );
    assert!(data.get("engine").is_none() && data.get("alignment").is_none());
    assert_eq!(transcribe["response"]["produced_artifacts"], json!([]));
}

#[tokio::test]
async fn audio_is_served_in_parts_by_a_url_that_ends() {
    let server = Server::start().await;
    let id = server.new_job().await;
    let path = format!("/v1/audio/transcriptions/{id}/audio");
    let (status, body) = server.get(&path).await;
    assert_eq!(
        (status, body["error"]["message"].as_str().unwrap()),
        (
            StatusCode::CONFLICT,
            "Job not in terminal state. Current status: pending"
        )
    );
    Worker::register(&server.pool)
        .await
        .work(&server.pool)
        .await;

    let (_, answer) = server.get(&path).await;
    assert_eq!(
        (&answer["expires_in"], &answer["type"]),
        (&json!(3600), &json!("original"))
    );
    let url = answer["url"].as_str().unwrap();
    let original = std::fs::read(crate::server::SAMPLE).unwrap();
    let whole = reqwest::get(url).await.unwrap();
    assert_eq!(whole.headers()["content-type"], "audio/wav");
    assert!(whole.bytes().await.unwrap() == original);
    let client = reqwest::Client::new();
    let part = client
        .get(url)
        .header("range", "bytes=100-199")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (
            part.status(),
            part.headers()["content-range"].to_str().unwrap()
        ),
        (
            StatusCode::PARTIAL_CONTENT,
            format!("bytes 100-199/{}", original.len()).as_str()
        )
    );
    assert!(part.bytes().await.unwrap() == original[100..200]);
    let beyond = client
        .get(url)
        .header("range", "bytes=999999999-")
        .send()
        .await
        .unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);

    let later = url.replace("expires=", "expires=9");
    let forged = url.replace("signature=", "signature=00");
    for wrong in [
        later,
        forged,
        url.split('?').next().unwrap().to_owned() + "?expires=1&signature=00",
    ] {
        assert_eq!(
            reqwest::get(&wrong).await.unwrap().status(),
            StatusCode::FORBIDDEN,
            "{wrong}"
        );
    }

    assert_eq!(
        server.delete(&path).await,
        (StatusCode::NO_CONTENT, Value::Null)
    );
    assert!(server.objects().is_empty());
    for (status, body) in [server.get(&path).await, server.delete(&path).await] {
        assert_eq!(
            (status, &body["error"]["message"]["code"]),
            (StatusCode::GONE, &json!("audio_deleted"))
        );
    }
    assert_eq!(reqwest::get(url).await.unwrap().status(), StatusCode::GONE);
    assert_eq!(
        server
            .get(&format!("/v1/audio/transcriptions/{id}"))
            .await
            .1["text"],
        TEXT
    );
}
