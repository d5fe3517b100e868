//! A hundred jobs of every kind while workers start, stop, freeze and die at random: each job is completed once, with
//! the transcript that the same request gets when nothing happens.
//!
//! The seed is printed and can be set with `DALSTON_TEST_SEED`. It settles what is submitted and what befalls whom; the
//! interleaving is the machine's.

mod fleet;

use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::product::{Cluster, Product, eventually, form};
use crate::recordings::{self, SAMPLE_RATE, dialogue, samples, utterance, write_call};
use crate::sameness::result;
use fleet::Fleet;

/// Jobs in all.
const JOBS: usize = 100;
/// Files of at least forty seconds are cut; a worker takes few tasks at a time, so that several share the work.
const SETTINGS: [(&str, &str); 4] = [
    ("DALSTON_CHUNK_TARGET_SECONDS", "20"),
    ("DALSTON_CHUNK_MINIMUM_SECONDS", "8"),
    ("DALSTON_WORKER_CONCURRENCY", "2"),
    ("DALSTON_WORKER_THREADS", "1"),
];

/// One thing to ask for.
struct Kind {
    name: &'static str,
    /// How many of the hundred jobs ask for it.
    jobs: usize,
    files: Vec<PathBuf>,
    fields: Vec<(&'static str, &'static str)>,
}

impl Kind {
    /// Whether the client of this kind waits for the transcript itself.
    fn waits(&self) -> bool {
        self.fields
            .iter()
            .any(|(name, _)| *name == "response_format")
    }

    async fn ask(&self, product: &Product) -> Asked {
        let form = form(&self.files, &self.fields);
        if !self.waits() {
            return Asked::Job(product.submit_form(form).await);
        }
        let request = product.post_as_openai(form);
        Asked::Answer(tokio::spawn(async move {
            let answer = request.send().await.unwrap();
            let status = answer.status();
            let body: Value = answer.json().await.unwrap();
            assert_eq!(status, 200, "{body}");
            body
        }))
    }
}

/// A request under way.
enum Asked {
    Job(String),
    Answer(JoinHandle<Value>),
}

impl Asked {
    /// What came of it.
    async fn end(self, product: &Product) -> Value {
        match self {
            Self::Job(id) => result(&product.wait_completed(&id).await),
            Self::Answer(answer) => answer.await.unwrap(),
        }
    }
}

