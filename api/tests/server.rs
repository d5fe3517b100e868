//! An API of a test's own: its database, its folder of objects, its port, its administrator.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dalston_api::ingest::address_guard::Reach;
use dalston_api::{ApiConfig, App, serve};
use dalston_schema::db::PgPool;
use dalston_schema::db::keys::{self, NewApiKey};
use dalston_schema::storage::StorageConfig;
use dalston_schema::{ApiKeyId, Storage, TenantId, WorkerId};
use dalston_test_postgres::TestDatabase;
use reqwest::multipart::{Form, Part};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::worker::Worker;

/// A bundled recording of a few seconds.
pub const SAMPLE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../tests/audio/utterances/dev-00005.wav"
);
/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Server {
    pub address: SocketAddr,
    pub pool: PgPool,
    pub key: String,
    pub folder: PathBuf,
    client: reqwest::Client,
    stop: CancellationToken,
    worker: Worker,
    _folder: tempfile::TempDir,
}

impl Server {
    /// With a worker that announces one model and does nothing until asked to.
    pub async fn start() -> Self {
        Self::configured(|_| {}).await
    }

    pub async fn configured(configure: impl FnOnce(&mut ApiConfig)) -> Self {
        let database = TestDatabase::create().await;
        let worker = Worker::register(&database.pool).await;
        Self::on(database, worker, configure).await
    }

    /// Before any worker has announced itself.
    pub async fn without_worker(configure: impl FnOnce(&mut ApiConfig)) -> Self {
        let database = TestDatabase::create().await;
        Self::on(database, Worker::unregistered(), configure).await
    }

    async fn on(
        database: TestDatabase,
        worker: Worker,
        configure: impl FnOnce(&mut ApiConfig),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("objects");
        let storage = StorageConfig::Folder(folder.clone());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = ApiConfig::new(
            address,
            database.config.clone(),
            storage.clone(),
            "a test's secret".into(),
        );
        config.url_ingest.reach = Reach::PublicAndLoopback;
        config.shutdown_grace = Duration::from_secs(1);
        configure(&mut config);
        let store = Storage::open(&storage).unwrap();
        let app = App::with(config, database.pool.clone(), store).unwrap();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        tokio::spawn(async move { serve(&app, listener, stopped).await });
        let mut server = Self {
            address,
            pool: database.pool,
            key: String::new(),
            folder,
            client: reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()
                .unwrap(),
            stop,
            worker,
            _folder: directory,
        };
        server.key = server.new_key(&["admin"], None).await;
        server
    }

    /// A key, stored directly.
    pub async fn new_key(&self, scopes: &[&str], rate_limit: Option<i32>) -> String {
        let id = ApiKeyId::generate();
        let key = format!("dk_{:0>43}", id.to_string().replace('-', ""));
        let new = NewApiKey {
            id,
            key_hash: keys::hash_key(&key),
            prefix: key.chars().take(10).collect(),
            name: "test".to_owned(),
            tenant_id: TenantId::DEFAULT,
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            rate_limit,
            expires_at: None,
            created_by: None,
        };
        keys::create(&self.pool, &new).await.unwrap();
        key
    }

    /// Its worker.
    pub fn worker(&self) -> WorkerId {
        self.worker.id
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request without a key.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// A request of the administrator's.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(&self.key)
    }

    pub async fn get(&self, path: &str) -> (StatusCode, Value) {
        json(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str) -> (StatusCode, Value) {
        json(self.request(Method::POST, path)).await
    }

    pub async fn delete(&self, path: &str) -> (StatusCode, Value) {
        json(self.request(Method::DELETE, path)).await
    }

    /// Submits a form as the administrator.
    pub async fn submit(&self, form: Form) -> (StatusCode, Value) {
        json(
            self.request(Method::POST, "/v1/audio/transcriptions")
                .multipart(form),
        )
        .await
    }

    /// Submits the sample and answers its job's id.
    pub async fn new_job(&self) -> String {
        let (status, job) = self.submit(with_sample(&[])).await;
        assert_eq!(status, StatusCode::CREATED, "{job}");
        job["id"].as_str().unwrap().to_owned()
    }

    /// Submits the sample and completes its job with the worker's text.
    pub async fn completed_job(&self) -> String {
        let id = self.new_job().await;
        let worker = Worker::register(&self.pool).await;
        worker.work(&self.pool).await;
        id
    }

    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Every object in the store.
    pub fn objects(&self) -> Vec<PathBuf> {
        files(&self.folder)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The sample as an upload.
pub fn sample() -> Part {
    Part::bytes(std::fs::read(SAMPLE).unwrap())
        .file_name("dev-00005.wav")
        .mime_str("audio/wav")
        .unwrap()
}

/// A form of texts and, last, the sample.
pub fn with_sample(fields: &[(&'static str, &'static str)]) -> Form {
    texts(fields).part("file", sample())
}

/// A form of texts.
pub fn texts(fields: &[(&'static str, &'static str)]) -> Form {
    fields
        .iter()
        .fold(Form::new(), |form, (name, text)| form.text(*name, *text))
}

/// Sends a request and reads its answer as JSON; an empty body is null.
pub async fn json(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let body = response.bytes().await.unwrap();
    let value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()))
    };
    (status, value)
}

/// Asks until the answer is yes.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
