//! Known speakers with their recordings, and several files that are one recording.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::StatusCode;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::server::{Server, eventually, sample, texts, with_sample};
use crate::worker::Worker;

/// A bundled recording as a data URL.
fn reference(name: &str) -> String {
    format!("data:audio/wav;base64,{}", STANDARD.encode(recording(name)))
}

fn recording(name: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/audio/utterances");
    std::fs::read(format!("{folder}/{name}.wav")).unwrap()
}

fn file(name: &str) -> Part {
    Part::bytes(recording(name)).file_name(format!("{name}.wav"))
}

async fn parameters(server: &Server, job: &str) -> Value {
    sqlx::query_scalar("select parameters from jobs where id = $1::uuid")
        .bind(job)
        .fetch_one(&server.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn recordings_of_speakers_are_stored_with_their_job() {
    let server = Server::start().await;
    Worker::with_voices(&server.pool).await;
    let form = with_sample(&[
        ("speaker_detection", "diarize"),
        ("known_speaker_names[]", "Ann"),
        ("known_speaker_names[]", "Bob"),
    ])
    .text("known_speaker_references[]", reference("dev-00001"))
    .text("known_speaker_references[]", reference("dev-00002"));
    let (status, job) = server.submit(form).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    let id = job["id"].as_str().unwrap();
    let prefix = format!("jobs/{id}/audio");
    assert_eq!(
        parameters(&server, id).await["known_speaker_references"],
        json!([
            {"name": "Ann", "key": format!("{prefix}/speaker0.wav")},
            {"name": "Bob", "key": format!("{prefix}/speaker1.wav")},
        ])
    );
    let stored = std::fs::read(server.folder.join(format!("{prefix}/speaker1.wav"))).unwrap();
    assert!(stored == recording("dev-00002"));
    let (_, job) = server.get(&format!("/v1/audio/transcriptions/{id}")).await;
    let stages: Vec<_> = job["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["stage"].as_str().unwrap())
        .collect();
    assert!(stages.contains(&"diarize"), "{stages:?}");
}

#[tokio::test]
async fn recordings_that_cannot_serve_are_refused_in_either_dialect_and_nothing_stays() {
    let server = Server::start().await;
    Worker::with_voices(&server.pool).await;
    let text = format!("data:audio/wav;base64,{}", STANDARD.encode("no audio"));
    for (clip, message) in [
        (
            reference("dev-00003"),
            "known_speaker_references[0] (Ann) lasts 1.0 s; send 2 to 10 s of the speaker alone",
        ),
        (text, "known_speaker_references[0] (Ann) cannot be used: "),
        (
            "https://example.org/ann.wav".to_owned(),
            "known_speaker_references[0] must be a data URL",
        ),
    ] {
        let fields = [
            ("speaker_detection", "diarize"),
            ("known_speaker_names", "[\"Ann\"]"),
        ];
        let form = with_sample(&fields).text("known_speaker_references", clip.clone());
        let (status, body) = server.submit(form).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let said = body["error"]["message"].as_str().unwrap();
        assert!(said.starts_with(message), "{said}");

        let fields = [
            ("model", "gpt-4o-transcribe-diarize"),
            ("known_speaker_names[]", "Ann"),
        ];
        let form = with_sample(&fields).text("known_speaker_references[]", clip);
        let (status, body) = server.submit(form).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        assert_eq!(body["error"]["code"], "invalid_known_speaker_references");
        assert_eq!(body["error"]["param"], "known_speaker_references");
        let said = body["error"]["message"].as_str().unwrap();
        assert!(said.starts_with(message), "{said}");
    }
    eventually("the store is empty", async || server.objects().is_empty()).await;
}

#[tokio::test]
async fn several_files_become_the_tracks_of_one_recording() {
    let server = Server::start().await;
    // The description may come after the files.
    let form = Form::new()
        .part("file", file("dev-00001"))
        .part("file", file("dev-00002"))
        .text(
            "tracks",
            r#"[{"name": "Ann"}, {"name": "Bob", "offset": 3.5}]"#,
        );
    let (status, job) = server.submit(form).await;
    assert_eq!(status, StatusCode::CREATED, "{job}");
    let id = job["id"].as_str().unwrap();
    let stored = parameters(&server, id).await;
    let prefix = format!("jobs/{id}/audio");
    assert_eq!(
        stored["tracks"],
        json!([
            {"key": format!("{prefix}/original.wav"), "offset": 0.0, "duration": 3.845, "name": "Ann"},
            {"key": format!("{prefix}/track1.wav"), "offset": 3.5, "duration": 2.37, "name": "Bob"},
        ])
    );
    assert_eq!(stored["speaker_detection"], "per_channel");
    let (_, job) = server.get(&format!("/v1/audio/transcriptions/{id}")).await;
    assert_eq!(job["audio_duration_seconds"], 5.87);
    assert_eq!(server.objects().len(), 2);
}

#[tokio::test]
async fn files_that_do_not_fit_their_description_are_refused_and_nothing_stays() {
    let server = Server::start().await;
    let two = || texts(&[]).part("file", sample()).part("file", sample());
    let three_tracks = two().text("tracks", "[{}, {}, {}]");
    let no_audio = Part::bytes(b"no audio".to_vec()).file_name("b.wav");
    let broken = with_sample(&[("tracks", "[{}, {}]")]).part("file", no_audio);
    for (form, message) in [
        (two(), "Send exactly one 'file', or describe several"),
        (two().text("model", "whisper-1"), "Send exactly one 'file'"),
        (three_tracks, "tracks describes 3 files, but 2 came"),
        (
            with_sample(&[("tracks", "[{}, {}]")]),
            "tracks describes 2 files, but 1 came",
        ),
        (broken, "File 2 (b.wav): Unable to read audio file"),
    ] {
        let (status, body) = server.submit(form).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let said = body["error"]["message"].as_str().unwrap();
        assert!(said.starts_with(message), "{said}");
    }
    eventually("the store is empty", async || server.objects().is_empty()).await;
}
