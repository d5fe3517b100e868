//! API keys made by this program: the first administrator key of an empty database, and the file that lets client commands
//! on the same data folder use it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dalston_schema::db::PgPool;
use dalston_schema::db::keys::{self, NewApiKey};
use dalston_schema::{ApiKeyId, TenantId};
use secrecy::{ExposeSecret, SecretString};

use crate::private_file;

/// What every key starts with.
const PREFIX: &str = "dk_";
/// Random bytes in a key.
const RANDOM_BYTES: usize = 32;
/// Characters of a key that are shown to people.
const SHOWN: usize = 10;

/// The scopes there are.
pub const SCOPES: [&str; 5] = ["jobs:read", "jobs:write", "realtime", "webhooks", "admin"];

/// Makes a new key: `dk_` and 32 random bytes in unpadded URL-safe base64.
pub fn generate() -> SecretString {
    format!(
        "{PREFIX}{}",
        URL_SAFE_NO_PAD.encode(rand::random::<[u8; RANDOM_BYTES]>())
    )
    .into()
}

/// What is stored of a key: its hash and its first characters.
pub fn record(
    key: &SecretString,
    name: &str,
    scopes: &[String],
    rate_limit: Option<i32>,
) -> NewApiKey {
    let text = key.expose_secret();
    NewApiKey {
        id: ApiKeyId::generate(),
        key_hash: keys::hash_key(text),
        prefix: text.chars().take(SHOWN).collect(),
        name: name.to_owned(),
        tenant_id: TenantId::DEFAULT,
        scopes: scopes.to_vec(),
        rate_limit,
        expires_at: None,
        created_by: None,
    }
}

/// Where the generated key of a data folder is kept.
pub fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.key")
}

/// Makes sure that a database without keys gets an administrator key: `seed`, or a random one, which is kept in the data
/// folder and answered so that it can be shown once. Answers `None` when nothing needs to be shown.
pub async fn ensure(
    pool: &PgPool,
    seed: Option<&SecretString>,
    data_dir: &Path,
) -> anyhow::Result<Option<SecretString>> {
    let admin = ["admin".to_owned()];
    if let Some(seed) = seed {
        if !seed.expose_secret().starts_with(PREFIX) {
            bail!("DALSTON_API_KEY must start with {PREFIX}; unset it to get a random key");
        }
        let stored =
            keys::ensure_admin(pool, &record(seed, "Seeded Admin Key", &admin, None)).await?;
        if stored {
            tracing::info!("DALSTON_API_KEY is the administrator key of this new database");
        }
        return Ok(None);
    }
    let key = generate();
    let stored = keys::ensure_admin(
        pool,
        &record(&key, "Auto-generated Admin Key", &admin, None),
    )
    .await
    .context("creating the first API key")?;
    if !stored {
        return Ok(None);
    }
    private_file::write(&file(data_dir), key.expose_secret())?;
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_documented_form_and_are_never_equal() {
        let (one, other) = (generate(), generate());
        assert_eq!(one.expose_secret().len(), 46);
        assert!(one.expose_secret().starts_with("dk_"));
        assert!(
            one.expose_secret()[3..]
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
        );
        assert_ne!(one.expose_secret(), other.expose_secret());
    }

    #[test]
    fn a_record_holds_the_hash_and_ten_characters() {
        let record = record(
            &"dk_abc1234567890".to_owned().into(),
            "laptop",
            &["admin".to_owned()],
            Some(5),
        );
        assert_eq!(record.prefix, "dk_abc1234");
        assert_eq!(record.key_hash.len(), 64);
        assert!(!format!("{record:?}").contains("567890"));
    }
}
