//! Lines of JSON on a Unix socket, and who is at its other end.

use std::io::{self, BufRead, Read, Write};
use std::ops::Range;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// The longest line, its end included: far more than any request or response has.
pub(in super::super) const LINE_MAX_BYTES: usize = 256 * 1024;

/// How long the other end may take for a line.
pub(super) const LINE_TIME_LIMIT: Duration = Duration::from_secs(10);

/// Both directions of a connection give up after [`LINE_TIME_LIMIT`].
pub(super) fn limit_times(stream: &UnixStream) -> io::Result<()> {
    stream.set_read_timeout(Some(LINE_TIME_LIMIT))?;
    stream.set_write_timeout(Some(LINE_TIME_LIMIT))
}

/// The user at the other end (`SO_PEERCRED`, unix(7)): of the process that connected, or that listened.
pub(super) fn peer(stream: &UnixStream) -> io::Result<u32> {
    Ok(rustix::net::sockopt::socket_peercred(stream)?.uid.as_raw())
}

/// Whether this user may give orders to what a user's process does, or be believed by it.
pub(super) fn is_trusted(peer: u32, user: u32) -> bool {
    peer == user || peer == 0
}

/// Reads ahead, as [`io::BufReader`] does, and leaves nothing of it in memory.
pub(super) struct WipedReader<R> {
    from: R,
    ahead: Zeroizing<Vec<u8>>,
    unread: Range<usize>,
}

impl<R: Read> WipedReader<R> {
    pub(super) fn new(from: R) -> Self {
        Self { from, ahead: Zeroizing::new(vec![0; 8192]), unread: 0..0 }
    }
}

impl<R: Read> Read for WipedReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for WipedReader<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.unread.is_empty() {
            self.unread = 0..self.from.read(&mut self.ahead)?;
        }
        Ok(self.ahead.get(self.unread.clone()).unwrap_or_default())
    }

    fn consume(&mut self, len: usize) {
        self.unread.start = self.unread.start.saturating_add(len).min(self.unread.end);
    }
}

/// The next line; None at the end of the stream.
pub(super) fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    // A line may hold keys.
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_MAX_BYTES));
    from.take(LINE_MAX_BYTES as u64).read_until(b'\n', &mut line)?;
    match line.last() {
        None => Ok(None),
        Some(b'\n') => serde_json::from_slice(&line).map(Some).map_err(io::Error::from),
        Some(_) if line.len() == LINE_MAX_BYTES => Err(invalid("the line is too long")),
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

pub(super) fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    // At its full size from the start: a buffer that grows leaves what it holds, perhaps keys, where it was.
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_MAX_BYTES));
    serde_json::to_writer(&mut *line, message)?;
    line.push(b'\n');
    if line.len() > LINE_MAX_BYTES {
        return Err(invalid("the message is too long"));
    }
    // One write: a peer never sees half a line without the rest coming.
    to.write_all(&line)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_in_order_and_then_the_end() {
        let mut bytes = Vec::new();
        send(&mut bytes, &"one").unwrap();
        send(&mut bytes, &2).unwrap();
        let mut from = WipedReader::new(bytes.as_slice());
        assert_eq!(receive::<String>(&mut from).unwrap().as_deref(), Some("one"));
        assert_eq!(receive::<u32>(&mut from).unwrap(), Some(2));
        assert_eq!(receive::<u32>(&mut from).unwrap(), None);
    }

    #[test]
    fn half_a_line_an_endless_one_and_nonsense_are_errors() {
        let kind = |mut bytes: &[u8]| receive::<String>(&mut bytes).unwrap_err().kind();
        assert_eq!(kind(b"\"half"), io::ErrorKind::UnexpectedEof);
        assert_eq!(kind(&vec![b'x'; LINE_MAX_BYTES + 1]), io::ErrorKind::InvalidData);
        assert_eq!(kind(b"{nonsense\n"), io::ErrorKind::InvalidData);
        assert!(send(&mut Vec::new(), &"x".repeat(LINE_MAX_BYTES)).is_err());
    }

    #[test]
    fn the_kernel_says_who_is_at_the_other_end() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let me = rustix::process::geteuid().as_raw();
        assert_eq!(peer(&ours).unwrap(), me);
        assert!(is_trusted(me, me) && is_trusted(0, 1000));
        assert!(!is_trusted(1001, 1000) && !is_trusted(1000, 0));
    }
}
