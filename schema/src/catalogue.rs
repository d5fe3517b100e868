//! The catalogue of published models: what can be pulled, what serves a registry id, what `auto` prefers.
