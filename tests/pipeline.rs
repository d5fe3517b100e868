//! One file on several workers, stages that run together, fail or are run again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine;
use serde_json::{Value, json};

use crate::product::{Cluster, Product, eventually, form};
use crate::recordings::{dialogue, utterance};
use crate::sameness::{FRAMES, result, same};

/// Files of at least forty seconds are cut into parts of about twenty.
const SHORT_CHUNKS: [(&str, &str); 3] = [
    ("DALSTON_CHUNK_TARGET_SECONDS", "20"),
    ("DALSTON_CHUNK_MINIMUM_SECONDS", "8"),
    // One task with a model at a time, so that several workers share the parts.
    ("DALSTON_WORKER_CONCURRENCY", "1"),
];

async fn tasks(product: &Product, job: &str) -> Vec<Value> {
    let list = product
        .get(&format!("/v1/audio/transcriptions/{job}/tasks"))
        .await;
    list["tasks"].as_array().unwrap().clone()
}

fn stage_names(job: &Value) -> Vec<String> {
    job["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["stage"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn parts_on_two_workers_give_the_transcript_of_one() {
    let mut product = Product::start_with(Cluster::shared(), &SHORT_CHUNKS).await;
    product.start_worker().await;
    product.start_worker().await;
    let aligned = ("model_align", "wav2vec2-nano");
    let segments = ("timestamps_granularity", "segment");
    for (model, further, tolerance) in [
        ("whisper-nano", Some(aligned), Some(FRAMES)),
        ("parakeet-tdt-nano", Some(aligned), Some(FRAMES)),
        // What a window gives depends on that window alone: nothing differs, probabilities included.
        ("whisper-nano", Some(segments), None),
        ("parakeet-tdt-nano", None, None),
    ] {
        let mut fields = vec![("model", model), ("speaker_detection", "diarize")];
        fields.extend(further);
        let parts = product.submit(&dialogue("dlg01"), &fields).await;
        fields.push(("chunk_target_seconds", "0"));
        let whole = product.submit(&dialogue("dlg01"), &fields).await;
        let (parts, whole) = (
            product.wait_completed(&parts).await,
            product.wait_completed(&whole).await,
        );
        let names = stage_names(&parts);
        let mut expected = vec!["transcribe_c000", "transcribe_c002", "diarize"];
        expected.extend((further == Some(aligned)).then_some("align_c001"));
        for name in expected {
            assert!(names.contains(&name.to_owned()), "{names:?}");
        }
        assert!(stage_names(&whole).contains(&"transcribe".to_owned()));
        let (ours, theirs) = (result(&parts), result(&whole));
        assert!(
            match tolerance {
                Some(tolerance) => same(&ours, &theirs, tolerance),
                None => ours == theirs,
            },
            "{model}: {ours:#}\n{theirs:#}"
        );
        assert!(parts["text"].as_str().unwrap().len() > 500);
    }
    product.assert_consistent().await;
}

#[tokio::test]
async fn an_openai_client_is_told_the_parts_of_a_long_file_in_order() {
    let mut product = Product::start_with(Cluster::shared(), &SHORT_CHUNKS).await;
    product.start_worker().await;
    product.start_worker().await;
    let fields = [
        ("model", "sleep"),
        ("response_format", "json"),
        ("stream", "true"),
    ];
    let request = product.post_as_openai(form(&[dialogue("dlg01")], &fields));
    let stream = request.send().await.unwrap().text().await.unwrap();
    let events: Vec<Value> = stream
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok())
        .collect();
    let (done, deltas) = events.split_last().unwrap();
    assert_eq!(done["type"], "transcript.text.done", "{stream}");
    let told: String = deltas
        .iter()
        .map(|event| event["delta"].as_str().unwrap())
        .collect();
    assert_eq!(told, done["text"].as_str().unwrap());
    assert!(deltas.len() > 1, "{stream}");

    let job: String = sqlx::query_scalar("select id::text from jobs")
        .fetch_one(&product.database)
        .await
        .unwrap();
    let names = stage_names(&product.wait_completed(&job).await);
    assert!(names.contains(&"transcribe_c002".to_owned()), "{names:?}");
    assert_eq!(told.split(' ').collect::<Vec<_>>(), all_regions(&told));
}

/// What the load-test engine says when it has heard every stretch of speech, in order.
fn all_regions(text: &str) -> Vec<String> {
    let heard = text.split(' ').count();
    (0..heard).map(|n| format!("region{n}")).collect()
}

