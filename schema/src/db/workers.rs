//! Workers: registration, heartbeats and what they offer.
