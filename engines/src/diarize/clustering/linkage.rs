//! Centroid linkage (UPGMC): the two clusters with the closest centroids join, until one is left. What
//! `scipy.cluster.hierarchy.linkage(points, "centroid")` and `fcluster(…, "distance")` compute, inversions included: a
//! cluster may lie closer to a third than its halves did, so a merge can be lower than the one before.
//!
//! The search is the generic algorithm of Müllner (2011): every cluster remembers its nearest among those after it, or a
//! bound of its distance, which makes the usual cost O(n²) for one matrix of distances.

use ndarray::ArrayView2;

use crate::error::Result;
use crate::session::RunGuard;

/// One step: two clusters become one. Points are clusters `0..n`; step `i` makes cluster `n + i`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Merge {
    /// The cluster with the lower number.
    pub first: usize,
    /// The other.
    pub second: usize,
    /// Euclidean distance of their centroids.
    pub distance: f64,
    /// Mass of the new cluster: the points in it, by their weights.
    pub mass: f64,
}

/// The distances between all pairs `i < j`, row by row.
struct Distances {
    n: usize,
    squared: Vec<f64>,
}

impl Distances {
    /// Of `points` `[n, dimensions]`.
    fn of(points: ArrayView2<'_, f64>, run: &RunGuard) -> Result<Self> {
        let points = points.as_standard_layout();
        let rows: Vec<&[f64]> = points
            .outer_iter()
            .filter_map(|row| row.to_slice())
            .collect();
        let n = rows.len();
        let mut squared = Vec::with_capacity(n * n.saturating_sub(1) / 2);
        for (i, row) in rows.iter().enumerate() {
            run.check()?;
            squared.extend(
                rows[i + 1..]
                    .iter()
                    .map(|other| squared_distance(row, other)),
            );
        }
        Ok(Self { n, squared })
    }

    fn index(&self, i: usize, j: usize) -> usize {
        let (i, j) = (i.min(j), i.max(j));
        i * self.n - i * (i + 1) / 2 + j - i - 1
    }

    fn get(&self, i: usize, j: usize) -> f64 {
        self.squared[self.index(i, j)]
    }

    /// The nearest active cluster after `i`, and its squared distance.
    fn nearest_after(&self, i: usize, mass: &[f64]) -> (usize, f64) {
        let mut best = (i, f64::INFINITY);
        if i + 1 < self.n {
            let row = &self.squared[self.index(i, i + 1)..][..self.n - i - 1];
            for (after, (&distance, &mass)) in row.iter().zip(&mass[i + 1..]).enumerate() {
                if distance < best.1 && mass > 0.0 {
                    best = (i + 1 + after, distance);
                }
            }
        }
        best
    }
}

/// Summed in lanes, which is what makes it fast.
fn squared_distance(a: &[f64], b: &[f64]) -> f64 {
    const LANES: usize = 8;
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            let difference = a[lane] - b[lane];
            sums[lane] += difference * difference;
        }
    }
    let rest = a_rest.iter().zip(b_rest).map(|(a, b)| (a - b) * (a - b));
    sums.iter().sum::<f64>() + rest.sum::<f64>()
}

