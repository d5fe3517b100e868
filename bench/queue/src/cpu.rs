//! CPU time of the server and of what calls it, from `/proc`: figures that a busy machine does not distort.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use dalston_test_postgres::Server;

/// Clock ticks a second in `/proc`, the same on every Linux.
const TICKS: f64 = 100.0;

/// What a stretch of work took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    /// Tasks a second of wall-clock time.
    pub(crate) rate: f64,
    /// CPU time of PostgreSQL for each task, µs.
    pub(crate) server: f64,
    /// CPU time of its clients for each task, µs.
    pub(crate) client: f64,
}

impl Cost {
    /// The median of each figure.
    pub(crate) fn median(costs: &[Self]) -> Self {
        Self {
            rate: median(costs.iter().map(|cost| cost.rate)),
            server: median(costs.iter().map(|cost| cost.server)),
            client: median(costs.iter().map(|cost| cost.client)),
        }
    }
}

/// The middle one of some figures.
pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// A running measurement.
pub(crate) struct Stopwatch<'a> {
    server: &'a Server,
    begin: Instant,
    server_ticks: u64,
    client_ticks: u64,
}

impl<'a> Stopwatch<'a> {
    pub(crate) fn start(server: &'a Server) -> Result<Self> {
        Ok(Self {
            server,
            begin: Instant::now(),
            server_ticks: server_ticks(server)?,
            client_ticks: own_ticks()?,
        })
    }

    /// What `tasks` tasks have taken since the start.
    pub(crate) fn stop(self, tasks: usize) -> Result<Cost> {
        let seconds = self.begin.elapsed().as_secs_f64();
        let micros = |ticks: u64| ticks as f64 / TICKS * 1e6 / tasks as f64;
        Ok(Cost {
            rate: tasks as f64 / seconds,
            server: micros(server_ticks(self.server)?.saturating_sub(self.server_ticks)),
            client: micros(own_ticks()?.saturating_sub(self.client_ticks)),
        })
    }
}

/// Of this process and the children it has waited for.
fn own_ticks() -> Result<u64> {
    let fields = stat("self").context("no /proc/self/stat")?;
    Ok(fields[TIMES].iter().sum())
}

/// Of the postmaster, its processes, and those that have ended.
fn server_ticks(server: &Server) -> Result<u64> {
    let pid_file = server.socket_directory().join("data/postmaster.pid");
    let text =
        fs::read_to_string(&pid_file).with_context(|| format!("reading {}", pid_file.display()))?;
    let postmaster = text.lines().next().context("an empty postmaster.pid")?;
    let fields = stat(postmaster).context("no postmaster")?;
    let mut ticks = fields[TIMES].iter().sum();
    let parent: u64 = postmaster.parse()?;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        // A process that has ended meanwhile is counted by the postmaster.
        if let Some(child) = name.to_str().and_then(stat)
            && child[PARENT] == parent
        {
            ticks += child[TIMES][..2].iter().sum::<u64>();
        }
    }
    Ok(ticks)
}

/// Fields of [`stat`]: the parent's id, and the time in user mode and in the kernel, own and of children that ended.
const PARENT: usize = 0;
const TIMES: std::ops::Range<usize> = 10..14;

/// The numbers of `/proc/<pid>/stat` after the state; `None` when there is no such process.
fn stat(pid: &str) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything.
    let rest = text.rsplit_once(')')?.1;
    let numbers = rest.split_whitespace().skip(1);
    Some(numbers.map(|field| field.parse().unwrap_or(0)).collect())
}
