//! Fewer points for clustering a long file: windows overlap by nine tenths, so neighbours hold nearly the same voice.
//! Blocks of consecutive points are joined by the same linkage into clusters with a mass, which then stand for them.
//! Costs grow with the length of the file, not with its square, and the matrix of distances has a fixed size.

use ndarray::{Array2, ArrayView2};

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

/// Joins the `rows` of `voices` `[n, dimensions]`, brought to length 1, to about `limit` points, never across a distance of
/// `threshold` or more. Fewer than `limit` stay as they are.
///
/// # Errors
/// [`crate::EngineError::Cancelled`] when the guard is stopped.
pub fn reduce(
    voices: ArrayView2<'_, f32>,
    rows: &[usize],
    limit: usize,
    threshold: f64,
    run: &RunGuard,
) -> Result<Reduced> {
    let n = rows.len();
    if n <= limit {
        return Ok(Reduced {
            points: unit_rows(voices, rows),
            masses: vec![1.0; n],
            member: (0..n).collect(),
        });
    }
    let share = (limit / n.div_ceil(BLOCK)).max(1);
    let size = voices.ncols();
    let mut masses = Vec::new();
    let mut centroids = Vec::new();
    let mut member = Vec::with_capacity(n);
    for block in rows.chunks(BLOCK) {
        let points = unit_rows(voices, block);
        let ones = vec![1.0; block.len()];
        let merges = centroid_linkage(points.view(), &ones, run, |distance, left| {
            left <= share || distance >= threshold
        })?;
        let groups = groups(&merges, block.len());
        let first = masses.len();
        masses.resize(first + groups.count, 0.0);
        centroids.resize((first + groups.count) * size, 0.0);
        for (point, &group) in points.outer_iter().zip(&groups.of) {
            let at = first + group;
            masses[at] += 1.0;
            for (sum, value) in centroids[at * size..][..size].iter_mut().zip(point) {
                *sum += value;
            }
            member.push(at);
        }
    }
    let points = Array2::from_shape_fn((masses.len(), size), |(row, column)| {
        centroids[row * size + column] / masses[row]
    });
    Ok(Reduced {
        points,
        masses,
        member,
    })
}

/// Some rows, each brought to length 1 in the precision of the voices, as numpy does it.
pub fn unit_rows(voices: ArrayView2<'_, f32>, rows: &[usize]) -> Array2<f64> {
    let mut unit = Array2::zeros((rows.len(), voices.ncols()));
    for (&row, mut out) in rows.iter().zip(unit.outer_iter_mut()) {
        let voice = voices.row(row);
        let squares: f32 = voice.iter().map(|value| value * value).sum();
        let norm = squares.sqrt().max(f32::MIN_POSITIVE);
        for (out, value) in out.iter_mut().zip(voice) {
            *out = f64::from(value / norm);
        }
    }
    unit
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