/// Joins `points` `[n, dimensions]`, each with the mass of as many points, until one cluster is left or `stop` answers
/// true for the next merge's distance and the number of clusters that are left before it.
///
/// # Errors
/// [`crate::EngineError::Cancelled`] when the guard is stopped.
pub fn centroid_linkage(
    points: ArrayView2<'_, f64>,
    masses: &[f64],
    run: &RunGuard,
    mut stop: impl FnMut(f64, usize) -> bool,
) -> Result<Vec<Merge>> {
    let n = points.nrows();
    let mut distances = Distances::of(points, run)?;
    // A mass of 0 marks a cluster that has joined another.
    let mut mass = masses.to_vec();
    let mut label: Vec<usize> = (0..n).collect();
    let mut nearest: Vec<(usize, f64)> =
        (0..n).map(|i| distances.nearest_after(i, &mass)).collect();
    let mut merges = Vec::with_capacity(n.saturating_sub(1));
    while merges.len() + 1 < n {
        run.check()?;
        let (gone, kept, squared) = closest_pair(&distances, &mass, &mut nearest);
        if gone == kept || stop(squared.sqrt(), n - merges.len()) {
            break;
        }
        let (a, b) = (mass[gone], mass[kept]);
        let whole = a + b;
        mass[gone] = 0.0;
        mass[kept] = whole;
        merges.push(Merge {
            first: label[gone].min(label[kept]),
            second: label[gone].max(label[kept]),
            distance: squared.sqrt(),
            mass: whole,
        });
        label[kept] = n + merges.len() - 1;
        // Lance and Williams' update for centroids.
        for i in (0..n).filter(|&i| i != kept && mass[i] > 0.0) {
            let (to_gone, to_kept) = (distances.get(i, gone), distances.get(i, kept));
            let joined = ((a * to_gone + b * to_kept) - a * b * squared / whole) / whole;
            let at = distances.index(i, kept);
            distances.squared[at] = joined.max(0.0);
        }
        nearest[kept] = distances.nearest_after(kept, &mass);
        for i in (0..kept).filter(|&i| mass[i] > 0.0) {
            let distance = distances.get(i, kept);
            // Where the neighbour is gone or farther now, the old distance stays as a bound.
            if distance <= nearest[i].1 {
                nearest[i] = (kept, distance);
            }
        }
    }
    Ok(merges)
}

/// The two clusters that are closest, the lower first, and their squared distance. `nearest` holds a bound for clusters
/// whose neighbour has changed; the true neighbour is searched only for those that the bound puts first.
fn closest_pair(
    distances: &Distances,
    mass: &[f64],
    nearest: &mut [(usize, f64)],
) -> (usize, usize, f64) {
    loop {
        let mut closest = (0, f64::INFINITY);
        for (i, &(_, bound)) in nearest.iter().enumerate() {
            if bound < closest.1 && mass[i] > 0.0 {
                closest = (i, bound);
            }
        }
        let (i, bound) = closest;
        let neighbour = nearest[i].0;
        if neighbour == i || (mass[neighbour] > 0.0 && distances.get(i, neighbour) <= bound) {
            return (i, neighbour, bound);
        }
        nearest[i] = distances.nearest_after(i, mass);
    }
}

/// Cuts a whole tree over `n` points: every subtree whose merges are all at most `limit` high is one cluster. Clusters are
/// numbered as `fcluster` does, in the order of a walk that visits first branches first and single points last.
pub fn cut(merges: &[Merge], n: usize, height: impl Fn(usize) -> f64, limit: f64) -> Vec<usize> {
    let mut clusters = vec![0; n];
    if merges.is_empty() {
        return clusters;
    }
    // The highest merge of each subtree, which an inversion may hide below its top.
    let mut highest: Vec<f64> = Vec::with_capacity(merges.len());
    for (step, merge) in merges.iter().enumerate() {
        let below = [merge.first, merge.second]
            .into_iter()
            .filter(|&side| side >= n)
            .map(|side| highest[side - n]);
        let top = below.fold(height(step), f64::max);
        highest.push(top);
    }
    let mut visited = vec![false; merges.len()];
    let mut path = vec![merges.len() - 1];
    let mut leader = None;
    let mut count = 0;
    while let Some(&step) = path.last() {
        if leader.is_none() && highest[step] <= limit {
            leader = Some(step);
            count += 1;
        }
        let sides = [merges[step].first, merges[step].second];
        let unseen = sides
            .into_iter()
            .find(|&side| side >= n && !visited[side - n]);
        if let Some(side) = unseen {
            visited[side - n] = true;
            path.push(side - n);
            continue;
        }
        for point in sides.into_iter().filter(|&side| side < n) {
            if leader.is_none() {
                count += 1;
            }
            clusters[point] = count - 1;
        }
        if leader == Some(step) {
            leader = None;
        }
        path.pop();
    }
    clusters
}
