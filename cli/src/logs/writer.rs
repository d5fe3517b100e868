//! Writes log lines to standard error, whatever state it is in: a full disk, a closed pipe or a reader that stands still
//! cost lines of the log and nothing else. Lines that were lost are counted, and the first that gets through again is
//! preceded by one that says how many.
//!
//! A line is lost rather than waited for: whoever logs may hold a lease that is running out.

use std::io::{self, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogFormat;

/// How long a line waits for a slow reader.
const PATIENCE: Duration = Duration::from_millis(500);
/// Bytes that a pipe takes at once when it says that it takes any (`PIPE_BUF` of POSIX, at least).
const PIECE: usize = 512;

/// Makes writers of one log; clones share it.
#[derive(Clone, Debug)]
pub struct LogWriter {
    log: Arc<Mutex<Log>>,
}

#[derive(Debug)]
struct Log {
    descriptor: RawFd,
    format: LogFormat,
    /// Lines lost since the last that got through, and why the first of them was.
    lost: u64,
    why: String,
    /// The last line ends in the middle.
    torn: bool,
}

impl LogWriter {
    /// A log on standard error.
    pub fn stderr(format: LogFormat) -> Self {
        Self::on(io::stderr().as_raw_fd(), format)
    }

    fn on(descriptor: RawFd, format: LogFormat) -> Self {
        let log = Log {
            descriptor,
            format,
            lost: 0,
            why: String::new(),
            torn: false,
        };
        Self {
            log: Arc::new(Mutex::new(log)),
        }
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for LogWriter {
    /// Takes a whole line; never fails.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.line(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn line(&mut self, line: &[u8]) {
        // A reader that stood still is not waited for a second time.
        let patience = if self.lost == 0 {
            PATIENCE
        } else {
            Duration::ZERO
        };
        let mut text = Vec::with_capacity(line.len() + 1);
        if self.torn {
            text.push(b'\n');
        }
        if self.lost > 0 {
            text.extend_from_slice(self.notice().as_bytes());
        }
        text.extend_from_slice(line);
        match self.put(&text, patience) {
            Ok(()) => self.lost = 0,
            Err(error) => {
                if self.lost == 0 {
                    self.why = error.to_string();
                }
                self.lost += 1;
            }
        }
    }

    /// The line that says what is missing.
    fn notice(&self) -> String {
        let now = chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.6fZ");
        let message = format!(
            "{} log lines were lost, because standard error could not be written: {}",
            self.lost, self.why
        );
        match self.format {
            LogFormat::Console => format!("{now}  WARN {message}\n"),
            LogFormat::Json => {
                let line = serde_json::json!({
                    "timestamp": now.to_string(), "level": "WARN", "message": message, "lost_lines": self.lost,
                });
                format!("{line}\n")
            }
        }
    }

    fn put(&mut self, text: &[u8], patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        let mut rest = text;
        while !rest.is_empty() {
            let written = writable(self.descriptor, deadline)
                .and_then(|()| write(self.descriptor, &rest[..rest.len().min(PIECE)]));
            match written {
                Ok(n) => {
                    rest = &rest[n..];
                    self.torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Waits until a descriptor takes bytes without blocking; files always do.
fn writable(descriptor: RawFd, deadline: Instant) -> io::Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut asked = libc::pollfd {
        fd: descriptor,
        events: libc::POLLOUT,
        revents: 0,
    };
    let milliseconds = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: `asked` is one valid record for the length of the call.
    match unsafe { libc::poll(&raw mut asked, 1, milliseconds) } {
        0 => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "its reader stands still",
        )),
        n if n < 0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn write(descriptor: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the pointer and length are those of a slice that outlives the call.
    let written = unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
    match usize::try_from(written) {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(n) => Ok(n),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use std::io::Read;

    use super::*;

    fn say(writer: &LogWriter, line: &str) {
        writer.clone().write_all(line.as_bytes()).unwrap();
    }

    #[test]
    fn a_disk_that_is_full_costs_lines_and_nothing_else() {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        let writer = LogWriter::on(full.as_raw_fd(), LogFormat::Console);
        say(&writer, "one\n");
        say(&writer, "two\n");
        // The same log, once there is room again.
        let mut room = tempfile::tempfile().unwrap();
        writer.log.lock().unwrap().descriptor = room.as_raw_fd();
        say(&writer, "three\n");
        say(&writer, "four\n");
        let mut text = String::new();
        io::Seek::rewind(&mut room).unwrap();
        room.read_to_string(&mut text).unwrap();
        let (notice, rest) = text.split_once('\n').unwrap();
        assert!(
            notice.contains("WARN 2 log lines were lost")
                && notice.contains("No space left on device"),
            "{notice}"
        );
        assert_eq!(rest, "three\nfour\n");
    }

    #[test]
    fn a_reader_that_stands_still_is_waited_for_once_and_told_later() {
        let (mut reader, writer_end) = io::pipe().unwrap();
        let writer = LogWriter::on(writer_end.as_raw_fd(), LogFormat::Json);
        let line = format!("{}\n", "x".repeat(999));
        let started = Instant::now();
        let mut sent = 0;
        while writer.log.lock().unwrap().lost < 50 {
            say(&writer, &line);
            sent += 1;
        }
        assert!(started.elapsed() < PATIENCE * 4, "{:?}", started.elapsed());
        let reading = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        while writer.log.lock().unwrap().lost > 0 {
            say(&writer, "again\n");
            std::thread::yield_now();
        }
        drop(writer_end);
        let text = reading.join().unwrap();
        let whole = text.lines().filter(|found| **found == *line.trim_end());
        assert!(whole.count() < sent);
        let notice: serde_json::Value = text
            .lines()
            .find_map(|found| serde_json::from_str(found).ok())
            .unwrap();
        assert!(notice["lost_lines"].as_u64().unwrap() >= 50, "{notice}");
        assert!(text.ends_with("again\n"));
    }

    #[test]
    fn a_closed_pipe_costs_lines_and_nothing_else() {
        let (reader, writer_end) = io::pipe().unwrap();
        drop(reader);
        let writer = LogWriter::on(writer_end.as_raw_fd(), LogFormat::Console);
        say(&writer, "nobody reads this\n");
        assert_eq!(writer.log.lock().unwrap().lost, 1);
    }
}
