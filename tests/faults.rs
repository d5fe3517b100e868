//! Faults on real processes. Each test is named after the fault it causes, causes it for real, and then insists that
//! every accepted job ended in the right state, none twice, and that nothing is left over.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::product::{Cluster, Product, eventually, form};
use crate::recordings::utterance;

/// Builds the library that fakes a wrong clock and a full disk inside one process.
fn shim() -> &'static str {
    static SHIM: OnceLock<PathBuf> = OnceLock::new();
    SHIM.get_or_init(|| {
        let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("fault-shim-{}.so", std::process::id()));
        let built = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/faults/shim.c"))
            .arg("-ldl")
            .status()
            .expect("a C compiler is there: Rust needs one to link");
        assert!(built.success(), "tests/faults/shim.c does not compile");
        library
    })
    .to_str()
    .unwrap()
}

/// The retries of one stage of a job.
async fn retries(product: &Product, job: &str, stage: &str) -> i64 {
    let tasks = product
        .get(&format!("/v1/audio/transcriptions/{job}/tasks"))
        .await;
    tasks["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|task| task["stage"] == stage)
        .unwrap()["retries"]
        .as_i64()
        .unwrap_or(0)
}

async fn count(product: &Product, query: &'static str) -> i64 {
    sqlx::query_scalar(query)
        .fetch_one(&product.database)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_of_a_task_loses_nothing() {
    let mut product = Product::start().await;
    product.start_worker().await;
    let job = product.submit_load("hang=yes attempts=1").await;
    product.wait_running(&job, "transcribe").await;

    product.workers.remove(0).kill();
    product.start_worker().await;

    product.wait_completed(&job).await;
    assert_eq!(retries(&product, &job, "transcribe").await, 1);
    product.assert_consistent().await;
}

#[tokio::test]
async fn a_worker_frozen_past_its_lease_changes_nothing_when_it_thaws() {
    let mut product = Product::start().await;
    let frozen = product.start_worker().await;
    let job = product.submit_load("seconds=1.5").await;
    product.wait_running(&job, "transcribe").await;

    product.workers[frozen].signal(libc::SIGSTOP);
    product.start_worker().await;
    let done = product.wait_completed(&job).await;
    let transcript_before: Value = transcript(&product, &job).await;
    product.workers[frozen].signal(libc::SIGCONT);

    // The thawed worker is alive again once it has taken and finished another job.
    product.workers.remove(1).kill();
    let next = product.submit_load("seconds=0").await;
    product.wait_completed(&next).await;
    assert_eq!(transcript(&product, &job).await, transcript_before);
    let after = product.wait_completed(&job).await;
    assert_eq!(after["completed_at"], done["completed_at"]);
    product.assert_consistent().await;
}

async fn transcript(product: &Product, job: &str) -> Value {
    product
        .get(&format!("/v1/audio/transcriptions/{job}/export/json"))
        .await
}

#[tokio::test]
async fn an_api_killed_during_an_upload_accepts_the_repeated_upload_once() {
    let mut product = Product::start().await;
    product.start_worker().await;

    // An upload that has sent half of its file and then waits.
    let audio = std::fs::read(utterance("test-00000")).unwrap();
    let (first, _second) = audio.split_at(audio.len() / 2);
    let (send, receive) = tokio::sync::mpsc::unbounded_channel::<std::io::Result<Vec<u8>>>();
    send.send(Ok(first.to_vec())).unwrap();
    let stream = futures_util::stream::unfold(receive, |mut receive| async {
        receive.recv().await.map(|part| (part, receive))
    });
    let part =
        reqwest::multipart::Part::stream(reqwest::Body::wrap_stream(stream)).file_name("half.wav");
    let upload = product
        .request(reqwest::Method::POST, "/v1/audio/transcriptions")
        .header("Idempotency-Key", "half-an-upload")
        .multipart(
            reqwest::multipart::Form::new()
                .text("model", "sleep")
                .part("file", part),
        );
    let upload = tokio::spawn(upload.send());
    eventually("the upload to reach the object store", async || {
        files_below(product.folder(), "original").then_some(())
    })
    .await;

    product.api.take().unwrap().kill();
    assert!(upload.await.unwrap().is_err(), "the connection is cut");
    drop(send);
    assert_eq!(count(&product, "select count(*) from jobs").await, 0);

    product.start_api().await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let answer = product
            .post(form(&[utterance("test-00000")], &[("model", "sleep")]))
            .header("Idempotency-Key", "half-an-upload")
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
        let body: Value = answer.json().await.unwrap();
        ids.push(body["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(ids[0], ids[1], "the same key makes one job");
    product.wait_completed(&ids[0]).await;
    assert_eq!(count(&product, "select count(*) from jobs").await, 1);
    product.assert_consistent().await;
}

/// Whether any file below `folder` has `part` in its name.
fn files_below(folder: &Path, part: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, part)
        } else {
            entry.file_name().to_string_lossy().contains(part)
        }
    })
}

