//! A reader that pauses now and then. The multipart parser reads its source until that is pending before it hands
//! anything on, so a client that sends faster than we store would otherwise fill the memory.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

/// Reads in a row before a pause. The parser reads 4 KiB at a time, so at most 256 KiB wait in it.
const READS_IN_A_ROW: u32 = 64;

/// Pauses (is pending once, and wakes at once) after every [`READS_IN_A_ROW`] reads.
pub struct Paced<R> {
    reader: R,
    reads: u32,
}

impl<R> Paced<R> {
    /// Paces a reader.
    pub fn new(reader: R) -> Self {
        Self { reader, reads: 0 }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Paced<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.reads == READS_IN_A_ROW {
            self.reads = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut self.reader).poll_read(context, buffer);
        self.reads = if polled.is_ready() { self.reads + 1 } else { 0 };
        polled
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_paced_reader_gives_all_bytes_and_pauses_on_the_way() {
        let bytes: Vec<u8> = (0..3_000_000u32).map(|n| n as u8).collect();
        let mut read = Vec::new();
        Paced::new(bytes.as_slice())
            .read_to_end(&mut read)
            .await
            .unwrap();
        assert!(read == bytes);

        let mut paced = Paced::new(bytes.as_slice());
        let waker = std::task::Waker::noop();
        let mut pauses = 0;
        for _ in 0..10 * READS_IN_A_ROW {
            let mut space = [0; 16];
            let polled = Pin::new(&mut paced).poll_read(
                &mut Context::from_waker(waker),
                &mut ReadBuf::new(&mut space),
            );
            pauses += u32::from(polled.is_pending());
        }
        assert_eq!(pauses, 9);
    }
}
