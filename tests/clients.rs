//! Clients that Dalston's users have: the official OpenAI SDK, the `dalston` command, psql.

use std::path::{Path, PathBuf};
use std::process::Command;

use dalston_api::export;
use dalston_schema::Transcript;

use crate::product::{ADMIN_KEY, Product, binary, repository, words};
use crate::recordings::{dialogue, utterance};

/// A recording with what is said in it.
const SAMPLE: (&str, &str) = (
    "test-00017",
    "my phone number is five zero seven three one one",
);

/// Runs a program to its end off the async runtime, and answers exit code, standard output and standard error.
async fn run(mut command: Command) -> (i32, String, String) {
    tokio::task::spawn_blocking(move || {
        let output = command.output().unwrap();
        (
            output.status.code().unwrap_or(-1),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    })
    .await
    .unwrap()
}

fn dalston(product: &Product, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command
        .args(arguments)
        .env("DALSTON_SERVER", &product.url)
        .env("DALSTON_API_KEY", ADMIN_KEY)
        .env("DALSTON_DATA_DIR", product.folder().join("client"))
        .current_dir(product.folder());
    command
}

/// The Python that has the clients of others.
fn python() -> PathBuf {
    let python = repository().join(".venv/bin/python");
    assert!(
        python.exists(),
        "{} is missing: run `make setup-test` first",
        python.display()
    );
    python
}

fn sample() -> String {
    utterance(SAMPLE.0).to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_official_openai_sdk_works_unchanged() {
    let mut product = Product::start().await;
    product.start_worker().await;
    let mut command = Command::new(python());
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/openai_sdk.py"))
        .args([&product.url, ADMIN_KEY, &sample(), SAMPLE.1])
        .arg(dialogue("dlg01"));
    let (code, output, errors) = run(command).await;
    assert_eq!(code, 0, "{output}\n{errors}");
}

#[tokio::test]
async fn parsers_of_others_read_every_export() {
    let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
    let transcript = std::fs::read(clients.join("transcript.json")).unwrap();
    let transcript: Transcript = serde_json::from_slice(&transcript).unwrap();
    let options = export::Options {
        max_line_length: 32,
        ..export::Options::default()
    };
    let folder = tempfile::tempdir().unwrap();
    for format in export::Format::ALL {
        let file = format!("transcript.{}", format.extension());
        let text = export::render(format, Some(&transcript), options);
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    let mut command = Command::new(python());
    command.arg(clients.join("exports.py")).arg(folder.path());
    let (code, output, errors) = run(command).await;
    assert_eq!(code, 0, "{output}\n{errors}");
}

#[tokio::test]
async fn the_command_line_transcribes_and_exports() {
    let mut product = Product::start().await;
    product.start_worker().await;

    let (code, text, errors) = run(dalston(&product, &["transcribe", &sample()])).await;
    assert_eq!(code, 0, "{errors}");
    assert_eq!(words(&text), words(SAMPLE.1));

    let (code, json, errors) = run(dalston(&product, &["transcribe", &sample(), "--json"])).await;
    assert_eq!(code, 0, "{errors}");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["status"], "completed");
    let job = json["id"].as_str().unwrap();

    let (code, srt, errors) = run(dalston(&product, &["export", job, "--format", "srt"])).await;
    assert_eq!(code, 0, "{errors}");
    assert!(srt.starts_with("1\n00:00:0"), "{srt}");

    let (code, listed, errors) = run(dalston(&product, &["jobs", "list", "--json"])).await;
    assert_eq!(code, 0, "{errors}");
    assert!(listed.contains(job), "{listed}");

    let (code, _, errors) = run(dalston(&product, &["status"])).await;
    assert_eq!(code, 0, "{errors}");
}

#[tokio::test]
async fn the_command_line_says_by_its_exit_code_what_went_wrong() {
    let product = Product::start().await;
    let (code, _, errors) = run(dalston(&product, &["transcribe", "no-such-file.wav"])).await;
    assert_eq!(code, 2, "{errors}");
    assert!(errors.contains("no-such-file.wav"), "{errors}");
    let (code, _, _) = run(dalston(&product, &["transcribe", "--no-such-flag"])).await;
    assert_eq!(code, 2);
    let mut stranger = dalston(&product, &["jobs", "list"]);
    stranger.env("DALSTON_API_KEY", "dk_wrong");
    let (code, _, errors) = run(stranger).await;
    assert_eq!(code, 1, "{errors}");
    assert!(errors.contains("Invalid API key"), "{errors}");
}