#[tokio::test]
async fn cutting_every_database_connection_again_and_again_loses_nothing() {
    let mut product = Product::start().await;
    product.start_worker().await;
    product.start_worker().await;
    let mut jobs = Vec::new();
    for _ in 0..8 {
        jobs.push(product.submit_load("seconds=0.4").await);
    }
    let mut cut = 0;
    for _ in 0..6 {
        let finished_before = count(&product, "select count(*) from job_log").await;
        // Those of the test, which have no name, are left: they would die under its own next look.
        cut += count(
            &product,
            "select count(pg_terminate_backend(pid)) from pg_stat_activity
              where datname = current_database() and application_name like 'dalston-%'",
        )
        .await;
        eventually("work to go on", async || {
            let finished = count(&product, "select count(*) from job_log").await;
            let open = "select count(*) from jobs where completed_at is null";
            (finished > finished_before || count(&product, open).await == 0).then_some(())
        })
        .await;
    }
    assert!(
        cut > 6,
        "only {cut} connections of the product were there to cut"
    );
    for job in &jobs {
        product.wait_completed(job).await;
    }
    assert!(product.workers.iter_mut().all(|worker| !worker.has_ended()));
    product.assert_consistent().await;
}

#[tokio::test]
async fn a_postgres_restart_under_load_loses_nothing() {
    let cluster = tokio::task::spawn_blocking(Cluster::start).await.unwrap();
    let mut product = Product::start_with(&cluster, &[]).await;
    product.start_worker().await;
    let mut jobs = Vec::new();
    for _ in 0..6 {
        jobs.push(product.submit_load("seconds=0.5").await);
    }
    // The first may be over before the last is submitted.
    product.wait_running(&jobs[5], "transcribe").await;

    let before = cluster.pid().unwrap();
    // SAFETY: the server was started by this process and is running.
    assert_eq!(
        unsafe { libc::kill(i32::try_from(before).unwrap(), libc::SIGKILL) },
        0
    );
    eventually("PostgreSQL to be started again", async || {
        cluster.pid().filter(|pid| *pid != before)
    })
    .await;

    for job in &jobs {
        product.wait_completed(job).await;
    }
    let after = product.submit_load("seconds=0").await;
    product.wait_completed(&after).await;
    product.assert_consistent().await;
}

#[tokio::test]
async fn cancelling_against_completion_ends_every_job_exactly_once() {
    let mut product = Product::start().await;
    product.start_worker().await;
    let mut jobs = Vec::new();
    for index in 0..20 {
        let job = product
            .submit_load(&format!("seconds={}", f64::from(index) * 0.01))
            .await;
        let cancel = product
            .request(
                reqwest::Method::POST,
                &format!("/v1/audio/transcriptions/{job}/cancel"),
            )
            .send();
        if index % 2 == 0 {
            product.wait_for(&job, &["running", "completed"]).await;
        }
        let answer = cancel.await.unwrap();
        assert!(
            [200, 409].contains(&answer.status().as_u16()),
            "{}",
            answer.status()
        );
        let accepted = answer.status() == 200;
        jobs.push((job, accepted));
    }
    for (job, cancelled) in &jobs {
        let expected: &[&str] = if *cancelled {
            &["cancelled"]
        } else {
            &["completed"]
        };
        product.wait_for(job, expected).await;
    }
    product.assert_consistent().await;
}

#[tokio::test]
async fn cancelling_reaches_a_running_task_within_a_second() {
    let mut product = Product::start().await;
    product.start_worker().await;
    let job = product.submit_load("hang=yes").await;
    product.wait_running(&job, "transcribe").await;
    let asked = std::time::Instant::now();
    let answer = product
        .request(
            reqwest::Method::POST,
            &format!("/v1/audio/transcriptions/{job}/cancel"),
        )
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    product.wait_for(&job, &["cancelled"]).await;
    let took = asked.elapsed();
    // The promise is one second; the rest is for two busy cores.
    assert!(took < Duration::from_secs(3), "took {took:?}");
    product.assert_consistent().await;
}

#[tokio::test]
async fn a_task_on_which_every_worker_dies_ends_with_the_reason() {
    let mut product = Product::start().await;
    product.start_worker().await;
    let job = product.submit_load("abort=yes").await;
    let healthy = product.submit_load("seconds=0").await;
    let ended = eventually("the poisonous job to be given up", async || {
        if product
            .workers
            .last_mut()
            .is_none_or(|worker| worker.has_ended())
        {
            product.workers.clear();
            product.start_worker().await;
        }
        let body = product
            .get(&format!("/v1/audio/transcriptions/{job}"))
            .await;
        (body["status"] == "failed").then_some(body)
    })
    .await;
    let error = ended["error"].as_str().unwrap();
    assert!(
        error.contains("worker"),
        "the error names the cause: {error}"
    );

    product.wait_completed(&healthy).await;
    product.assert_consistent().await;
}

