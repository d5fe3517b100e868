//! Wake-up: NOTIFY after commit, debounced, and LISTEN with reconnect; never relied on for correctness.
