//! From upload to transcript.

use dalston_schema::{JobStatus, Stage};

use crate::harness::{Harness, dialogue, eventually, sleeping, utterance, wav, whisper};

#[tokio::test(flavor = "multi_thread")]
async fn an_utterance_becomes_a_transcript_with_words() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let job = harness
        .submit(&utterance("dev-00000"), &whisper(true))
        .await;
    let transcript = harness.transcript(job).await;
    assert_eq!(transcript.text, "We will finish in thirty four minutes.");
    assert_eq!(transcript.metadata.language, "en");
    assert_eq!(
        transcript.metadata.pipeline_stages,
        ["prepare", "transcribe", "merge"]
    );
    assert_eq!(transcript.segments[0].id, "seg_000");
    let words: Vec<_> = transcript
        .segments
        .iter()
        .flat_map(|segment| segment.words.clone().unwrap())
        .collect();
    assert_eq!(words.len(), transcript.text.split_whitespace().count());
    assert!(words.windows(2).all(|pair| pair[0].start <= pair[1].start));
    let ended = harness.job(job).await;
    assert_eq!(ended.progress, 1.0);
    assert_eq!(
        ended.result_segment_count,
        Some(transcript.segments.len() as i32)
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dialogues_transcribed_side_by_side_keep_their_words_apart() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let mut jobs = Vec::new();
    // The word error rates of the reference implementation with these weights (models/whisper-nano/golden).
    for (name, reference_rate) in [("dlg01", 0.09), ("dlg03", 0.2)] {
        let file = dialogue(&format!("{name}.wav"));
        let job = harness.submit(&file, &whisper(false)).await;
        jobs.push((name, reference_rate, job));
    }
    for (name, reference_rate, job) in jobs {
        let transcript = harness.transcript(job).await;
        let reference: serde_json::Value =
            serde_json::from_slice(&std::fs::read(dialogue(&format!("{name}.json"))).unwrap())
                .unwrap();
        let expected = words(reference["text"].as_str().unwrap());
        let errors = edit_distance(&words(&transcript.text), &expected);
        let rate = errors as f64 / expected.len() as f64;
        assert!(rate <= reference_rate, "{name}: word error rate {rate:.3}");
        assert_eq!(transcript.metadata.pipeline_warnings, [""; 0], "{name}");
        let duration = transcript.metadata.audio_duration;
        assert!(
            transcript
                .segments
                .iter()
                .all(|segment| segment.end <= duration)
        );
    }
    worker.stop().await;
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Words to insert, delete or replace to get from one text to the other.
fn edit_distance(from: &[String], to: &[String]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, word) in from.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(word != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[to.len()]
}

#[tokio::test(flavor = "multi_thread")]
async fn prepare_states_facts_waveform_speech_and_level() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let job = harness
        .submit(&utterance("dev-00000"), &sleeping("seconds=0"))
        .await;
    harness.transcript(job).await;
    let prepared = harness.prepared(job).await;
    assert_eq!(prepared.source.codec, "pcm_s16le");
    let track = &prepared.channel_files[0];
    assert!(!track.peaks.is_empty() && track.peaks.len() <= 2_000);
    assert!(!track.speech_regions.is_empty());
    assert!(prepared.speech_ratio > 0.2 && prepared.speech_ratio <= 1.0);
    let size = harness
        .storage
        .size(&dalston_schema::ArtifactKey::from_stored(&track.key))
        .await
        .unwrap();
    assert_eq!(size, 44 + (track.duration * 16_000.0).round() as u64 * 2);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_audio_is_prepared_with_what_a_user_should_know() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let silence = vec![0_i16; 2 * 44_100];
    let clipped: Vec<i16> = (0..8_000)
        .map(|n| if n % 40 < 20 { i16::MAX } else { i16::MIN })
        .collect();
    let silent = harness
        .submit_bytes(wav(44_100, 2, &silence), &whisper(false))
        .await;
    let loud = harness
        .submit_bytes(wav(8_000, 1, &clipped), &whisper(false))
        .await;
    let transcript = harness.transcript(silent).await;
    assert_eq!(transcript.text, "");
    assert!(transcript.segments.is_empty());
    let warnings = &transcript.metadata.pipeline_warnings;
    assert!(
        warnings.iter().any(|w| w.contains("almost silent")),
        "{warnings:?}"
    );
    assert!(
        warnings.iter().any(|w| w.contains("no speech")),
        "{warnings:?}"
    );
    let source = harness.prepared(silent).await.source;
    assert_eq!((source.channels, source.sample_rate), (2, 44_100));
    let transcript = harness.transcript(loud).await;
    let warnings = &transcript.metadata.pipeline_warnings;
    assert!(
        warnings.iter().any(|w| w.contains("clipped")),
        "{warnings:?}"
    );
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_audio_fails_its_job_at_once_and_says_why() {
    let harness = Harness::new().await;
    let worker = harness.run(harness.config());
    let job = harness
        .submit_bytes(b"minutes of the meeting".repeat(100), &sleeping(""))
        .await;
    let ended = harness.end_of(job).await;
    assert_eq!(ended.status, JobStatus::Failed);
    let error = ended.error.unwrap();
    assert!(error.contains("Unable to read audio file"), "{error}");
    assert_eq!(harness.task(job, Stage::Prepare).await.retries, 1);
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_runs_no_more_tasks_than_it_has_permits() {
    let harness = Harness::new().await;
    let mut config = harness.config();
    config.concurrency = std::num::NonZeroUsize::new(2).unwrap();
    let worker = harness.run(config);
    let mut jobs = Vec::new();
    for _ in 0..5 {
        jobs.push(
            harness
                .submit(&utterance("dev-00001"), &sleeping("hang=yes"))
                .await,
        );
    }
    const READY: &str =
        "select count(*) from task_details where stage = 'transcribe' and status = 'ready'";
    const RUNNING: &str =
        "select count(*) from task_details where stage = 'transcribe' and status = 'running'";
    // All are prepared, because short stages have permits of their own; two of them run, three wait.
    eventually("three waiting tasks", async || {
        (harness.count(READY).await == 3).then_some(())
    })
    .await;
    assert_eq!(harness.count(RUNNING).await, 2);
    worker.shutdown.cancel();
    for job in jobs {
        cancel(&harness, job).await;
    }
    worker.stop().await;
}

pub async fn cancel(harness: &Harness, job: dalston_schema::JobId) {
    let scope = dalston_schema::db::jobs::Scope {
        tenant_id: dalston_schema::TenantId::DEFAULT,
        key_id: None,
    };
    dalston_schema::db::jobs::cancel(&harness.database.pool, scope, job)
        .await
        .unwrap();
}
