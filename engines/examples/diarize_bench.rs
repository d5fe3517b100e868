//! Diarizes one file again and again for `bench/diarization`: a pass for every line on standard input, a line of JSON for
//! every pass.
//!
//! ```text
//! diarize_bench SEGMENTATION_FOLDER EMBEDDING_FOLDER AUDIO.wav THREADS
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
use dalston_engines::{
    AudioSource, Device, DiarizeRequest, Diarizer, LoadOptions, Runtime, RuntimeOptions,
    SpeakerEmbedding, SpeakerSegmentation, WavSource,
};
use usage::{cpu_seconds, peak_rss_mib};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [segmentation, embedding, audio, threads] = &arguments[..] else {
        bail!("usage: diarize_bench SEGMENTATION_FOLDER EMBEDDING_FOLDER AUDIO.wav THREADS");
    };
    let runtime = Runtime::load(&RuntimeOptions {
        device: Device::Cpu,
        library: None,
    })?;
    let options = LoadOptions {
        threads: threads.parse().context("THREADS is no number")?,
        ..LoadOptions::for_device(Device::Cpu)
    };
    let diarizer = Diarizer::new(
        SpeakerSegmentation::load(&runtime, Path::new(segmentation), &options)?,
        SpeakerEmbedding::load(&runtime, Path::new(embedding), &options)?,
    );
    let source: Arc<dyn AudioSource> = Arc::new(WavSource::open(Path::new(audio))?);
    for line in std::io::stdin().lines() {
        line?;
        let (wall, cpu) = (Instant::now(), cpu_seconds()?);
        let answer = diarizer.diarize(DiarizeRequest::new(Arc::clone(&source)))?;
        let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_seconds()? - cpu);
        let turns: Vec<_> = answer
            .turns
            .iter()
            .map(|turn| (turn.start, turn.end, turn.speaker))
            .collect();
        let result = serde_json::json!({
            "audio_s": source.duration(),
            "wall_s": wall,
            "cpu_s": cpu,
            "peak_rss_mib": peak_rss_mib()?,
            "turns": turns,
        });
        println!("{result}");
    }
    Ok(())
}
