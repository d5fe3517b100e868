//! The OpenAI-compatible dialect of the batch API: the caller waits and gets the text itself.

pub mod dialect;
pub mod request;
pub mod response;
pub mod stream;
pub mod sync;
pub mod translations;
