//! The configuration of every command, read once from the environment and the command line, checked before anything starts.
//!
//! [`GROUPS`] is the list: name, kind, default and meaning. The code below it takes values from [`Config`], never from
//! the environment.

mod kind;
mod settings;
mod show;
mod values;

pub use kind::Kind;
pub use settings::{GROUPS, Group, Setting};
pub use show::{json, markdown, table};
pub use values::{ConfigError, Origin, Values};

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

/// Who may use the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecurityMode {
    /// Holders of an API key.
    ApiKey,
    /// Everybody who reaches the port, as administrator.
    None,
}

/// Where models run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// CUDA when it works, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// CUDA; the start fails when it does not work.
    Cuda,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people: one coloured line each.
    Console,
    /// For machines: one JSON object a line.
    Json,
}

/// How to reach an S3-compatible bucket. Keys come as the AWS tools name them.
#[derive(Debug, Clone)]
pub struct S3 {
    /// The bucket.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// An S3-compatible server; `None` is Amazon's own.
    pub endpoint_url: Option<String>,
    /// The server's address as clients of signed URLs see it.
    pub public_endpoint_url: Option<String>,
    /// `AWS_ACCESS_KEY_ID`; `None` asks the machine's role.
    pub access_key_id: Option<String>,
    /// `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key: Option<SecretString>,
}

/// Everything a command may need. Field by field as [`GROUPS`] documents it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address the API listens on.
    pub host: IpAddr,
    /// Port the API listens on.
    pub port: u16,
    /// Folder of everything Dalston keeps, absolute.
    pub data_dir: PathBuf,
    /// Folder of model folders, absolute.
    pub model_dir: PathBuf,
    /// Whether workers share models through the object store.
    pub share_models: bool,
    /// Folder of downloaded programs and libraries.
    pub runtime_dir: PathBuf,
    /// ONNX Runtime library to load; `None` searches.
    pub ort_library: Option<PathBuf>,
    /// PostgreSQL to use; `None` runs an embedded one.
    pub database_url: Option<SecretString>,
    /// Most database connections of one process.
    pub database_connections: u32,
    /// Whether a transaction pooler stands before the database.
    pub transaction_pooler: bool,
    /// Bucket for audio; `None` keeps it in the data folder.
    pub s3: Option<S3>,
    /// Seeds the admin key on the server, authenticates on the client.
    pub api_key: Option<SecretString>,
    /// Who may use the API.
    pub security: SecurityMode,
    /// Whether `/metrics` answers.
    pub metrics: bool,
    /// Submits and deletions a tenant may make in a minute.
    pub requests_per_minute: u32,
    /// Unfinished jobs a tenant may have.
    pub concurrent_jobs: u32,
    /// Days a finished job (audio and transcript) is kept when its request does not say; 0 purges within two minutes, −1 never.
    pub retention_days: i32,
    /// Whether a job whose model no worker has waits for one, instead of being refused.
    pub wait_for_engines: bool,
    /// Whether models that waiting jobs need are pulled.
    pub pull_needed: bool,
    /// How long a request waits for a first worker, or a job for its model; `None` is the default of either.
    pub engine_wait: Option<Duration>,
    /// Length in seconds of the parts that long files are cut into; 0 never cuts.
    pub chunk_target: f64,
    /// Shortest such part, seconds.
    pub chunk_minimum: f64,
    /// How long an OpenAI-compatible request waits for its transcript.
    pub sync_timeout: Duration,
    /// Largest upload, in bytes.
    pub upload_bytes: u64,
    /// Signs the audio URLs that the API hands out; `None` uses the one kept in the data folder.
    pub signing_secret: Option<SecretString>,
    /// Base of the URLs that the API hands out; `None` takes the request's host.
    pub public_url: Option<String>,
    /// Largest file fetched from `audio_url`, in bytes.
    pub audio_url_bytes: u64,
    /// Longest time for one request for it; each redirect is a request of its own.
    pub audio_url_timeout: Duration,
    /// Lets `audio_url` reach loopback, for tests.
    pub allow_private_urls: bool,
    /// Where models run.
    pub device: DeviceChoice,
    /// Tasks with a model that one worker runs at a time.
    pub concurrency: NonZeroUsize,
    /// Threads of one model session; `None` uses every core.
    pub threads: Option<NonZeroUsize>,
    /// Memory for loaded models, in bytes.
    pub model_memory_bytes: u64,
    /// Idle time after which a model is unloaded; `None` keeps it.
    pub model_ttl: Option<Duration>,
    /// How long a worker's claim on a task holds without a heartbeat.
    pub lease: Duration,
    /// How often a worker extends its claims; `None` is a sixth of the lease.
    pub heartbeat: Option<Duration>,
    /// How often the tasks of silent workers are looked for.
    pub rescue_interval: Duration,
    /// Seconds of sleep per second of audio of the load-test engine; `None` does not offer it.
    pub load_engine_factor: Option<f64>,
    /// Whether that engine obeys the faults that prompts ask for.
    pub load_engine_faults: bool,
    /// Whether the network may not be used for models.
    pub offline: bool,
    /// How long a stopping worker lets its tasks run on.
    pub shutdown_grace: Duration,
    /// Model hub to pull from.
    pub hf_endpoint: String,
    /// Token for it.
    pub hf_token: Option<SecretString>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: String,
    /// Server that client commands talk to; `None` finds the local one.
    pub server: Option<String>,
    /// Every setting with its value and who set it.
    pub values: Values,
}

