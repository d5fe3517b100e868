//! Which embeddings are one voice: agglomerative clustering as pyannote.audio's `AgglomerativeClustering` does it with
//! centroid linkage. The tree is cut at a distance; with a wanted number of speakers, at the cut closest to it that
//! gives that number; clusters too small to be a speaker join the most similar large one.

mod linkage;
mod reduce;

use ndarray::{Array2, ArrayView2};

pub use linkage::{Merge, centroid_linkage, cut};
use reduce::reduce;

use crate::error::{EngineError, Result};
use crate::session::RunGuard;

/// Distance of unit vectors at which pyannote/speaker-diarization-3.1 cuts.
pub const THRESHOLD: f64 = 0.704_565_496_394_579_9;
/// Embeddings (windows of ten seconds, one a second) a speaker needs at least, in a file that has enough of them.
const MIN_CLUSTER_SIZE: usize = 12;
/// Beyond so many embeddings neighbours are joined first; the matrix of distances then takes 36 MB.
const EXACT_LIMIT: usize = 3000;

/// How many speakers there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SpeakerBounds {
    /// Exactly so many; stands above the other two.
    pub exact: Option<usize>,
    /// At least so many.
    pub min: Option<usize>,
    /// At most so many.
    pub max: Option<usize>,
}

impl SpeakerBounds {
    /// The bounds as a range.
    ///
    /// # Errors
    /// [`EngineError::InvalidRequest`] for a zero, or a minimum above the maximum.
    pub fn range(&self) -> Result<(usize, usize)> {
        let min = self.exact.or(self.min).unwrap_or(1);
        let max = self.exact.or(self.max).unwrap_or(usize::MAX);
        if min == 0 || max == 0 {
            return Err(EngineError::InvalidRequest(
                "a number of speakers must be at least 1".to_owned(),
            ));
        }
        if min > max {
            return Err(EngineError::InvalidRequest(format!(
                "min_speakers ({min}) is above max_speakers ({max}): lower the one or raise the other"
            )));
        }
        Ok((min, max))
    }
}

/// The speaker of each of some `rows` of `voices` `[n, dimensions]`, numbered from 0 without gaps. Only the direction of a
/// voice counts.
///
/// # Errors
/// [`EngineError::InvalidRequest`] for impossible bounds, [`EngineError::Cancelled`].
pub fn cluster(
    voices: ArrayView2<'_, f32>,
    rows: &[usize],
    bounds: SpeakerBounds,
    run: &RunGuard,
) -> Result<Vec<usize>> {
    let (min, max) = bounds.range()?;
    let n = rows.len();
    let (min, max) = (min.min(n), max.min(n));
    if n < 2 || max < 2 {
        return Ok(vec![0; n]);
    }
    let reduced = reduce(voices, rows, EXACT_LIMIT, THRESHOLD, run)?;
    let merges = centroid_linkage(reduced.points.view(), &reduced.masses, run, |_, _| false)?;
    let tree = Tree {
        merges: &merges,
        masses: &reduced.masses,
        min_size: MIN_CLUSTER_SIZE.min(round_half_even(0.1 * n as f64).max(1)) as f64,
    };
    let clusters = tree.choose(min, max, run)?;
    let clusters = tree.join_small(clusters, reduced.points.view());
    Ok(reduced.member.iter().map(|&at| clusters[at]).collect())
}

/// Python's `round`.
fn round_half_even(value: f64) -> usize {
    value.round_ties_even() as usize
}

/// A whole tree and what counts as a speaker in it.
struct Tree<'a> {
    merges: &'a [Merge],
    masses: &'a [f64],
    min_size: f64,
}

/// A cut: the cluster of each point, and the mass of each cluster.
struct Clusters {
    of: Vec<usize>,
    sizes: Vec<f64>,
}

impl Tree<'_> {
    fn cut(&self, height: impl Fn(usize) -> f64, limit: f64) -> Clusters {
        let of = cut(self.merges, self.masses.len(), height, limit);
        let mut sizes = vec![0.0; of.iter().max().map_or(0, |last| last + 1)];
        for (&cluster, mass) in of.iter().zip(self.masses) {
            sizes[cluster] += mass;
        }
        Clusters { of, sizes }
    }

    fn n_large(&self, clusters: &Clusters) -> usize {
        self.large(clusters).count()
    }

    /// The clusters that can be a speaker, in order.
    fn large<'a>(&'a self, clusters: &'a Clusters) -> impl Iterator<Item = usize> + 'a {
        let is_large = |&cluster: &usize| clusters.sizes[cluster] >= self.min_size;
        (0..clusters.sizes.len()).filter(is_large)
    }

    /// The cut at the threshold, or the one nearest to it whose number of speakers fits.
    fn choose(&self, min: usize, max: usize, run: &RunGuard) -> Result<Clusters> {
        let clusters = self.cut(|step| self.merges[step].distance, THRESHOLD);
        let n_large = self.n_large(&clusters);
        let wanted = n_large.clamp(min, max);
        if wanted == n_large {
            return Ok(clusters);
        }
        let mut steps: Vec<usize> = (0..self.merges.len()).collect();
        let from_threshold = |step: &usize| (self.merges[*step].distance - THRESHOLD).abs();
        steps.sort_by(|a, b| from_threshold(a).total_cmp(&from_threshold(b)));
        // From here on a cut is a number of merges done, in the order they were done.
        let after = |step: usize| self.cut(|step| step as f64, step as f64);
        let mut best: (usize, usize) = (self.merges.len(), 1);
        for step in steps {
            run.check()?;
            // A merge that makes no large cluster changes nothing.
            if self.merges[step].mass < self.min_size {
                continue;
            }
            let found = self.n_large(&after(step));
            if found.abs_diff(wanted) < best.1.abs_diff(wanted) {
                best = (step, found);
            }
            if found == wanted {
                break;
            }
        }
        Ok(after(best.0))
    }

    /// Gives small clusters to the large one whose centroid is most similar, and closes the gaps in the numbers.
    fn join_small(&self, clusters: Clusters, points: ArrayView2<'_, f64>) -> Vec<usize> {
        let large: Vec<usize> = self.large(&clusters).collect();
        let Clusters { of, sizes } = clusters;
        if large.is_empty() {
            return vec![0; of.len()];
        }
        let mut centroids = Array2::<f64>::zeros((sizes.len(), points.ncols()));
        for ((point, &cluster), &mass) in points.outer_iter().zip(&of).zip(self.masses) {
            centroids.row_mut(cluster).scaled_add(mass, &point);
        }
        for mut row in centroids.outer_iter_mut() {
            let norm = row.dot(&row).sqrt().max(f64::MIN_POSITIVE);
            row.mapv_inplace(|value| value / norm);
        }
        let home: Vec<usize> = (0..sizes.len())
            .map(|cluster| {
                if let Ok(at) = large.binary_search(&cluster) {
                    return at;
                }
                let similarity = |at: usize| centroids.row(large[at]).dot(&centroids.row(cluster));
                (0..large.len())
                    .rev()
                    .max_by(|&a, &b| similarity(a).total_cmp(&similarity(b)))
                    .unwrap_or(0)
            })
            .collect();
        of.iter().map(|&cluster| home[cluster]).collect()
    }
}
