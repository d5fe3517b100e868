//! Transcribes one file again and again for `bench/asr`: a pass for every line on standard input, a line of JSON for
//! every pass. The audio is cut into windows of 30 s, which are decoded in batches, greedily, as the peers do it.
//!
//! ```text
//! asr_bench MODEL_FOLDER AUDIO.wav int8|float THREADS BATCH
//! ```
#![allow(
    clippy::print_stdout,
    reason = "the answer of a program that is run by another"
)]

#[path = "measure/usage.rs"]
mod usage;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, bail};
use dalston_engines::model_folder::Precision;
use dalston_engines::registry::{LoadOptions, engine_of};
use dalston_engines::{
    AudioSource, Device, LongForm, Runtime, RuntimeOptions, SAMPLE_RATE, SpeechRegion,
    TranscribeOptions, TranscribeRequest, WavSource,
};
use usage::{cpu_seconds, peak_rss_mib};

/// Length of a window, seconds.
const WINDOW_S: f64 = 30.0;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [model, audio, precision, threads, batch] = &arguments[..] else {
        bail!("usage: asr_bench MODEL_FOLDER AUDIO.wav int8|float THREADS BATCH");
    };
    let precision = match precision.as_str() {
        "int8" => Precision::Int8,
        "float" => Precision::Float,
        other => bail!("unknown precision {other}: use int8 or float"),
    };
    let runtime = Runtime::load(&RuntimeOptions {
        device: Device::Cpu,
        library: None,
    })?;
    let options = LoadOptions {
        precision,
        threads: threads.parse().context("THREADS is no number")?,
        batch_size: batch.parse().context("BATCH is no number")?,
    };
    let folder = Path::new(model);
    let transcriber = (engine_of(folder)?.load)(&runtime, folder, &options)?
        .into_transcriber()
        .context("the model is no transcriber")?;
    let source: Arc<dyn AudioSource> = Arc::new(WavSource::open(Path::new(audio))?);
    let seconds = source.n_samples() as f64 / f64::from(SAMPLE_RATE);

    for line in std::io::stdin().lines() {
        line?;
        let (wall, cpu) = (Instant::now(), cpu_seconds()?);
        let answer = transcriber.transcribe(TranscribeRequest::new(
            Arc::clone(&source),
            request(seconds),
        ))?;
        let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        let text = answer
            .segments
            .iter()
            .map(|segment| segment.text.trim())
            .collect::<Vec<_>>()
            .join(" ");
        let result = serde_json::json!({
            "audio_s": seconds,
            "wall_s": wall,
            "cpu_s": cpu,
            "peak_rss_mib": peak_rss_mib()?,
            "text": text,
        });
        println!("{result}");
    }
    Ok(())
}

/// English, greedy, one temperature, windows side by side.
fn request(seconds: f64) -> TranscribeOptions {
    let windows = (0..)
        .map(|window| f64::from(window) * WINDOW_S)
        .take_while(|start| *start < seconds);
    let windows = windows.map(|start| SpeechRegion {
        start,
        end: (start + WINDOW_S).min(seconds),
    });
    TranscribeOptions {
        language: Some("en".to_owned()),
        temperatures: vec![0.0],
        compression_ratio_threshold: None,
        logprob_threshold: None,
        no_speech_threshold: None,
        condition_on_previous_text: false,
        long_form: LongForm::Batched(windows.collect()),
        ..TranscribeOptions::default()
    }
}
