//! Fewer points for clustering a long file: windows overlap by nine tenths, so neighbours hold nearly the same voice.
//! Blocks of consecutive points are joined by the same linkage into clusters with a mass, which then stand for them.
//! Costs grow with the length of the file, not with its square, and the matrix of distances has a fixed size.

use ndarray::{Array2, ArrayView2, Axis, s};

use super::linkage::{Merge, centroid_linkage};
use crate::error::Result;
use crate::session::RunGuard;

/// Points of one block, consecutive in time.
const BLOCK: usize = 1500;

/// Points that stand for others.
pub struct Reduced {
    /// Centroids `[m, dimensions]`.
    pub points: Array2<f64>,
    /// How many points each stands for.
    pub masses: Vec<f64>,
    /// Which of them stands for each original point.
    pub member: Vec<usize>,
}

/// Joins `points` `[n, dimensions]` to about `limit`, never across a distance of `threshold` or more. Fewer points than
/// `limit` stay as they are.
///
/// # Errors
/// [`crate::EngineError::Cancelled`] when the guard is stopped.
pub fn reduce(
    points: ArrayView2<'_, f64>,
    limit: usize,
    threshold: f64,
    run: &RunGuard,
) -> Result<Reduced> {
    let n = points.nrows();
    if n <= limit {
        return Ok(Reduced {
            points: points.to_owned(),
            masses: vec![1.0; n],
            member: (0..n).collect(),
        });
    }
    let blocks = n.div_ceil(BLOCK);
    let share = (limit / blocks).max(1);
    let mut masses = Vec::new();
    let mut centroids = Vec::new();
    let mut member = Vec::with_capacity(n);
    for block in points.axis_chunks_iter(Axis(0), BLOCK) {
        let ones = vec![1.0; block.nrows()];
        let merges = centroid_linkage(block, &ones, run, |distance, left| {
            left <= share || distance >= threshold
        })?;
        let groups = groups(&merges, block.nrows());
        let first = masses.len();
        masses.resize(first + groups.count, 0.0);
        centroids.resize((first + groups.count) * points.ncols(), 0.0);
        for (row, &group) in block.outer_iter().zip(&groups.of) {
            let at = first + group;
            masses[at] += 1.0;
            let centroid = &mut centroids[at * points.ncols()..][..points.ncols()];
            for (sum, value) in centroid.iter_mut().zip(row) {
                *sum += value;
            }
            member.push(at);
        }
    }
    let mut points = Array2::from_shape_fn((masses.len(), points.ncols()), |(row, column)| {
        centroids[row * points.ncols() + column]
    });
    for (at, mass) in masses.iter().enumerate() {
        points.slice_mut(s![at, ..]).mapv_inplace(|sum| sum / mass);
    }
    Ok(Reduced {
        points,
        masses,
        member,
    })
}

struct Groups {
    of: Vec<usize>,
    count: usize,
}

/// The clusters that a tree stopped early has left, numbered by their first point.
fn groups(merges: &[Merge], n: usize) -> Groups {
    let mut parent: Vec<usize> = (0..n + merges.len()).collect();
    for (step, merge) in merges.iter().enumerate() {
        parent[merge.first] = n + step;
        parent[merge.second] = n + step;
    }
    // A later step's number is higher, so one pass from the top finds every root.
    for node in (0..parent.len()).rev() {
        parent[node] = parent[parent[node]];
    }
    let mut number = vec![None; parent.len()];
    let mut count = 0;
    let of = (0..n)
        .map(|point| {
            *number[parent[point]].get_or_insert_with(|| {
                count += 1;
                count - 1
            })
        })
        .collect();
    Groups { of, count }
}