#[tokio::test]
async fn a_host_whose_clock_is_an_hour_off_neither_steals_nor_loses_leases() {
    let settings = [("DALSTON_LEASE_SECONDS", "5")];
    let mut product = Product::start_with(Cluster::shared(), &settings).await;
    product
        .start_worker_with(&[
            ("LD_PRELOAD", shim()),
            ("DALSTON_FAULT_CLOCK_OFFSET_S", "3600"),
        ])
        .await;
    product
        .start_worker_with(&[
            ("LD_PRELOAD", shim()),
            ("DALSTON_FAULT_CLOCK_OFFSET_S", "-3600"),
        ])
        .await;
    let mut jobs = Vec::new();
    for _ in 0..6 {
        // Longer than a lease, so that it must be extended on the way.
        jobs.push(product.submit_load("seconds=6").await);
    }
    for job in &jobs {
        let body = product.wait_completed(job).await;
        assert_eq!(retries(&product, job, "transcribe").await, 0);
        let created: chrono::DateTime<chrono::Utc> =
            body["created_at"].as_str().unwrap().parse().unwrap();
        let completed: chrono::DateTime<chrono::Utc> =
            body["completed_at"].as_str().unwrap().parse().unwrap();
        let took = (completed - created).num_seconds();
        assert!(
            (0..300).contains(&took),
            "times are the database's: {took} s"
        );
    }
    product.assert_consistent().await;
}

#[tokio::test]
async fn a_full_disk_refuses_uploads_and_delays_running_jobs_but_loses_none() {
    let mut product = Product::start().await;
    let flag = product.folder().join("disk-is-full");
    let full = [
        ("LD_PRELOAD", shim().to_owned()),
        (
            "DALSTON_FAULT_FULL_WHILE",
            flag.to_str().unwrap().to_owned(),
        ),
    ];
    let full: Vec<(&str, &str)> = full.iter().map(|(n, v)| (*n, v.as_str())).collect();
    assert!(product.api.take().unwrap().stop().await.success());
    product.start_api_with(&full).await;
    // The worker is held still until the disk is full.
    let worker = product.start_worker_with(&full).await;
    product.workers[worker].signal(libc::SIGSTOP);
    let accepted = product.submit_load("seconds=0").await;

    std::fs::write(&flag, "").unwrap();
    let refused = product
        .try_submit(&utterance("test-00000"), &[("model", "sleep")])
        .await
        .unwrap();
    assert_eq!(refused.status(), 507);
    let body: Value = refused.json().await.unwrap();
    assert_eq!(body["error"]["code"], "storage_full", "{body}");
    assert_eq!(count(&product, "select count(*) from jobs").await, 1);

    // A worker meets the same full disk when it stores prepared audio: an attempt fails, the job lives.
    product.workers[worker].signal(libc::SIGCONT);
    eventually("an attempt to fail on the full disk", async || {
        (retries(&product, &accepted, "prepare").await > 0).then_some(())
    })
    .await;
    std::fs::remove_file(&flag).unwrap();
    product.wait_completed(&accepted).await;
    product.assert_consistent().await;
}

#[tokio::test]
async fn processes_whose_logs_cannot_be_written_go_on_and_say_so_later() {
    let mut product = Product::start().await;
    let flag = product.folder().join("log-is-full");
    let full = [
        ("LD_PRELOAD", shim().to_owned()),
        (
            "DALSTON_FAULT_LOG_FULL_WHILE",
            flag.to_str().unwrap().to_owned(),
        ),
    ];
    let full: Vec<(&str, &str)> = full.iter().map(|(n, v)| (*n, v.as_str())).collect();
    assert!(product.api.take().unwrap().stop().await.success());
    product.start_api_with(&full).await;
    let worker = product.start_worker_with(&full).await;

    std::fs::write(&flag, "").unwrap();
    let unheard = product.submit_load("seconds=0").await;
    product.wait_completed(&unheard).await;
    assert!(!product.workers[worker].log().contains(&unheard));
    std::fs::remove_file(&flag).unwrap();
    let heard = product.submit_load("seconds=0").await;
    product.wait_completed(&heard).await;
    for process in [product.api.as_ref().unwrap(), &product.workers[worker]] {
        eventually("the log to say what it lost", async || {
            process.log().contains("log lines were lost").then_some(())
        })
        .await;
    }
    product.assert_consistent().await;
}
