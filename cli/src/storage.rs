//! Where audio is kept, from the configuration.

use dalston_schema::storage::{S3Config, StorageConfig};

use crate::config::Config;

/// The bucket, or the folder `objects` of the data folder.
pub fn config(config: &Config) -> StorageConfig {
    match &config.s3 {
        None => StorageConfig::Folder(config.data_dir.join("objects")),
        Some(s3) => StorageConfig::S3(S3Config {
            bucket: s3.bucket.clone(),
            region: s3.region.clone(),
            endpoint_url: s3.endpoint_url.clone(),
            public_endpoint_url: s3.public_endpoint_url.clone(),
            access_key_id: s3.access_key_id.clone(),
            secret_access_key: s3.secret_access_key.clone(),
        }),
    }
}
