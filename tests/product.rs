//! Starts Dalston as its users do: processes of the real binary on a database and a data folder of their own.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use dalston_cli::postgres::{Durability, Options, Postgres};
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tempfile::TempDir;

use crate::recordings::utterance;

/// How long anything may take before a test gives up on it. Generous: it is only ever waited out by a failure.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// The admin key of every product under test.
pub const ADMIN_KEY: &str = "dk_tests-tests-tests-tests-tests-tests-tests-0";

/// The binary under test, built by `make test` before this one.
pub fn binary() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let binary = tests.ancestors().nth(2).unwrap().join("dalston");
    assert!(
        binary.exists(),
        "{} is missing: run `make test`, or `cargo build --workspace --bins` first",
        binary.display()
    );
    binary
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The words of a text without case and punctuation: what is compared, since a model may punctuate as it likes.
pub fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric() && c != '\'')
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

/// Asks `attempt` again until it answers or [`DEADLINE`] is over; then fails with what was waited for.
pub async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = attempt().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long for: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// A PostgreSQL server for tests.
pub struct Cluster {
    postgres: Postgres,
    _folder: TempDir,
}

impl Cluster {
    /// Starts a server of its own, for a test that harms it.
    pub fn start() -> Self {
        let folder = tempfile::Builder::new()
            .prefix("postgres-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        let mut options = Options::new(folder.path().join("cluster"));
        options.durability = Durability::None;
        options.settings = vec![("max_connections".to_owned(), "300".to_owned())];
        Self {
            postgres: Postgres::start(options).unwrap(),
            _folder: folder,
        }
    }

    /// The server that tests share; each has a database of its own on it.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            // The server dies with the thread that started it, which must therefore outlive every test.
            let (send, receive) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                send.send(Cluster::start()).unwrap();
                loop {
                    std::thread::park();
                }
            });
            receive.recv().unwrap()
        })
    }

    /// Process id of the server's first process, `None` while it restarts.
    pub fn pid(&self) -> Option<u32> {
        self.postgres.pid()
    }

    /// Makes a database and answers its URL.
    async fn create_database(&self) -> String {
        let options: PgConnectOptions = self.postgres.url().parse().unwrap();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .unwrap();
        let name = format!("product_{}", uuid::Uuid::now_v7().simple());
        sqlx::query(sqlx::AssertSqlSafe(format!("create database {name}")))
            .execute(&pool)
            .await
            .unwrap();
        pool.close().await;
        let mut url = url::Url::parse(self.postgres.url()).unwrap();
        url.set_path(&name);
        url.into()
    }
}

/// One process of the product.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// What it is, for messages.
    pub name: String,
}

impl Process {
    /// The binary under test with these arguments and only these settings.
    fn dalston(
        name: &str,
        arguments: &[&str],
        environment: &BTreeMap<String, String>,
        log: &Path,
    ) -> Self {
        let mut command = Command::new(binary());
        command
            .args(arguments)
            .env_clear()
            .envs(
                ["PATH", "HOME", "LANG", "ORT_DYLIB_PATH"]
                    .iter()
                    .filter_map(|name| Some((name, std::env::var(name).ok()?))),
            )
            .envs(environment)
            .current_dir(repository());
        Self::spawn(name, command, log)
    }

    /// Starts a program whose output goes to a file.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let log_file = File::options().create(true).append(true).open(log).unwrap();
        command
            .stdin(Stdio::null())
            .stdout(log_file.try_clone().unwrap())
            .stderr(log_file);
        // A test that fails or is interrupted must not leave its processes behind.
        // SAFETY: prctl is async-signal-safe and touches no memory of this process.
        unsafe {
            command.pre_exec(
                || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                },
            );
        }
        Self {
            child: command.spawn().unwrap(),
            log: log.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).unwrap();
        // SAFETY: the child was started here and has not been waited for, so the id is still its own.
        assert_eq!(
            unsafe { libc::kill(pid, signal) },
            0,
            "signal {}",
            self.name
        );
    }

    /// Kills it as a crash would.
    pub fn kill(mut self) {
        self.signal(libc::SIGKILL);
        self.child.wait().unwrap();
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.end().await
    }

    /// Waits until it has ended.
    pub async fn end(&mut self) -> ExitStatus {
        let name = self.name.clone();
        eventually(&format!("{name} to end"), async || {
            self.child.try_wait().unwrap()
        })
        .await
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// What it has printed and logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, self.log());
        }
    }
}

