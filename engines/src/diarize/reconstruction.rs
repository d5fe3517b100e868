//! From windows back to one timeline. Windows vote: each says which speakers it hears in each of its frames and how many
//! there are. A frame gets the mean number of speakers, rounded, and those with the most votes; among equals the one
//! with the lower number, as a stable sort would have it. Frames are settled as soon as no later window can reach them.

use super::classes::Tracks;
use super::grid::WindowGrid;
use super::tracks::HeardTracks;

/// A stretch in which one speaker speaks without a pause.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// The cluster that speaks.
    pub cluster: usize,
    /// First frame of the file.
    pub start: usize,
    /// One past the last frame.
    pub end: usize,
    /// Mean share of the windows over its frames that hear this speaker, 0–1.
    pub agreement: f32,
}

/// The timeline.
pub struct Timeline {
    /// In order of start, then of cluster.
    pub runs: Vec<Run>,
    /// How many speak in each frame; empty unless asked for.
    pub counts: Vec<u8>,
    /// Frames in which more than one speaks.
    pub n_overlapped: usize,
}

/// Votes on the frames that windows can still reach.
struct Votes {
    n_clusters: usize,
    /// `[frames, clusters]`: windows that hear the cluster.
    heard: Vec<u16>,
    /// Active tracks, summed over windows.
    active: Vec<u16>,
    /// Windows over the frame.
    windows: Vec<u16>,
}

impl Votes {
    fn new(n_clusters: usize) -> Self {
        Self {
            n_clusters,
            heard: Vec::new(),
            active: Vec::new(),
            windows: Vec::new(),
        }
    }

    fn add(&mut self, frame: usize, tracks: Tracks, clusters: &[Option<usize>]) {
        if frame >= self.windows.len() {
            self.heard.resize((frame + 1) * self.n_clusters, 0);
            self.active.resize(frame + 1, 0);
            self.windows.resize(frame + 1, 0);
        }
        self.windows[frame] += 1;
        self.active[frame] += tracks.count_ones() as u16;
        let speaks = |track: usize| tracks & 1 << track != 0;
        for (track, cluster) in clusters.iter().enumerate() {
            let Some(cluster) = cluster.filter(|_| speaks(track)) else {
                continue;
            };
            // Two tracks of one speaker are one vote.
            let told = (0..track).any(|other| speaks(other) && clusters[other] == Some(cluster));
            if !told {
                self.heard[frame * self.n_clusters + cluster] += 1;
            }
        }
    }

    fn forget(&mut self, frames: usize) {
        self.heard.drain(..frames * self.n_clusters);
        self.active.drain(..frames);
        self.windows.drain(..frames);
    }
}

/// The runs that are open, and those that are closed.
struct Writer {
    open: Vec<Option<(usize, f32)>>,
    runs: Vec<Run>,
    counts: Vec<u8>,
    keep_counts: bool,
    n_overlapped: usize,
    frame: usize,
}

impl Writer {
    /// Settles the next frame.
    fn settle(&mut self, votes: &[u16], active: u16, windows: u16) {
        let mean = f64::from(active) / f64::from(windows.max(1));
        let count = mean.round_ties_even() as usize;
        if self.keep_counts {
            self.counts.push(count as u8);
        }
        let mut order: Vec<usize> = (0..votes.len()).filter(|&k| votes[k] > 0).collect();
        order.sort_by_key(|&cluster| std::cmp::Reverse(votes[cluster]));
        order.truncate(count);
        if order.len() > 1 {
            self.n_overlapped += 1;
        }
        for (cluster, &heard) in votes.iter().enumerate() {
            if order.contains(&cluster) {
                let share = f32::from(heard) / f32::from(windows.max(1));
                let (_, agreement) = self.open[cluster].get_or_insert((self.frame, 0.0));
                *agreement += share;
            } else {
                self.close(cluster);
            }
        }
        self.frame += 1;
    }

    fn close(&mut self, cluster: usize) {
        if let Some((start, agreement)) = self.open[cluster].take() {
            self.runs.push(Run {
                cluster,
                start,
                end: self.frame,
                agreement: agreement / (self.frame - start) as f32,
            });
        }
    }
}

/// Puts the windows together. `clusters` `[windows × n_tracks]` says which speaker each track is; `None` is silent.
pub fn reconstruct(
    heard: &HeardTracks,
    clusters: &[Option<usize>],
    n_tracks: usize,
    n_clusters: usize,
    keep_counts: bool,
) -> Timeline {
    let grid: WindowGrid = heard.grid;
    let n_windows = heard.n_windows();
    let mut votes = Votes::new(n_clusters);
    let mut writer = Writer {
        open: vec![None; n_clusters],
        runs: Vec::new(),
        counts: Vec::new(),
        keep_counts,
        n_overlapped: 0,
        frame: 0,
    };
    for window in 0..n_windows {
        let first = grid.first_frame(window) - writer.frame;
        let clusters = &clusters[window * n_tracks..][..n_tracks];
        for (at, &tracks) in heard.window(window).iter().enumerate() {
            votes.add(first + at, tracks, clusters);
        }
        let settled = if window + 1 == n_windows {
            votes.windows.len()
        } else {
            (grid.first_frame(window + 1) - writer.frame).min(votes.windows.len())
        };
        for frame in 0..settled {
            let heard = &votes.heard[frame * n_clusters..][..n_clusters];
            writer.settle(heard, votes.active[frame], votes.windows[frame]);
        }
        votes.forget(settled);
    }
    // The grid goes a little beyond the last window; nothing is heard there.
    let none = vec![0; n_clusters];
    for _ in writer.frame..grid.total_frames(n_windows) {
        writer.settle(&none, 0, 0);
    }
    for cluster in 0..n_clusters {
        writer.close(cluster);
    }
    writer.runs.sort_by_key(|run| (run.start, run.cluster));
    Timeline {
        runs: writer.runs,
        counts: writer.counts,
        n_overlapped: writer.n_overlapped,
    }
}
