//! Asks a server whether it accepts connections, by the first packet of PostgreSQL's frontend/backend protocol 3.0.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::cluster::{DATABASE, ROLE};

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It would let us in.
    Ready,
    /// Nobody listens, or the server is still starting, recovering or shutting down.
    NotYet,
    /// It is up and refuses: the message.
    Refused(String),
}

/// Protocol version 3.0 in a start-up packet.
const PROTOCOL: u32 = 3 << 16;

/// Sends a start-up packet to the server in folder `socket`.
pub(super) fn ask(socket: &Path, timeout: Duration) -> Answer {
    converse(&socket.join(".s.PGSQL.5432"), timeout).unwrap_or(Answer::NotYet)
}

fn converse(path: &Path, timeout: Duration) -> std::io::Result<Answer> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(&startup_packet())?;
    let mut kind = [0; 1];
    stream.read_exact(&mut kind)?;
    if kind[0] == b'R' {
        // A polite goodbye (Terminate) keeps the server's log quiet; it has answered already, so a failure changes nothing.
        stream.write_all(&[b'X', 0, 0, 0, 4]).ok();
        return Ok(Answer::Ready);
    }
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut body = Vec::new();
    stream
        .take(
            u64::from(u32::from_be_bytes(length))
                .saturating_sub(4)
                .min(64 * 1024),
        )
        .read_to_end(&mut body)?;
    Ok(refusal(&body))
}

fn startup_packet() -> Vec<u8> {
    let mut body = PROTOCOL.to_be_bytes().to_vec();
    for text in ["user", ROLE, "database", DATABASE] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [length.to_be_bytes().to_vec(), body].concat()
}

/// Reads an `ErrorResponse`: fields of one type byte and a terminated string; `C` is the SQLSTATE, `M` the message.
fn refusal(body: &[u8]) -> Answer {
    let field = |kind: u8| {
        let found = body
            .split(|byte| *byte == 0)
            .find(|field| field.first() == Some(&kind));
        found
            .map(|field| String::from_utf8_lossy(&field[1..]).into_owned())
            .unwrap_or_default()
    };
    match field(b'C').as_str() {
        // cannot_connect_now: starting up, shutting down or in recovery.
        "57P03" => Answer::NotYet,
        // too_many_connections: as up as can be.
        "53300" => Answer::Ready,
        _ => Answer::Refused(field(b'M')),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_packet_is_told_apart_by_its_sqlstate() {
        let body = |code: &str| format!("SFATAL\0C{code}\0Mbecause\0\0").into_bytes();
        assert_eq!(refusal(&body("57P03")), Answer::NotYet);
        assert_eq!(refusal(&body("53300")), Answer::Ready);
        assert_eq!(
            refusal(&body("28000")),
            Answer::Refused("because".to_owned())
        );
    }

    #[test]
    fn the_packet_states_its_own_length() {
        let packet = startup_packet();
        assert_eq!(
            &packet[..4],
            u32::try_from(packet.len())
                .unwrap_or_default()
                .to_be_bytes()
        );
        assert!(packet.ends_with(b"dalston\0database\0dalston\0\0"));
    }

    #[test]
    fn nobody_there_is_not_yet() {
        assert_eq!(
            ask(Path::new("/nonexistent"), Duration::from_secs(1)),
            Answer::NotYet
        );
    }
}
