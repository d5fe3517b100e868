//! ffmpeg as a supervised child, for what Rust does not decode.
//!
//! Its demuxer is forced to the one the file was recognised for, so that no playlist or script can name other files or hosts;
//! arguments are fixed, output goes through a pipe, and the child is killed at the deadline, on drop, and with this process.

use std::env;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::check_plausible;
use super::pcm::finite;
use crate::{AudioError, AudioInput, AudioLimits};

/// Bytes of ffmpeg's complaints that are kept for the log.
const MAX_COMPLAINT: u64 = 4_096;
/// Address space ffmpeg may use.
const MAX_MEMORY: u64 = 4 << 30;
/// Samples read from the pipe at a time.
const BLOCK_SAMPLES: usize = 16_384;

/// A running ffmpeg and the samples that come out of it.
pub(crate) struct ExternalDecoder {
    stdout: ChildStdout,
    /// Dropping it tells the supervisor to kill the child and to end.
    stop: Option<Sender<()>>,
    supervisor: Option<JoinHandle<Ending>>,
    seconds: u64,
    /// A copy of the input for ffmpeg to seek in; removed on drop.
    _spool: Option<Spool>,
    pub codec: String,
    pub channels: usize,
    pub sample_rate: u32,
    bytes: Vec<u8>,
    samples: Vec<f32>,
    any: bool,
}

/// How the child ended.
#[derive(Debug, Default)]
struct Ending {
    timed_out: bool,
    success: bool,
    complaint: String,
}

impl ExternalDecoder {
    /// Starts ffmpeg on `input` with the demuxer `format`; `words` names the format in errors.
    pub fn open(
        input: AudioInput,
        format: &'static str,
        words: &str,
        limits: &AudioLimits,
    ) -> Result<Self, AudioError> {
        let Some(program) = find_on_path("ffmpeg") else {
            return Err(AudioError::FfmpegMissing {
                format: words.to_owned(),
            });
        };
        let (path, spool) = match input.path() {
            Some(path) => (path.to_owned(), None),
            None => {
                let spool = Spool::copy(input)?;
                (spool.0.clone(), Some(spool))
            }
        };
        let (stop, stopped) = mpsc::channel();
        let (started, ready) = mpsc::channel();
        let command = command(&program, format, &path);
        let deadline = Instant::now() + Duration::from_secs(limits.external_seconds);
        // The child dies with the thread that started it, so the thread that watches it is the one to start it.
        let supervisor = thread::Builder::new()
            .name("ffmpeg".into())
            .spawn(move || supervise(command, deadline, &started, &stopped))?;
        let stdout = ready
            .recv()
            .map_err(|_| io::Error::other("ffmpeg's supervisor ended"))??;
        let mut decoder = Self {
            stdout,
            stop: Some(stop),
            supervisor: Some(supervisor),
            seconds: limits.external_seconds,
            _spool: spool,
            codec: words.to_owned(),
            channels: 0,
            sample_rate: 0,
            bytes: vec![0; BLOCK_SAMPLES * 4],
            samples: Vec::new(),
            any: false,
        };
        decoder.read_header()?;
        Ok(decoder)
    }

    /// ffmpeg writes AU, whose header is 24 bytes and says all that is to be known.
    fn read_header(&mut self) -> Result<(), AudioError> {
        let mut head = [0; 24];
        if self.fill(24)? < head.len() {
            return Err(self.ending());
        }
        head.copy_from_slice(&self.bytes[..24]);
        let field =
            |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let comment = field(4).checked_sub(24).filter(|length| *length < 1_024);
        let Some(comment) = comment.filter(|_| &head[..4] == b".snd") else {
            return Err(self.ending());
        };
        if self.fill(comment as usize)? < comment as usize {
            return Err(self.ending());
        }
        self.sample_rate = field(16);
        self.channels = field(20) as usize;
        check_plausible(self.channels, self.sample_rate)
    }

