//! The log of what happened to each job: the source of progress streams.