#[tokio::test]
async fn a_lost_part_is_one_retry_and_not_a_lost_job() {
    let settings = [
        SHORT_CHUNKS.as_slice(),
        &[("DALSTON_LOAD_ENGINE_REALTIME_FACTOR", "0.1")],
    ]
    .concat();
    let mut product = Product::start_with(Cluster::shared(), &settings).await;
    product.start_worker().await;
    product.start_worker().await;
    let job = product
        .submit(&dialogue("dlg01"), &[("model", "sleep")])
        .await;
    eventually("both workers to run a part", async || {
        let running = tasks(&product, &job)
            .await
            .iter()
            .filter(|task| task["status"] == "running" && task["engine_id"] == "sleep")
            .count();
        (running == 2).then_some(())
    })
    .await;
    product.workers.remove(0).kill();
    let body = product.wait_completed(&job).await;
    let retried: Vec<i64> = tasks(&product, &job)
        .await
        .iter()
        .map(|task| task["retries"].as_i64().unwrap())
        .filter(|retries| *retries > 0)
        .collect();
    assert_eq!(retried, [1], "{body:#}");
    // The engine names each stretch of speech; all are there, in order.
    let text = body["text"].as_str().unwrap();
    assert_eq!(text.split(' ').collect::<Vec<_>>(), all_regions(text));
    product.assert_consistent().await;
}

#[tokio::test]
async fn progress_only_grows_and_the_estimate_holds_from_a_fifth_on() {
    let settings = [
        SHORT_CHUNKS.as_slice(),
        &[
            ("DALSTON_LOAD_ENGINE_REALTIME_FACTOR", "0.12"),
            ("DALSTON_HEARTBEAT_SECONDS", "0.1"),
        ],
    ]
    .concat();
    let mut product = Product::start_with(Cluster::shared(), &settings).await;
    product.start_worker().await;
    let job = product
        .submit(&dialogue("dlg01"), &[("model", "sleep")])
        .await;
    let mut seen: Vec<(Instant, f64, Option<f64>)> = Vec::new();
    eventually("the job to be completed", async || {
        let body = product
            .get(&format!("/v1/audio/transcriptions/{job}"))
            .await;
        seen.push((
            Instant::now(),
            body["progress"].as_f64().unwrap(),
            body["eta_seconds"].as_f64(),
        ));
        (body["status"] == "completed").then_some(())
    })
    .await;
    let told_live: Vec<Value> = sqlx::query_scalar(
        "select body->'eta_seconds' from job_history
           where job_id = $1::uuid and type = 'progress' and body->>'stage' = 'transcribe'",
    )
    .bind(&job)
    .fetch_all(&product.database)
    .await
    .unwrap();
    assert!(told_live.len() >= 10, "{told_live:?}");
    assert!(told_live.iter().all(Value::is_number), "{told_live:?}");
    let end = seen[seen.len() - 1].0;
    assert!(
        seen.windows(2).all(|pair| pair[0].1 <= pair[1].1),
        "{seen:?}"
    );
    let told: Vec<(f64, f64)> = seen
        .iter()
        .filter(|(_, progress, _)| (20.0..90.0).contains(progress))
        .map(|(at, _, eta)| ((end - *at).as_secs_f64(), eta.unwrap()))
        .collect();
    assert!(told.len() >= 10, "{seen:?}");
    // Half a second is what writing the transcript and looking once more take. A quarter may miss: the machine's other
    // work slows the engine unevenly.
    let held = told
        .iter()
        .filter(|(left, eta)| (eta - left).abs() <= 0.2 * left + 0.5)
        .count();
    assert!(4 * held >= 3 * told.len(), "left and told: {told:?}");
}

