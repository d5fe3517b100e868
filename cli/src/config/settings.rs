//! Every setting, once: what `dalston config` prints, what is checked at start, what the documentation lists.

use super::kind::Kind;

/// One environment variable.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// The variable.
    pub name: &'static str,
    /// What its value may be.
    pub kind: Kind,
    /// The value when it is not set; empty means that there is none, and [`meaning`](Setting::meaning) says what happens.
    pub default: &'static str,
    /// What it does, with the unit.
    pub meaning: &'static str,
    /// Never printed.
    pub secret: bool,
}

const fn setting(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    meaning: &'static str,
) -> Setting {
    Setting {
        name,
        kind,
        default,
        meaning,
        secret: false,
    }
}

const fn secret(name: &'static str, kind: Kind, meaning: &'static str) -> Setting {
    Setting {
        name,
        kind,
        default: "",
        meaning,
        secret: true,
    }
}

/// Settings that belong together.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// What they are about.
    pub title: &'static str,
    /// The settings.
    pub settings: &'static [Setting],
}

/// All settings, grouped as people look for them.
pub const GROUPS: &[Group] = &[
    Group {
        title: "The server",
        settings: &[
            setting(
                "DALSTON_HOST",
                Kind::Address,
                "127.0.0.1",
                "address the API listens on; 0.0.0.0 for every interface",
            ),
            setting(
                "DALSTON_PORT",
                Kind::Integer(1, 65535),
                "8000",
                "port the API listens on",
            ),
            setting(
                "DALSTON_DATA_DIR",
                Kind::Path,
                ".dalston",
                "folder of the embedded database, audio and models",
            ),
            setting(
                "DALSTON_SECURITY_MODE",
                Kind::Choice(&["api_key", "none"]),
                "api_key",
                "none: everybody who reaches the port is administrator",
            ),
            secret(
                "DALSTON_API_KEY",
                Kind::Text,
                "server: the first admin key of an empty database (unset: a random one is printed); client: the key to use",
            ),
            setting(
                "DALSTON_METRICS_ENABLED",
                Kind::Flag,
                "true",
                "whether /metrics answers",
            ),
            setting(
                "DALSTON_RATE_LIMIT_REQUESTS_PER_MINUTE",
                Kind::Integer(1, 1_000_000),
                "600",
                "submits and deletions of one tenant in a minute",
            ),
            setting(
                "DALSTON_RATE_LIMIT_CONCURRENT_JOBS",
                Kind::Integer(1, 1_000_000),
                "10",
                "unfinished jobs of one tenant",
            ),
            setting(
                "DALSTON_RETENTION_DEFAULT_DAYS",
                Kind::Integer(-1, 3650),
                "30",
                "days a finished job (audio and transcript) is kept; 0: purged within two minutes, -1: for ever",
            ),
            setting(
                "DALSTON_ENGINE_UNAVAILABLE_BEHAVIOR",
                Kind::Choice(&["fail_fast", "wait"]),
                "fail_fast",
                "a job whose model no worker has is refused at once, or waits for one that has it",
            ),
            setting(
                "DALSTON_PULL_NEEDED_MODELS",
                Kind::Flag,
                "true",
                "where jobs wait: a model of the catalogue that one waits for is pulled by a worker",
            ),
            setting(
                "DALSTON_ENGINE_WAIT_TIMEOUT_SECONDS",
                Kind::Decimal(0.0, 86_400.0),
                "",
                "seconds a request waits for a first worker (fail_fast; unset: 10) or a job for its model (wait; unset: 300), longer while it is being pulled",
            ),
            setting(
                "DALSTON_CHUNK_TARGET_SECONDS",
                Kind::Decimal(0.0, 36_000.0),
                "120",
                "length of the parts that a file of twice this is cut into for several workers, half of it towards its end; 0: never cut",
            ),
            setting(
                "DALSTON_CHUNK_MINIMUM_SECONDS",
                Kind::Decimal(1.0, 36_000.0),
                "30",
                "shortest such part",
            ),
            setting(
                "DALSTON_SYNC_TIMEOUT_SECONDS",
                Kind::Decimal(1.0, 86_400.0),
                "300",
                "seconds an OpenAI-compatible request waits for its transcript",
            ),
            setting(
                "DALSTON_UPLOAD_MAX_SIZE_GB",
                Kind::Decimal(0.001, 1000.0),
                "16",
                "largest upload, in gigabytes",
            ),
            setting(
                "DALSTON_AUDIO_URL_MAX_SIZE_GB",
                Kind::Decimal(0.001, 1000.0),
                "3.0",
                "largest file fetched from audio_url, in gigabytes",
            ),
            setting(
                "DALSTON_AUDIO_URL_TIMEOUT_SECONDS",
                Kind::Decimal(1.0, 86_400.0),
                "300",
                "seconds that one request for it may take, to the last byte; each redirect is a request of its own",
            ),
            setting(
                "DALSTON_ALLOW_PRIVATE_URLS",
                Kind::Flag,
                "false",
                "let audio_url reach this machine's loopback; for tests only",
            ),
            setting(
                "DALSTON_PUBLIC_URL",
                Kind::HttpUrl,
                "",
                "base of URLs handed out; unset: the host that the request named",
            ),
            secret(
                "DALSTON_SIGNING_SECRET",
                Kind::Text,
                "signs audio URLs, the same for all replicas; unset: one kept in the data folder",
            ),
        ],
    },
    Group {
        title: "Where things are stored",
        settings: &[
            secret(
                "DATABASE_URL",
                Kind::PostgresUrl,
                "PostgreSQL 15 to 18 to use; unset: an embedded one in the data folder",
            ),
            setting(
                "DALSTON_DATABASE_MAX_CONNECTIONS",
                Kind::Integer(2, 1000),
                "16",
                "most database connections of one process",
            ),
            setting(
                "DALSTON_DATABASE_TRANSACTION_POOLER",
                Kind::Flag,
                "false",
                "DATABASE_URL leads through a transaction pooler (PgBouncer)",
            ),
            setting(
                "DALSTON_S3_BUCKET",
                Kind::Text,
                "",
                "bucket for audio; unset: a folder in the data folder",
            ),
            setting(
                "DALSTON_S3_REGION",
                Kind::Text,
                "eu-west-2",
                "the bucket's region",
            ),
            setting(
                "DALSTON_S3_ENDPOINT_URL",
                Kind::HttpUrl,
                "",
                "S3-compatible server (path style); unset: Amazon's",
            ),
            setting(
                "DALSTON_S3_PUBLIC_ENDPOINT_URL",
                Kind::HttpUrl,
                "",
                "that server's address for clients of signed URLs; unset: the same",
            ),
            setting(
                "AWS_ACCESS_KEY_ID",
                Kind::Text,
                "",
                "access key of the bucket; unset: the machine's role",
            ),
            secret("AWS_SECRET_ACCESS_KEY", Kind::Text, "its secret"),
        ],
    },
    Group {
        title: "Models and workers",
        settings: &[
            setting(
                "DALSTON_MODEL_DIR",
                Kind::Path,
                "",
                "folder of models; unset: models/ in the data folder",
            ),
            setting(
                "DALSTON_MODEL_SOURCE",
                Kind::Choice(&["hub", "store"]),
                "hub",
                "store: workers share models through the object store, a new one fetches all that others have; hub: only by pulling",
            ),
            setting(
                "DALSTON_DEVICE",
                Kind::Choice(&["auto", "cpu", "cuda"]),
                "auto",
                "where models run; cuda fails the start when it does not work",
            ),
            setting(
                "DALSTON_WORKER_CONCURRENCY",
                Kind::Integer(1, 256),
                "4",
                "tasks with a model that one worker runs at a time; they share each decode",
            ),
            setting(
                "DALSTON_WORKER_THREADS",
                Kind::Integer(1, 1024),
                "",
                "threads of one model; unset: one a core",
            ),
            setting(
                "DALSTON_MODEL_MEMORY_GB",
                Kind::Decimal(0.1, 10_000.0),
                "8",
                "memory that loaded models may take together, in gigabytes",
            ),
            setting(
                "DALSTON_MODEL_TTL_SECONDS",
                Kind::Decimal(0.0, 31_536_000.0),
                "1800",
                "seconds without use after which a model is unloaded; 0: never",
            ),
            setting(
                "DALSTON_LEASE_SECONDS",
                Kind::Decimal(0.3, 3600.0),
                "30",
                "seconds after which the tasks of a silent worker go to others",
            ),
            setting(
                "DALSTON_HEARTBEAT_SECONDS",
                Kind::Decimal(0.05, 1200.0),
                "",
                "seconds between a worker's heartbeats, at most a third of the lease; unset: 2, or a sixth of the lease",
            ),
            setting(
                "DALSTON_RESCUE_INTERVAL_SECONDS",
                Kind::Decimal(0.05, 3600.0),
                "2",
                "seconds between looks for tasks of silent workers",
            ),
            setting(
                "DALSTON_SHUTDOWN_GRACE_SECONDS",
                Kind::Decimal(0.0, 86_400.0),
                "20",
                "seconds a stopping worker lets its tasks run on before it gives them back",
            ),
            setting(
                "HF_ENDPOINT",
                Kind::HttpUrl,
                "https://huggingface.co",
                "model hub that models are pulled from",
            ),
            secret("HF_TOKEN", Kind::Text, "token for models that need one"),
            setting(
                "DALSTON_RUNTIME_DIR",
                Kind::Path,
                ".runtime",
                "folder of ONNX Runtime and PostgreSQL as `make setup` fetched them",
            ),
            setting(
                "ORT_DYLIB_PATH",
                Kind::Path,
                "",
                "ONNX Runtime library to load; unset: looked for in the usual places",
            ),
            setting(
                "DALSTON_OFFLINE",
                Kind::Flag,
                "false",
                "never use the network for models; pulling then fails at once",
            ),
            setting(
                "HF_HUB_OFFLINE",
                Kind::Flag,
                "false",
                "the same, by the hub's own name",
            ),
        ],
    },
    Group {
        title: "Load and fault tests",
        settings: &[
            setting(
                "DALSTON_LOAD_ENGINE_REALTIME_FACTOR",
                Kind::Decimal(0.0, 1000.0),
                "",
                "also offers the model `sleep`, which takes this share of the audio's length and transcribes nothing; for load tests",
            ),
            setting(
                "DALSTON_LOAD_ENGINE_FAULTS",
                Kind::Flag,
                "false",
                "lets that model obey the faults that prompts ask for; for fault tests",
            ),
        ],
    },
    Group {
        title: "Logs",
        settings: &[
            setting(
                "DALSTON_LOG_FORMAT",
                Kind::Choice(&["console", "json"]),
                "console",
                "how log lines look",
            ),
            setting(
                "DALSTON_LOG_LEVEL",
                Kind::Text,
                "info",
                "error, warn, info, debug or trace; or directives such as info,dalston_worker=debug",
            ),
        ],
    },
    Group {
        title: "The client",
        settings: &[setting(
            "DALSTON_SERVER",
            Kind::HttpUrl,
            "",
            "server of the client commands; unset: the one on this data folder, else the one at DALSTON_HOST and DALSTON_PORT",
        )],
    },
];

/// Every setting, in the order of [`GROUPS`].
pub fn all() -> impl Iterator<Item = &'static Setting> {
    GROUPS.iter().flat_map(|group| group.settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_value_the_setting_accepts() {
        for setting in all().filter(|setting| !setting.default.is_empty()) {
            assert!(setting.kind.accepts(setting.default), "{}", setting.name);
        }
    }

    #[test]
    fn no_name_is_listed_twice() {
        let mut names: Vec<_> = all().map(|setting| setting.name).collect();
        names.sort_unstable();
        let listed = names.len();
        names.dedup();
        assert_eq!(names.len(), listed);
    }
}
