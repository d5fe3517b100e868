//! API keys: made once, stored hashed, looked up by hash.
