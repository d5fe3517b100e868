//! Keys seen in the last seconds, so that a busy client does not cost a query per call. Another process's revocation
//! is noticed when the entry has aged; this process's own at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dalston_schema::db::{DbError, PgPool, keys};

use super::Principal;

/// How long an entry is believed.
const BELIEVED_FOR: Duration = Duration::from_secs(5);
/// Entries kept at most; beyond it the cache starts over.
const MOST_ENTRIES: usize = 10_000;

/// Valid keys by hash. Unknown keys are not remembered: a new key works at once.
#[derive(Default)]
pub struct KeyCache {
    entries: Mutex<HashMap<String, (Instant, Arc<Principal>)>>,
}

impl KeyCache {
    /// The principal of a valid key, or `None` for an unknown, revoked or expired one.
    ///
    /// # Errors
    /// Database trouble.
    pub async fn find(&self, pool: &PgPool, key: &str) -> Result<Option<Arc<Principal>>, DbError> {
        let hash = keys::hash_key(key);
        let now = Instant::now();
        if let Some((seen, principal)) = self.lock().get(&hash)
            && now.duration_since(*seen) < BELIEVED_FOR
        {
            return Ok(Some(principal.clone()));
        }
        let Some(key) = keys::find_by_hash(pool, &hash).await? else {
            self.lock().remove(&hash);
            return Ok(None);
        };
        let principal = Arc::new(Principal::of(key));
        let mut entries = self.lock();
        if entries.len() >= MOST_ENTRIES {
            entries.clear();
        }
        entries.insert(hash, (now, principal.clone()));
        Ok(Some(principal))
    }

    /// Forgets everything, after a key was revoked.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (Instant, Arc<Principal>)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
