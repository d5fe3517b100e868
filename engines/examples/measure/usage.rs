//! What a measured program has used so far.

use anyhow::Context;

/// User and system time of this process and its threads.
pub fn cpu_seconds() -> anyhow::Result<f64> {
    let statistics =
        std::fs::read_to_string("/proc/self/stat").context("reading /proc/self/stat")?;
    let after_name = statistics.rsplit(')').next().unwrap_or_default();
    let ticks = after_name
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse::<f64>);
    // USER_HZ is 100 on every Linux there is.
    Ok(ticks
        .sum::<Result<f64, _>>()
        .context("/proc/self/stat has no times")?
        / 100.0)
}

/// Most memory this process has held at once, MiB.
pub fn peak_rss_mib() -> anyhow::Result<u64> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak
        .and_then(|peak| peak.split_whitespace().next())
        .context("no VmHWM")?;
    Ok(kib.parse::<u64>()? / 1024)
}