    /// Reads up to `wanted` bytes into the buffer; fewer only at the end.
    fn fill(&mut self, wanted: usize) -> Result<usize, AudioError> {
        let mut filled = 0;
        while filled < wanted {
            match self.stdout.read(&mut self.bytes[filled..wanted]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(filled)
    }

    /// The next block of interleaved samples, or None at the end.
    pub fn next(&mut self) -> Result<Option<&[f32]>, AudioError> {
        let frame = self.channels * 4;
        let wanted = (self.bytes.len() / frame).max(1) * frame;
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        let filled = self.fill(wanted)?;
        if filled < frame {
            return match self.join() {
                // What ffmpeg could decode of a damaged file is taken, as of one decoded here.
                ending if ending.success && self.any => Ok(None),
                ending => Err(self.judge(&ending)),
            };
        }
        self.any = true;
        self.samples.clear();
        let samples = self.bytes[..filled / frame * frame].as_chunks::<4>().0;
        self.samples.extend(
            samples
                .iter()
                .map(|bytes| finite(f32::from_be_bytes(*bytes))),
        );
        Ok(Some(&self.samples))
    }

    fn ending(&mut self) -> AudioError {
        let ending = self.join();
        self.judge(&ending)
    }

    fn judge(&self, ending: &Ending) -> AudioError {
        if ending.timed_out {
            return AudioError::TimedOut {
                seconds: self.seconds,
            };
        }
        tracing::debug!(
            complaint = ending.complaint,
            "ffmpeg could not read the file"
        );
        let without_audio = ending.complaint.contains("does not contain any stream")
            || ending.complaint.contains("matches no streams");
        AudioError::unreadable(match without_audio {
            true => format!("the file ({}) holds no audio track", self.codec),
            false => format!("its content ({}) is damaged or incomplete", self.codec),
        })
    }

    fn join(&mut self) -> Ending {
        let supervisor = self.supervisor.take();
        supervisor
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for ExternalDecoder {
    fn drop(&mut self) {
        self.stop.take();
        self.join();
    }
}

fn command(program: &Path, format: &str, path: &Path) -> Command {
    let mut file = std::ffi::OsString::from("file:");
    file.push(path);
    let mut command = Command::new(program);
    command
        .args(["-nostdin", "-hide_banner", "-loglevel", "error", "-xerror"])
        .args(["-protocol_whitelist", "pipe,file", "-f", format, "-i"])
        .arg(file)
        .args(["-map", "0:a:0", "-vn", "-sn", "-dn", "-map_metadata", "-1"])
        .args(["-c:a", "pcm_f32be", "-f", "au", "pipe:1"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // SAFETY: only async-signal-safe system calls between fork and exec.
    unsafe {
        command.pre_exec(|| {
            limit(libc::RLIMIT_AS, MAX_MEMORY)?;
            // The child writes to its pipe only; it has no business with files or core dumps.
            limit(libc::RLIMIT_FSIZE, 0)?;
            limit(libc::RLIMIT_CORE, 0)?;
            match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        });
    }
    command
}

fn limit(resource: libc::__rlimit_resource_t, value: u64) -> io::Result<()> {
    let limit = libc::rlimit {
        rlim_cur: value,
        rlim_max: value,
    };
    // SAFETY: the pointer is to a live value.
    match unsafe { libc::setrlimit(resource, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Starts the child, waits until it ends, the deadline passes or nobody listens any more, and collects it.
fn supervise(
    mut command: Command,
    deadline: Instant,
    started: &Sender<io::Result<ChildStdout>>,
    stopped: &mpsc::Receiver<()>,
) -> Ending {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = started.send(Err(error));
            return Ending::default();
        }
    };
    let (Some(stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        end(&mut child);
        return Ending::default();
    };
    let listener = thread::spawn(move || {
        let mut complaint = Vec::new();
        let _ = stderr
            .by_ref()
            .take(MAX_COMPLAINT)
            .read_to_end(&mut complaint);
        // The rest is thrown away, or the child would wait for a reader.
        let _ = io::copy(&mut stderr, &mut io::sink());
        String::from_utf8_lossy(&complaint).into_owned()
    });
    let _ = started.send(Ok(stdout));
    let mut ending = Ending::default();
    let mut wait = Duration::from_millis(2);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                ending.success = status.success();
                break;
            }
            Ok(None) if Instant::now() >= deadline => {
                ending.timed_out = true;
                end(&mut child);
                break;
            }
            Ok(None) => {}
            Err(_) => {
                end(&mut child);
                break;
            }
        }
        match stopped.recv_timeout(wait) {
            Err(RecvTimeoutError::Timeout) => wait = (wait * 2).min(Duration::from_millis(50)),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {
                end(&mut child);
                break;
            }
        }
    }
    ending.complaint = listener.join().unwrap_or_default();
    ending
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

/// Finds a program as a shell would.
fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// A copy of an input that has no path of its own.
struct Spool(PathBuf);

impl Spool {
    fn copy(mut input: AudioInput) -> Result<Self, AudioError> {
        use std::os::unix::fs::OpenOptionsExt;
        use std::sync::atomic::{AtomicU64, Ordering};
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let spool =
            Self(env::temp_dir().join(format!("dalston-audio-{}-{count}", std::process::id())));
        let _ = std::fs::remove_file(&spool.0);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&spool.0)?;
        let mut bytes = vec![0; 256 * 1_024];
        let mut offset = 0;
        loop {
            match input.read_at(offset, &mut bytes)? {
                0 => break,
                read => {
                    file.write_all(&bytes[..read])?;
                    offset += read as u64;
                }
            }
        }
        Ok(spool)
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