#[tokio::test]
async fn one_task_for_all_stages_gives_what_several_give() {
    let mut product = Product::start().await;
    product.start_worker().await;
    let fields = [
        ("model", "whisper-nano"),
        ("language", "en"),
        ("model_align", "wav2vec2-nano"),
        ("speaker_detection", "diarize"),
    ];
    let staged = product.submit(&dialogue("dlg01"), &fields).await;
    let together = [fields.as_slice(), &[("pipeline", "integrated")]].concat();
    let integrated = product.submit(&dialogue("dlg01"), &together).await;
    let (staged, integrated) = (
        product.wait_completed(&staged).await,
        product.wait_completed(&integrated).await,
    );
    assert_eq!(stage_names(&integrated), ["prepare", "transcribe", "merge"]);
    assert_eq!(result(&integrated), result(&staged));
    assert_eq!(integrated["speakers"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_failed_diarization_costs_no_transcript_and_can_be_run_again() {
    let mut product = Product::start().await;
    let worker = product.start_worker().await;
    // The worker stands still while the clip it will need is taken away.
    product.workers[worker].signal(libc::SIGSTOP);
    let clip = std::fs::read(utterance("test-00017")).unwrap();
    let clip = base64::engine::general_purpose::STANDARD.encode(clip);
    let fields = [
        ("known_speaker_names[]", "Ada"),
        (
            "known_speaker_references[]",
            &format!("data:audio/wav;base64,{clip}"),
        ),
        ("model", "whisper-nano"),
        ("language", "en"),
        ("speaker_detection", "diarize"),
    ];
    let job = product.submit(&dialogue("dlg01"), &fields).await;
    let job = job.as_str();
    let key: String = sqlx::query_scalar(
        "select parameters->'known_speaker_references'->0->>'key' from jobs where id::text = $1",
    )
    .bind(job)
    .fetch_one(&product.database)
    .await
    .unwrap();
    let stored = find(product.folder(), &key);
    let hidden = product.folder().join("hidden.wav");
    std::fs::rename(&stored, &hidden).unwrap();
    product.workers[worker].signal(libc::SIGCONT);

    let body = product.wait_completed(job).await;
    let text = body["text"].as_str().unwrap().to_owned();
    assert!(
        text.len() > 500 && body["speakers"] == json!([]),
        "{body:#}"
    );
    let warnings = body["warnings"].to_string();
    assert!(
        warnings.contains("diarize failed and was left out"),
        "{warnings}"
    );
    let all = tasks(&product, job).await;
    let skipped = all.iter().find(|task| task["stage"] == "diarize").unwrap();
    assert_eq!(skipped["status"], "skipped");

    std::fs::rename(&hidden, &stored).unwrap();
    let again = product
        .request(
            reqwest::Method::POST,
            &format!(
                "/v1/audio/transcriptions/{job}/tasks/{}/retry",
                skipped["task_id"].as_str().unwrap()
            ),
        )
        .send()
        .await
        .unwrap();
    assert!(
        again.status().is_success(),
        "{}",
        again.text().await.unwrap()
    );
    let body = product.wait_completed(job).await;
    assert_eq!(body["text"], text.as_str());
    assert_eq!(body["speakers"].as_array().unwrap().len(), 2, "{body:#}");
    let after = tasks(&product, job).await;
    let started = |tasks: &[Value], stage: &str| {
        let task = tasks.iter().find(|task| task["stage"] == stage).unwrap();
        task["started_at"].clone()
    };
    // Only what failed and what depends on it ran again.
    assert_eq!(started(&all, "transcribe"), started(&after, "transcribe"));
    assert_ne!(started(&all, "diarize"), started(&after, "diarize"));
    assert_ne!(started(&all, "merge"), started(&after, "merge"));
}

/// The file of an object, wherever in the data folder the store is.
fn find(folder: &std::path::Path, key: &str) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        if next.join(key).is_file() {
            return next.join(key);
        }
        let entries = std::fs::read_dir(&next).unwrap().flatten();
        folders.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    panic!("{key} is not under {}", folder.display());
}

#[tokio::test]
async fn a_job_may_wait_for_a_model_that_no_worker_has() {
    let settings = [
        ("DALSTON_ENGINE_UNAVAILABLE_BEHAVIOR", "wait"),
        ("DALSTON_ENGINE_WAIT_TIMEOUT_SECONDS", "2"),
    ];
    let mut product = Product::start_with(Cluster::shared(), &settings).await;
    let lost = product.submit(&utterance("test-00000"), &[]).await;
    let depth: i64 = sqlx::query_scalar(
        "select sum(ready)::bigint from queue_depth where workers = 0 and stage = 'prepare'",
    )
    .fetch_one(&product.database)
    .await
    .unwrap();
    assert_eq!(depth, 1);
    let body = product.wait_for(&lost, &["failed"]).await;
    let error = body["error"].as_str().unwrap();
    assert!(error.contains("no worker has offered prepare"), "{error}");
    let patient = product.submit(&utterance("test-00000"), &[]).await;
    let started = Instant::now();
    product.start_worker().await;
    product.wait_completed(&patient).await;
    assert!(started.elapsed() < Duration::from_secs(60));
    product.assert_consistent().await;
}
