//! Transducers (Graves, 2012) and their kind with durations (TDT; Xu et al., 2023): a network over the encoder's states
//! and the text so far says at each step which token comes next, or none, and where to listen next.
//!
//! The prediction and joint networks are small beside the encoder and called thousands of times for a minute of audio.
//! Their weights are read out of the published graphs and run here, all windows of a batch in step, without a session
//! call per step; the prediction network runs only for windows that said something.

pub(super) mod greedy;
mod lstm;
mod matrix;
pub(super) mod network;
