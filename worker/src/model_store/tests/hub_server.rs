//! A model hub on loopback that can be told to misbehave: it speaks just enough HTTP to be cut off mid-body.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};

use sha1::{Digest, Sha1};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Commit of every repository here.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What to do with one request of a path, instead of answering it.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Close the connection after this many body bytes.
    Cut(usize),
    /// Send this many body bytes and then nothing.
    Stall(usize),
    /// Answer with a status and headers.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// Redirect here.
    Redirect(String),
    /// Send the file with its first byte changed.
    Damage,
    /// Answer 200 with the whole file whatever range was asked for.
    IgnoreRange,
}

/// A request that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    /// Repository → path → contents.
    repositories: HashMap<String, BTreeMap<String, Vec<u8>>>,
    /// Path of the request → what to do with the next ones.
    faults: HashMap<String, VecDeque<Fault>>,
    seen: Vec<Seen>,
    tree_only: bool,
}

/// The hub. Its task ends with the test's runtime.
#[derive(Clone)]
pub struct HubServer {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl HubServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let serving = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&serving)));
            }
        });
        Self { url, state }
    }

    pub fn add(&self, repository: &str, path: &str, contents: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let files = state.repositories.entry(repository.to_owned()).or_default();
        files.insert(path.to_owned(), contents.to_vec());
    }

    /// A repository with the bundled Whisper's files.
    pub fn add_whisper(&self, repository: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engines/models/whisper-nano");
        for path in [
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "onnx/encoder_model_quantized.onnx",
            "onnx/decoder_model_merged_quantized.onnx",
        ] {
            self.add(repository, path, &std::fs::read(folder.join(path)).unwrap());
        }
    }

    /// Queues faults for a request path; later requests are answered well.
    pub fn fail(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        let mut state = self.state.lock().unwrap();
        let queue = state.faults.entry(path.to_owned()).or_default();
        queue.extend(faults);
    }

    /// Serves listings only as a tree of one-file pages.
    pub fn tree_only(&self) {
        self.state.lock().unwrap().tree_only = true;
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.lock().unwrap().seen.clone()
    }

    /// The ranges asked for, of requests for a file.
    pub fn ranges(&self, file: &str) -> Vec<Option<String>> {
        let path = format!("/resolve/{COMMIT}/{file}");
        let seen = self.seen().into_iter();
        seen.filter(|seen| seen.path.ends_with(&path))
            .map(|seen| seen.range)
            .collect()
    }
}

async fn answer(mut stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let target = head.split(' ').nth(1).unwrap().to_owned();
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_owned())
        })
    };
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let range = header("range");
    let (fault, reply) = {
        let mut state = state.lock().unwrap();
        state.seen.push(Seen {
            path: path.to_owned(),
            range: range.clone(),
            authorization: header("authorization"),
        });
        let fault = state.faults.get_mut(path).and_then(VecDeque::pop_front);
        (fault, reply(&state, path, query))
    };
    let from: usize = range
        .filter(|_| !matches!(fault, Some(Fault::IgnoreRange)))
        .and_then(|range| {
            let range = range.strip_prefix("bytes=")?.strip_suffix('-')?;
            range.parse().ok()
        })
        .unwrap_or(0);
    let (mut status, mut headers, mut body) = match reply {
        Some((headers, body)) => (if from > 0 { 206 } else { 200 }, headers, body),
        None => (404, String::new(), b"Entry not found".to_vec()),
    };
    let total = body.len();
    body.drain(..from.min(total));
    let mut sent = body.len();
    match &fault {
        Some(Fault::Cut(bytes) | Fault::Stall(bytes)) => sent = sent.min(*bytes),
        Some(Fault::Status(code, extra)) => {
            (status, body, sent) = (*code, Vec::new(), 0);
            headers = extra
                .iter()
                .map(|(name, value)| format!("{name}: {value}\r\n"))
                .collect();
        }
        Some(Fault::Redirect(target)) => {
            (status, body, sent) = (302, Vec::new(), 0);
            headers = format!("Location: {target}\r\nX-Repo-Commit: {COMMIT}\r\n");
        }
        Some(Fault::Damage) => body[0] ^= 1,
        Some(Fault::IgnoreRange) | None => {}
    }
    if status == 206 {
        headers += &format!("Content-Range: bytes {from}-{}/{total}\r\n", total - 1);
    }
    let head = format!(
        "HTTP/1.1 {status} X\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
        body.len()
    );
    if stream.write_all(head.as_bytes()).await.is_err()
        || stream.write_all(&body[..sent]).await.is_err()
    {
        return;
    }
    if matches!(fault, Some(Fault::Stall(_))) {
        // Until the client hangs up.
        let _ = stream.read_u8().await;
    }
    let _ = stream.shutdown().await;
}

/// Headers and body of a good answer; `None` is 404.
fn reply(state: &State, path: &str, query: &str) -> Option<(String, Vec<u8>)> {
    let large = |path: &str| path.ends_with(".onnx");
    let sha256 = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let blob = |bytes: &[u8]| {
        let mut hasher = Sha1::new();
        hasher.update(format!("blob {}\0", bytes.len()));
        hasher.update(bytes);
        hex::encode(hasher.finalize())
    };
    if let Some(rest) = path.strip_prefix("/api/models/") {
        let (repository, what) = state.repositories.keys().find_map(|repository| {
            Some((
                repository,
                rest.strip_prefix(repository.as_str())?.strip_prefix('/')?,
            ))
        })?;
        let files = &state.repositories[repository];
        if what.starts_with("revision/") && !state.tree_only {
            let siblings: Vec<_> = files
                .iter()
                .map(|(path, bytes)| {
                    let mut file = serde_json::json!({
                        "rfilename": path, "size": bytes.len(), "blobId": blob(bytes),
                    });
                    if large(path) {
                        file["blobId"] = blob(b"a pointer").into();
                        file["lfs"] = serde_json::json!({
                            "sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 132,
                        });
                    }
                    file
                })
                .collect();
            let info = serde_json::json!({
                "id": repository, "sha": COMMIT, "gated": false, "siblings": siblings,
            });
            return Some((String::new(), serde_json::to_vec(&info).unwrap()));
        }
        what.strip_prefix("tree/")?;
        let cursor = query
            .split('&')
            .find_map(|part| part.strip_prefix("cursor="));
        let page: usize = cursor.map_or(0, |cursor| cursor.parse().unwrap());
        let (path, bytes) = files.iter().nth(page)?;
        let mut file = serde_json::json!({
            "type": "file", "path": path, "size": bytes.len(), "oid": blob(bytes),
        });
        if large(path) {
            file["lfs"] = serde_json::json!({
                "oid": sha256(bytes), "size": bytes.len(), "pointerSize": 132,
            });
        }
        let entries = serde_json::json!([{ "type": "directory", "path": "onnx", "oid": "" }, file]);
        let link = if page + 1 < files.len() {
            format!(
                "Link: </api/models/{repository}/{what}?recursive=1&cursor={}>; rel=\"next\"\r\n",
                page + 1
            )
        } else {
            String::new()
        };
        return Some((link, serde_json::to_vec(&entries).unwrap()));
    }
    // `/cdn/{repository}/…` is where redirects of the tests lead.
    let path = path.strip_prefix("/cdn").unwrap_or(path);
    let (repository, file) = path.strip_prefix('/')?.split_once("/resolve/")?;
    let (_, file) = file.split_once('/')?;
    let bytes = state.repositories.get(repository)?.get(file)?;
    Some((format!("X-Repo-Commit: {COMMIT}\r\n"), bytes.clone()))
}