/// Every kind of job, on recordings that are written below `folder`.
fn kinds(folder: &std::path::Path) -> Vec<Kind> {
    let talk = samples(&dialogue("dlg01"));
    let excerpt = |name: &str, seconds: u32| {
        let path = folder.join(name);
        let n_samples = (seconds * SAMPLE_RATE) as usize;
        recordings::write(&path, 1, talk.iter().copied().take(n_samples));
        path
    };
    let (short, long) = (excerpt("short.wav", 12), excerpt("long.wav", 45));
    let call = folder.join("call.wav");
    let (first, second) = (utterance("test-00017"), utterance("test-00000"));
    write_call(&call, &first, &second, 4.0);
    let kind = |name, jobs, file: &PathBuf, fields: &[(&'static str, &'static str)]| Kind {
        name,
        jobs,
        files: vec![file.clone()],
        fields: fields.to_vec(),
    };
    const WHISPER: (&str, &str) = ("model", "whisper-nano");
    const PARAKEET: (&str, &str) = ("model", "parakeet-tdt-nano");
    const ALIGNED: (&str, &str) = ("model_align", "wav2vec2-nano");
    const DIARIZED: (&str, &str) = ("speaker_detection", "diarize");
    const ENGLISH: (&str, &str) = ("language", "en");
    vec![
        kind("whisper", 14, &first, &[WHISPER]),
        kind("parakeet", 14, &first, &[PARAKEET]),
        kind("auto in a language", 10, &second, &[ENGLISH]),
        kind(
            "segments with a vocabulary",
            8,
            &second,
            &[
                PARAKEET,
                ("timestamps_granularity", "segment"),
                ("vocabulary", r#"["Dalston"]"#),
            ],
        ),
        kind("aligned words", 10, &first, &[WHISPER, ALIGNED, ENGLISH]),
        kind("speakers", 6, &short, &[PARAKEET, DIARIZED]),
        kind(
            "speakers in one task",
            5,
            &short,
            &[
                WHISPER,
                ALIGNED,
                DIARIZED,
                ENGLISH,
                ("pipeline", "integrated"),
            ],
        ),
        kind(
            "channels",
            6,
            &call,
            &[WHISPER, ENGLISH, ("speaker_detection", "per_channel")],
        ),
        Kind {
            files: vec![first.clone(), second.clone()],
            ..kind(
                "tracks",
                6,
                &first,
                &[
                    PARAKEET,
                    (
                        "tracks",
                        r#"[{"name": "Ada"}, {"name": "Grace", "offset": 5}]"#,
                    ),
                ],
            )
        },
        kind("parts", 3, &long, &[PARAKEET]),
        kind(
            "parts with aligned words and speakers",
            2,
            &long,
            &[WHISPER, ALIGNED, DIARIZED, ENGLISH],
        ),
        kind(
            "load",
            6,
            &short,
            &[("model", "sleep"), ("prompt", "sleep: seconds=0.7")],
        ),
        kind(
            "an OpenAI client",
            6,
            &first,
            &[
                WHISPER,
                ("response_format", "verbose_json"),
                ("timestamp_granularities[]", "word"),
            ],
        ),
        kind(
            "an OpenAI client that wants speakers",
            4,
            &short,
            &[PARAKEET, ("response_format", "diarized_json")],
        ),
    ]
}

#[tokio::test]
async fn workers_that_come_go_freeze_and_die_change_no_transcript() {
    let seed = std::env::var("DALSTON_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    eprintln!("DALSTON_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut product = Product::start_with(Cluster::shared(), &SETTINGS).await;
    let kinds = kinds(product.folder());
    let mut wanted: Vec<&Kind> = kinds
        .iter()
        .flat_map(|kind| std::iter::repeat_n(kind, kind.jobs))
        .collect();
    assert_eq!(wanted.len(), JOBS);
    wanted.shuffle(&mut random);

    let mut fleet = Fleet::start(&mut product);
    let mut quiet = Vec::new();
    for kind in &kinds {
        quiet.push(kind.ask(&product).await);
    }
    let mut expected = Vec::new();
    for asked in quiet {
        expected.push(asked.end(&product).await);
    }

    let before = finished_tasks(&product).await;
    let mut asked = Vec::new();
    for kind in wanted {
        asked.push((kind, kind.ask(&product).await));
    }
    let mut blow_at = before;
    loop {
        blow_at += random.random_range(5..25);
        let all_ended = eventually("the next tasks to be finished", async || {
            let ended = unfinished_jobs(&product).await == 0;
            (ended || finished_tasks(&product).await >= blow_at).then_some(ended)
        })
        .await;
        if all_ended {
            break;
        }
        fleet.suffer(&mut product, &mut random).await;
    }

    let lost = count(
        &product,
        "select coalesce(sum(crashes), 0)::bigint from tasks",
    )
    .await;
    eprintln!("{}; {lost} attempts lost", fleet.story());

    for (kind, asked) in asked {
        let found = asked.end(&product).await;
        let at = kinds.iter().position(|known| known.name == kind.name);
        let expected = &expected[at.unwrap()];
        assert_eq!(found, *expected, "{}", kind.name);
    }
    let completed = count(
        &product,
        "select count(*) from jobs where status = 'completed'",
    )
    .await;
    assert_eq!(completed, (JOBS + kinds.len()) as i64);
    product.assert_consistent().await;
    fleet.stop(&product).await;
}

async fn count(product: &Product, query: &'static str) -> i64 {
    sqlx::query_scalar(query)
        .fetch_one(&product.database)
        .await
        .unwrap()
}

async fn finished_tasks(product: &Product) -> i64 {
    count(product, "select count(*) from tasks where state <> 0").await
}

async fn unfinished_jobs(product: &Product) -> i64 {
    count(
        product,
        "select count(*) from jobs where status in ('pending', 'running')",
    )
    .await
}
