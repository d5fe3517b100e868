//! The decoder's self-attention cache: one tensor a layer, a slot for each sequence. The graph writes new keys and
//! values into it; capacity grows as sequences do, so that short texts cost little memory.

use std::borrow::Cow;

use ort::session::SessionInputValue;
use ort::value::Tensor;

use crate::graph::Shape;
use crate::graph::rewrite::cache_name;

/// Positions a cache grows by at least.
const GROWTH: usize = 64;

/// Keys and values, per layer `[n_slots, 2, n_heads, capacity, head_dim]`.
pub(super) struct Cache {
    names: Vec<String>,
    layers: Vec<Tensor<f32>>,
    n_slots: usize,
    n_heads: usize,
    head_dim: usize,
    capacity: usize,
    limit: usize,
}

impl Cache {
    /// An empty cache for sequences of `length` tokens and somewhat more.
    pub(super) fn new(
        shape: &Shape,
        n_layers: usize,
        n_slots: usize,
        length: usize,
    ) -> ort::Result<Self> {
        let mut cache = Self {
            names: (0..n_layers).map(cache_name).collect(),
            layers: Vec::new(),
            n_slots,
            n_heads: shape.decoder_heads,
            head_dim: shape.decoder_head().head_dim,
            capacity: (length + GROWTH).min(shape.n_text_ctx),
            limit: shape.n_text_ctx,
        };
        cache.layers = (0..n_layers)
            .map(|_| cache.empty())
            .collect::<ort::Result<_>>()?;
        Ok(cache)
    }

    fn empty(&self) -> ort::Result<Tensor<f32>> {
        let shape = [self.n_slots, 2, self.n_heads, self.capacity, self.head_dim];
        Tensor::from_array((shape, vec![0.0; shape.iter().product()]))
    }

