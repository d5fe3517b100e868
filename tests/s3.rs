//! Audio in an S3-compatible bucket instead of a folder: the same jobs, signed URLs, nothing on the local disk.

use std::process::Command;

use crate::product::{Cluster, Process, Product, eventually, free_port, repository, words};
use crate::recordings::utterance;

const BUCKET: &str = "dalston-tests";

/// An S3-compatible server that keeps objects in its memory, with an empty bucket.
async fn start_s3(folder: &std::path::Path) -> (Process, String) {
    let program = repository().join(".venv/bin/moto_server");
    assert!(
        program.exists(),
        "{} is missing: run `make setup-test` first",
        program.display()
    );
    let port = free_port().to_string();
    let mut command = Command::new(program);
    command.args(["-H", "127.0.0.1", "-p", &port]);
    let server = Process::spawn("s3", command, &folder.join("s3.log"));
    let url = format!("http://127.0.0.1:{port}");
    let bucket = format!("{url}/{BUCKET}");
    eventually("the S3 server to make a bucket", async || {
        let answer = reqwest::Client::new().put(&bucket).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    (server, url)
}

#[tokio::test]
async fn audio_can_live_in_an_s3_compatible_bucket() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (_server, endpoint) = start_s3(folder.path()).await;
    let mut product = Product::start_with(
        Cluster::shared(),
        &[
            ("DALSTON_S3_BUCKET", BUCKET),
            ("DALSTON_S3_REGION", "us-east-1"),
            ("DALSTON_S3_ENDPOINT_URL", &endpoint),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ],
    )
    .await;
    product.start_worker().await;

    let sample = utterance("test-00017");
    let job = product.submit(&sample, &[]).await;
    let body = product.wait_completed(&job).await;
    assert_eq!(
        words(body["text"].as_str().unwrap()),
        words("my phone number is five zero seven three one one")
    );

    let audio = product
        .get(&format!("/v1/audio/transcriptions/{job}/audio"))
        .await;
    let signed = audio["url"].as_str().unwrap();
    assert!(signed.starts_with(&endpoint), "{signed}");
    let fetched = reqwest::get(signed).await.unwrap();
    assert!(fetched.status().is_success(), "{}", fetched.status());
    assert_eq!(
        fetched.bytes().await.unwrap(),
        std::fs::read(&sample).unwrap()
    );

    let deleted = product
        .request(
            reqwest::Method::DELETE,
            &format!("/v1/audio/transcriptions/{job}"),
        )
        .send()
        .await
        .unwrap();
    assert_eq!(deleted.status(), 204);
    let gone = reqwest::get(signed).await.unwrap();
    assert_eq!(gone.status(), 404, "the object went with its job");
}