impl Config {
    /// Reads and checks every setting. `flags` are settings given on the command line, which win over `environment`.
    ///
    /// # Errors
    /// The first wrong value, with the variable's name and what it may be.
    pub fn load(
        flags: &[(&'static str, String)],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Config, ConfigError> {
        let values = Values::read(flags, environment)?;
        let data_dir = values.path("DALSTON_DATA_DIR")?;
        let config = Config {
            host: values.parse("DALSTON_HOST")?,
            port: values.parse("DALSTON_PORT")?,
            model_dir: values
                .optional_path("DALSTON_MODEL_DIR")?
                .unwrap_or_else(|| data_dir.join("models")),
            share_models: values
                .choose("DALSTON_MODEL_SOURCE", &[("hub", false), ("store", true)])?,
            runtime_dir: values.path("DALSTON_RUNTIME_DIR")?,
            ort_library: values.optional_path("ORT_DYLIB_PATH")?,
            database_url: values.secret("DATABASE_URL"),
            database_connections: values.parse("DALSTON_DATABASE_MAX_CONNECTIONS")?,
            transaction_pooler: values.flag("DALSTON_DATABASE_TRANSACTION_POOLER"),
            s3: s3(&values)?,
            api_key: values.secret("DALSTON_API_KEY"),
            security: values.choose(
                "DALSTON_SECURITY_MODE",
                &[
                    ("api_key", SecurityMode::ApiKey),
                    ("none", SecurityMode::None),
                ],
            )?,
            metrics: values.flag("DALSTON_METRICS_ENABLED"),
            requests_per_minute: values.parse("DALSTON_RATE_LIMIT_REQUESTS_PER_MINUTE")?,
            concurrent_jobs: values.parse("DALSTON_RATE_LIMIT_CONCURRENT_JOBS")?,
            retention_days: values.parse("DALSTON_RETENTION_DEFAULT_DAYS")?,
            wait_for_engines: values.choose(
                "DALSTON_ENGINE_UNAVAILABLE_BEHAVIOR",
                &[("fail_fast", false), ("wait", true)],
            )?,
            pull_needed: values.flag("DALSTON_PULL_NEEDED_MODELS"),
            engine_wait: values
                .optional("DALSTON_ENGINE_WAIT_TIMEOUT_SECONDS")?
                .map(Duration::from_secs_f64),
            chunk_target: values.parse("DALSTON_CHUNK_TARGET_SECONDS")?,
            chunk_minimum: values.parse("DALSTON_CHUNK_MINIMUM_SECONDS")?,
            sync_timeout: values.seconds("DALSTON_SYNC_TIMEOUT_SECONDS")?,
            upload_bytes: values.gigabytes("DALSTON_UPLOAD_MAX_SIZE_GB")?,
            signing_secret: values.secret("DALSTON_SIGNING_SECRET"),
            public_url: values.optional("DALSTON_PUBLIC_URL")?,
            audio_url_bytes: values.gigabytes("DALSTON_AUDIO_URL_MAX_SIZE_GB")?,
            audio_url_timeout: values.seconds("DALSTON_AUDIO_URL_TIMEOUT_SECONDS")?,
            allow_private_urls: values.flag("DALSTON_ALLOW_PRIVATE_URLS"),
            device: values.choose(
                "DALSTON_DEVICE",
                &[
                    ("auto", DeviceChoice::Auto),
                    ("cpu", DeviceChoice::Cpu),
                    ("cuda", DeviceChoice::Cuda),
                ],
            )?,
            concurrency: values.parse("DALSTON_WORKER_CONCURRENCY")?,
            threads: values.optional("DALSTON_WORKER_THREADS")?,
            model_memory_bytes: values.gigabytes("DALSTON_MODEL_MEMORY_GB")?,
            model_ttl: Some(values.seconds("DALSTON_MODEL_TTL_SECONDS")?)
                .filter(|ttl| !ttl.is_zero()),
            lease: values.seconds("DALSTON_LEASE_SECONDS")?,
            heartbeat: values
                .optional("DALSTON_HEARTBEAT_SECONDS")?
                .map(Duration::from_secs_f64),
            rescue_interval: values.seconds("DALSTON_RESCUE_INTERVAL_SECONDS")?,
            load_engine_factor: values.optional("DALSTON_LOAD_ENGINE_REALTIME_FACTOR")?,
            load_engine_faults: values.flag("DALSTON_LOAD_ENGINE_FAULTS"),
            offline: values.flag("DALSTON_OFFLINE") || values.flag("HF_HUB_OFFLINE"),
            shutdown_grace: values.seconds("DALSTON_SHUTDOWN_GRACE_SECONDS")?,
            hf_endpoint: values.text("HF_ENDPOINT")?,
            hf_token: values.secret("HF_TOKEN"),
            log_format: values.choose(
                "DALSTON_LOG_FORMAT",
                &[("console", LogFormat::Console), ("json", LogFormat::Json)],
            )?,
            log_level: values.text("DALSTON_LOG_LEVEL")?,
            server: values.optional("DALSTON_SERVER")?,
            data_dir,
            values,
        };
        if config.chunk_target > 0.0 && config.chunk_minimum > config.chunk_target {
            return Err(ConfigError::new(
                "DALSTON_CHUNK_MINIMUM_SECONDS",
                format!(
                    "is {}, more than DALSTON_CHUNK_TARGET_SECONDS ({}); lower the one or raise the other",
                    config.chunk_minimum, config.chunk_target
                ),
            ));
        }
        Ok(config)
    }
}

fn s3(values: &Values) -> Result<Option<S3>, ConfigError> {
    let Some(bucket) = values.optional("DALSTON_S3_BUCKET")? else {
        return Ok(None);
    };
    let access_key_id: Option<String> = values.optional("AWS_ACCESS_KEY_ID")?;
    let secret_access_key = values.secret("AWS_SECRET_ACCESS_KEY");
    if access_key_id.is_some() != secret_access_key.is_some() {
        let (missing, present) = if access_key_id.is_none() {
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        } else {
            ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")
        };
        return Err(ConfigError::new(
            missing,
            format!(
                "is not set although {present} is; set both, or neither to use the machine's role"
            ),
        ));
    }
    Ok(Some(S3 {
        bucket,
        region: values.text("DALSTON_S3_REGION")?,
        endpoint_url: values.optional("DALSTON_S3_ENDPOINT_URL")?,
        public_endpoint_url: values.optional("DALSTON_S3_PUBLIC_ENDPOINT_URL")?,
        access_key_id,
        secret_access_key,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn load(environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(&[], |name| {
            environment
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_defaults_are_those_that_scripts_rely_on() {
        let config = load(&[]).unwrap();
        assert_eq!(
            (config.host.to_string().as_str(), config.port),
            ("127.0.0.1", 8000)
        );
        assert!(config.data_dir.is_absolute() && config.data_dir.ends_with(".dalston"));
        assert_eq!(config.model_dir, config.data_dir.join("models"));
        assert_eq!(config.security, SecurityMode::ApiKey);
        assert_eq!(config.device, DeviceChoice::Auto);
        assert_eq!(config.audio_url_bytes, 3_000_000_000);
        assert!(config.database_url.is_none() && config.s3.is_none() && config.server.is_none());
    }

    #[test]
    fn a_wrong_value_is_refused_with_its_name_and_what_is_allowed() {
        let check = |name: &str, value: &str, allowed: &str| {
            let error = load(&[(name, value)]).unwrap_err().to_string();
            assert!(
                error.contains(name) && error.contains(value) && error.contains(allowed),
                "{error}"
            );
        };
        check("DALSTON_PORT", "80000", "1 to 65535");
        check("DALSTON_DEVICE", "gpu", "auto, cpu, cuda");
        check("DALSTON_SECURITY_MODE", "open", "api_key, none");
        check("DALSTON_HOST", "localhost", "an IP address");
        check("DALSTON_METRICS_ENABLED", "maybe", "true, false");
        check("DALSTON_AUDIO_URL_MAX_SIZE_GB", "-1", "0.001 to");
        check("DALSTON_S3_ENDPOINT_URL", "minio:9000", "http://");
    }

    #[test]
    fn a_refused_secret_is_not_repeated() {
        let error = load(&[("DATABASE_URL", "mysql://user:hunter2@host/db")])
            .unwrap_err()
            .to_string();
        assert!(
            !error.contains("hunter2") && error.contains("postgres://"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_value_means_unset() {
        assert_eq!(
            load(&[("DALSTON_PORT", ""), ("DALSTON_S3_BUCKET", " ")])
                .unwrap()
                .port,
            8000
        );
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_says_so() {
        let config = Config::load(&[("DALSTON_PORT", "9000".to_owned())], |name| {
            (name == "DALSTON_PORT").then(|| "7000".to_owned())
        })
        .unwrap();
        assert_eq!(config.port, 9000);
        assert_eq!(config.values.origin("DALSTON_PORT"), Origin::Flag);
        assert_eq!(config.values.origin("DALSTON_HOST"), Origin::Default);
    }

    #[test]
    fn half_a_pair_of_bucket_keys_is_refused() {
        let error = load(&[("DALSTON_S3_BUCKET", "audio"), ("AWS_ACCESS_KEY_ID", "id")])
            .unwrap_err()
            .to_string();
        assert!(error.contains("AWS_SECRET_ACCESS_KEY"), "{error}");
        assert!(
            load(&[("DALSTON_S3_BUCKET", "audio")])
                .unwrap()
                .s3
                .is_some()
        );
    }

    #[test]
    fn a_shortest_part_beyond_the_usual_one_is_refused_with_the_remedy() {
        let wrong = [
            ("DALSTON_CHUNK_TARGET_SECONDS", "20"),
            ("DALSTON_CHUNK_MINIMUM_SECONDS", "30"),
        ];
        let error = load(&wrong).unwrap_err().to_string();
        assert!(
            error.contains("DALSTON_CHUNK_MINIMUM_SECONDS is 30, more than"),
            "{error}"
        );
        assert!(load(&[wrong[0], ("DALSTON_CHUNK_MINIMUM_SECONDS", "8")]).is_ok());
        assert!(load(&[("DALSTON_CHUNK_TARGET_SECONDS", "0")]).is_ok());
    }
}
