//! Whisper (Radford et al., 2022): log-mel windows of 30 s in, text with time tokens out. File and function names follow
//! openai/whisper, so that both can be read side by side; equality with the transformers implementation is tested
//! token for token.

pub mod backend;
mod decoding;
mod language;
mod longform;
pub mod model;
pub mod pipeline;
mod prompt;
mod segments;
pub mod timing;
pub mod tokenizer;
