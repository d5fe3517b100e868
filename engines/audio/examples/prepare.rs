//! Probes and prepares one file, and says how fast and in how much memory: `cargo run --example prepare -- FILE [OUT.wav]`.

#![allow(clippy::print_stdout, reason = "it is a command-line example")]

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use dalston_audio::{AudioInput, AudioLimits, PrepareOptions, prepare, probe};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let file = arguments.next().ok_or("usage: prepare FILE [OUT.wav]")?;
    let started = Instant::now();
    let facts = probe(AudioInput::open(&file)?, &AudioLimits::default())?;
    println!("probe    {:?}  {facts:?}", started.elapsed());
    println!("memory   {}", peak_memory()?);

    let out = arguments.next().unwrap_or_else(|| "/dev/null".into());
    let started = Instant::now();
    let done = prepare(
        AudioInput::open(&file)?,
        &PrepareOptions::default(),
        &mut |_| Ok(File::create(&out)?),
        &mut |_| {},
        &AtomicBool::new(false),
    )?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "prepare  {seconds:.2} s, {:.0} times real time, {:?}",
        done.facts.duration / seconds,
        done.tracks[0].levels
    );
    println!("memory   {}", peak_memory()?);
    Ok(())
}

/// The most memory the process ever had resident.
fn peak_memory() -> Result<String, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    Ok(line.unwrap_or("unknown").to_owned())
}