/// Dalston on a database and a data folder of its own.
pub struct Product {
    /// The API process; `None` once a test has killed it.
    pub api: Option<Process>,
    /// The worker processes.
    pub workers: Vec<Process>,
    /// A connection to its database, for looking and for harming.
    pub database: PgPool,
    /// Address of the API.
    pub url: String,
    http: reqwest::Client,
    environment: BTreeMap<String, String>,
    folder: TempDir,
    started: usize,
}

impl Product {
    /// An API and no workers, on the shared server.
    pub async fn start() -> Self {
        Self::start_with(Cluster::shared(), &[]).await
    }

    /// An API and no workers, on this server, with further settings.
    pub async fn start_with(cluster: &Cluster, settings: &[(&str, &str)]) -> Self {
        // The HTTP client needs a provider; another test may have installed it already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::Builder::new()
            .prefix("product-")
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .unwrap();
        let url = cluster.create_database().await;
        let database = PgPoolOptions::new()
            .max_connections(4)
            .connect_lazy(&url)
            .unwrap();
        let port = free_port();
        let mut environment: BTreeMap<String, String> = [
            ("DATABASE_URL", url.as_str()),
            ("DALSTON_DATA_DIR", folder.path().to_str().unwrap()),
            ("DALSTON_PORT", &port.to_string()),
            ("DALSTON_API_KEY", ADMIN_KEY),
            ("DALSTON_LOG_LEVEL", "info"),
            // Faults must be noticed in seconds here, and a hundred jobs must not meet a limit meant for people.
            ("DALSTON_LEASE_SECONDS", "2"),
            ("DALSTON_HEARTBEAT_SECONDS", "0.5"),
            ("DALSTON_RESCUE_INTERVAL_SECONDS", "0.3"),
            ("DALSTON_RATE_LIMIT_CONCURRENT_JOBS", "1000"),
            ("DALSTON_RATE_LIMIT_REQUESTS_PER_MINUTE", "100000"),
            ("DALSTON_LOAD_ENGINE_REALTIME_FACTOR", "0.05"),
            ("DALSTON_LOAD_ENGINE_FAULTS", "true"),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
        environment.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let mut product = Self {
            api: None,
            workers: Vec::new(),
            database,
            url: format!("http://127.0.0.1:{port}"),
            http: reqwest::Client::new(),
            environment,
            folder,
            started: 0,
        };
        let mut migrate = product.spawn("migrate", &["migrate"], &[]);
        let migrated = migrate.end().await;
        assert!(migrated.success(), "{migrated}: {}", migrate.log());
        product.start_api().await;
        product
    }

    /// The folder of its data, audio and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn spawn(&mut self, name: &str, arguments: &[&str], settings: &[(&str, &str)]) -> Process {
        self.started += 1;
        let mut environment = self.environment.clone();
        environment.extend(
            settings
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let name = format!("{name} {}", self.started);
        let log = self
            .folder
            .path()
            .join(format!("{}.log", name.replace(' ', "-")));
        Process::dalston(&name, arguments, &environment, &log)
    }

    /// Starts the API and waits until it answers.
    pub async fn start_api(&mut self) {
        self.start_api_with(&[]).await;
    }

    /// As [`Product::start_api`], with settings of this process only.
    pub async fn start_api_with(&mut self, settings: &[(&str, &str)]) {
        self.api = Some(self.spawn("api", &["api"], settings));
        let health = format!("{}/health", self.url);
        eventually("the API to answer", async || {
            let answer = self.http.get(&health).send().await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
    }

    /// Starts a worker with arguments and settings of its own, and does not wait for it.
    pub fn spawn_worker(&mut self, arguments: &[&str], settings: &[(&str, &str)]) -> Process {
        self.spawn("worker", &[&["worker"], arguments].concat(), settings)
    }

    /// Starts a worker with settings of its own and answers its position in `workers`.
    pub async fn start_worker_with(&mut self, settings: &[(&str, &str)]) -> usize {
        self.start_worker_as(&[], settings).await
    }

    /// As [`Product::start_worker_with`], with arguments too.
    pub async fn start_worker_as(
        &mut self,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> usize {
        let before = self.live_workers().await;
        let worker = self.spawn_worker(arguments, settings);
        self.workers.push(worker);
        eventually("the worker to register", async || {
            (self.live_workers().await > before).then_some(())
        })
        .await;
        self.workers.len() - 1
    }

    /// Starts a worker.
    pub async fn start_worker(&mut self) -> usize {
        self.start_worker_with(&[]).await
    }

    async fn live_workers(&self) -> i64 {
        sqlx::query_scalar("select count(*) from workers")
            .fetch_one(&self.database)
            .await
            .unwrap_or(0)
    }

    /// A request to the API with the admin key.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(ADMIN_KEY)
    }

    /// Reads JSON from the API.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self
            .request(reqwest::Method::GET, path)
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "GET {path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Submits a file with form fields and answers the job's id.
    pub async fn submit(&self, audio: &Path, fields: &[(&str, &str)]) -> String {
        self.submit_form(form(&[audio], fields)).await
    }

    /// Submits a form and answers the job's id.
    pub async fn submit_form(&self, form: Form) -> String {
        let answer = self.post(form).send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, 201, "submit: {body}");
        body["id"].as_str().unwrap().to_owned()
    }

    /// Submits a file with form fields.
    pub async fn try_submit(
        &self,
        audio: &Path,
        fields: &[(&str, &str)],
    ) -> reqwest::Result<reqwest::Response> {
        self.post(form(&[audio], fields)).send().await
    }

    /// The request that submits a form.
    pub fn post(&self, form: Form) -> reqwest::RequestBuilder {
        self.request(reqwest::Method::POST, "/v1/audio/transcriptions")
            .multipart(form)
    }

    /// A `POST` of the form as an official OpenAI client sends it: what is answered is the text.
    pub fn post_as_openai(&self, form: Form) -> reqwest::RequestBuilder {
        self.post(form).header("user-agent", "OpenAI/Python 2.0.0")
    }

    /// Submits a job for the load-test engine; `directives` tell it what to do (see `worker/src/load_engine.rs`).
    pub async fn submit_load(&self, directives: &str) -> String {
        self.submit(
            &utterance("test-00000"),
            &[
                ("model", "sleep"),
                ("prompt", &format!("sleep: {directives}")),
            ],
        )
        .await
    }

    /// Waits until a job has one of these states and answers the job.
    pub async fn wait_for(&self, job: &str, states: &[&str]) -> Value {
        eventually(&format!("job {job} to be one of {states:?}"), async || {
            let answer = self
                .request(
                    reqwest::Method::GET,
                    &format!("/v1/audio/transcriptions/{job}"),
                )
                .send()
                .await
                .ok()?;
            let body: Value = answer.json().await.ok()?;
            states.contains(&body["status"].as_str()?).then_some(body)
        })
        .await
    }

    /// Waits until a job has ended, and insists that it ended well.
    pub async fn wait_completed(&self, job: &str) -> Value {
        let body = self
            .wait_for(job, &["completed", "failed", "cancelled"])
            .await;
        assert_eq!(body["status"], "completed", "job {job}: {body:#}");
        body
    }

    /// Waits until one of a job's stages is running on a worker.
    pub async fn wait_running(&self, job: &str, stage: &str) {
        eventually(&format!("stage {stage} of job {job} to run"), async || {
            let tasks = self
                .get(&format!("/v1/audio/transcriptions/{job}/tasks"))
                .await;
            tasks["tasks"]
                .as_array()?
                .iter()
                .any(|task| task["stage"] == stage && task["status"] == "running")
                .then_some(())
        })
        .await;
    }

    /// Checks what must hold in any quiet system: every job has ended, a completed one has exactly one transcript and
    /// no other has any, nothing holds a lease, and no row hangs in the air.
    pub async fn assert_consistent(&self) {
        for (problem, query) in [
            (
                "jobs that never ended",
                "select id::text from job_overview where status not in ('completed', 'failed', 'cancelled')",
            ),
            (
                "completed jobs without a transcript",
                "select id::text from job_overview j where status = 'completed'
                   and not exists (select 1 from transcripts t where t.job_id = j.id)",
            ),
            (
                "transcripts of jobs that did not complete",
                "select job_id::text from transcripts t join job_overview j on j.id = t.job_id
                   where j.status <> 'completed'",
            ),
            (
                "tasks that are not final although their job is",
                "select id::text from task_overview
                   where state not in ('completed', 'failed', 'skipped', 'cancelled')",
            ),
            (
                "jobs completed twice",
                "select job_id::text from job_log where type = 'job.completed' group by job_id having count(*) > 1",
            ),
        ] {
            let rows: Vec<String> = sqlx::query_scalar(query)
                .fetch_all(&self.database)
                .await
                .unwrap();
            assert!(rows.is_empty(), "{problem}: {rows:?}");
        }
    }
}

/// The form of a submit: files, and fields.
pub fn form<T: AsRef<str>>(files: &[impl AsRef<Path>], fields: &[(&str, T)]) -> Form {
    let mut form = Form::new();
    for file in files {
        let file = file.as_ref();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let part = Part::bytes(std::fs::read(file).unwrap()).file_name(name);
        form = form.part("file", part);
    }
    for (name, value) in fields {
        form = form.text((*name).to_owned(), value.as_ref().to_owned());
    }
    form
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