    /// The graph's inputs. It writes to them, hence `&mut`.
    pub(super) fn inputs<'v>(
        &'v mut self,
    ) -> impl Iterator<Item = (Cow<'v, str>, SessionInputValue<'v>)> {
        let names = self.names.iter().map(|name| Cow::Borrowed(name.as_str()));
        names.zip(
            self.layers
                .iter_mut()
                .map(|layer| SessionInputValue::from(&*layer)),
        )
    }

    /// Makes room for `length` tokens in each sequence; `used` positions of `slots` are kept.
    pub(super) fn reserve(&mut self, length: usize, slots: &[i32], used: usize) -> ort::Result<()> {
        if length <= self.capacity {
            return Ok(());
        }
        let kept: Vec<(usize, usize)> = slots
            .iter()
            .map(|&slot| (slot as usize, slot as usize))
            .collect();
        self.resize(
            self.n_slots,
            (self.capacity * 2).max(length).min(self.limit),
            &kept,
            used,
        )
    }

    /// Slots for new sequences that continue old ones, `sources[i]` being the old sequence that `i` continues. A slot
    /// is handed on; only a sequence that is continued several times is copied.
    pub(super) fn rearrange(
        &mut self,
        slots: &[i32],
        sources: &[usize],
        used: usize,
    ) -> ort::Result<Vec<i32>> {
        let mut taken = vec![false; self.n_slots.max(sources.len())];
        let mut new_slots = vec![-1; sources.len()];
        let mut handed_on = vec![false; slots.len()];
        for (new, &source) in new_slots.iter_mut().zip(sources) {
            if !std::mem::replace(&mut handed_on[source], true) {
                *new = slots[source];
                taken[slots[source] as usize] = true;
            }
        }
        let mut copies = Vec::new();
        let mut free = (0..taken.len()).filter(|&slot| !taken[slot]);
        for (new, &source) in new_slots.iter_mut().zip(sources) {
            if *new < 0
                && let Some(slot) = free.next()
            {
                *new = slot as i32;
                copies.push((slots[source] as usize, slot));
            }
        }
        if sources.len() > self.n_slots {
            let kept: Vec<(usize, usize)> = slots
                .iter()
                .map(|&slot| (slot as usize, slot as usize))
                .collect();
            self.resize(sources.len(), self.capacity, &kept, used)?;
        }
        for layer in &mut self.layers {
            let (_, data) = layer.extract_tensor_mut();
            let slot_len = 2 * self.n_heads * self.capacity * self.head_dim;
            for &(from, to) in &copies {
                for part in 0..2 * self.n_heads {
                    let at = |slot: usize| slot * slot_len + part * self.capacity * self.head_dim;
                    data.copy_within(at(from)..at(from) + used * self.head_dim, at(to));
                }
            }
        }
        Ok(new_slots)
    }

    /// Moves to tensors of other sizes; `kept` are old and new slots.
    fn resize(
        &mut self,
        n_slots: usize,
        capacity: usize,
        kept: &[(usize, usize)],
        used: usize,
    ) -> ort::Result<()> {
        let (old_capacity, parts) = (self.capacity, 2 * self.n_heads);
        (self.n_slots, self.capacity) = (n_slots, capacity);
        for at in 0..self.layers.len() {
            let mut larger = self.empty()?;
            let (_, old) = self.layers[at].extract_tensor();
            let (_, new) = larger.extract_tensor_mut();
            for &(from, to) in kept {
                for part in 0..parts {
                    let from = (from * parts + part) * old_capacity * self.head_dim;
                    let to = (to * parts + part) * capacity * self.head_dim;
                    let len = used * self.head_dim;
                    new[to..to + len].copy_from_slice(&old[from..from + len]);
                }
            }
            self.layers[at] = larger;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;
    use crate::session::{Runtime, RuntimeOptions};

    fn shape() -> Shape {
        Shape {
            n_mels: 80,
            n_ctx: 1500,
            width: 8,
            encoder_heads: 2,
            decoder_heads: 2,
            n_text_ctx: 448,
            n_vocab: 10,
        }
    }

    /// The first number of a slot in a layer.
    fn mark(cache: &mut Cache, layer: usize, slot: i32) -> &mut f32 {
        let slot_len = 2 * cache.n_heads * cache.capacity * cache.head_dim;
        &mut cache.layers[layer].extract_tensor_mut().1[slot as usize * slot_len]
    }

    #[test]
    fn a_sequence_continued_twice_is_copied_and_others_are_handed_on() {
        Runtime::load(&RuntimeOptions::default()).unwrap();
        let mut cache = Cache::new(&shape(), 2, 3, 4).unwrap();
        for slot in 0..3 {
            *mark(&mut cache, 1, slot) = slot as f32 + 10.0;
        }
        let slots = cache.rearrange(&[0, 1, 2], &[2, 2, 0], 4).unwrap();
        assert_eq!(slots, [2, 1, 0]);
        assert_eq!(*mark(&mut cache, 1, 1), 12.0);
        let slots = cache.rearrange(&slots, &[0, 1, 2, 0, 2], 4).unwrap();
        assert_eq!(slots.len(), 5);
        let marks: Vec<f32> = slots
            .iter()
            .map(|&slot| *mark(&mut cache, 1, slot))
            .collect();
        assert_eq!(marks, [12.0, 12.0, 10.0, 12.0, 10.0]);
    }

    #[test]
    fn growing_keeps_what_was_written() {
        Runtime::load(&RuntimeOptions::default()).unwrap();
        let mut cache = Cache::new(&shape(), 1, 2, 4).unwrap();
        *mark(&mut cache, 0, 1) = 7.0;
        let before = cache.capacity;
        cache.reserve(before + 1, &[0, 1], before).unwrap();
        assert!(cache.capacity > before);
        assert_eq!(*mark(&mut cache, 0, 1), 7.0);
        cache.reserve(448, &[0, 1], 100).unwrap();
        assert_eq!(cache.capacity, 448);
    }
}
