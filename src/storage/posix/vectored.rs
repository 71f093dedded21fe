//! preadv and pwritev until all is done: short counts, EINTR, and more buffers than one call takes.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, preadv, pwritev, retry_on_intr};

/// The kernel's limit of buffers in one call.
const IOV_MAX: usize = 1024;

/// Reads until the buffers are full or the file ends.
pub(super) fn read_full(fd: BorrowedFd<'_>, buffers: &mut [IoSliceMut<'_>], offset_bytes: u64) -> io::Result<usize> {
    read_with(buffers, offset_bytes, |rest, offset| preadv(fd, rest, offset))
}

/// Writes all of the buffers, or fails; then a prefix may have been written.
pub(super) fn write_all(fd: BorrowedFd<'_>, buffers: &[IoSlice<'_>], offset_bytes: u64) -> io::Result<()> {
    write_with(buffers, offset_bytes, |rest, offset| pwritev(fd, rest, offset))
}

fn read_with(
    buffers: &mut [IoSliceMut<'_>],
    offset_bytes: u64,
    mut call: impl FnMut(&mut [IoSliceMut<'_>], u64) -> Result<usize, Errno>,
) -> io::Result<usize> {
    let mut done = Progress::default();
    loop {
        // Also steps over empty buffers, so that a count of 0 below means the end of the file.
        done.skip_full(|index| buffers.get(index).map(|buffer| buffer.len()));
        let offset = done.offset(offset_bytes)?;
        let end = buffers.len().min(done.index.saturating_add(IOV_MAX));
        let outcome = match buffers.get_mut(done.index..end) {
            None | Some([]) => return Ok(done.total),
            // After a short count: the rest of this buffer alone, then vectors again.
            Some([first, ..]) if done.within > 0 => {
                retry_on_intr(|| call(&mut [IoSliceMut::new(&mut first[done.within..])], offset))
            }
            Some(rest) => retry_on_intr(|| call(rest, offset)),
        };
        match outcome? {
            0 => return Ok(done.total),
            count => done.add(count),
        }
    }
}

fn write_with(
    buffers: &[IoSlice<'_>],
    offset_bytes: u64,
    mut call: impl FnMut(&[IoSlice<'_>], u64) -> Result<usize, Errno>,
) -> io::Result<()> {
    let mut done = Progress::default();
    loop {
        done.skip_full(|index| buffers.get(index).map(|buffer| buffer.len()));
        let offset = done.offset(offset_bytes)?;
        let end = buffers.len().min(done.index.saturating_add(IOV_MAX));
        let outcome = match buffers.get(done.index..end) {
            None | Some([]) => return Ok(()),
            Some([first, ..]) if done.within > 0 => {
                retry_on_intr(|| call(&[IoSlice::new(&first[done.within..])], offset))
            }
            Some(rest) => retry_on_intr(|| call(rest, offset)),
        };
        match outcome? {
            // A backing that takes nothing and gives no error would make this loop endless.
            0 => return Err(Errno::IO.into()),
            count => done.add(count),
        }
    }
}

/// Where a transfer stands: the buffers before `index` are done, and `within` bytes from there on.
#[derive(Default)]
struct Progress {
    index: usize,
    within: usize,
    total: usize,
}

impl Progress {
    fn add(&mut self, count: usize) {
        self.within += count;
        self.total += count;
    }

    /// Afterwards `index` is a buffer with more than `within` bytes, or there is none left.
    fn skip_full(&mut self, len_of: impl Fn(usize) -> Option<usize>) {
        while let Some(len) = len_of(self.index)
            && len <= self.within
        {
            self.within -= len;
            self.index += 1;
        }
    }

    fn offset(&self, start_bytes: u64) -> io::Result<u64> {
        let offset = start_bytes.checked_add(self.total as u64);
        offset.ok_or_else(|| Errno::FBIG.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: &[u8] = b"abcdefghijklmnopqrstuvwxyz";
    const LENGTHS: [usize; 8] = [0, 3, 0, 0, 10, 1, 12, 0];

    /// What calls of up to 4 bytes each see, with an interruption before every third.
    fn limits() -> impl FnMut(usize) -> Result<usize, Errno> {
        let mut calls = 0;
        move |available| {
            calls += 1;
            match calls % 3 {
                0 => Err(Errno::INTR),
                limit => Ok(available.min(2 * limit)),
            }
        }
    }

    #[test]
    fn short_and_interrupted_writes_are_continued() {
        let mut limit = limits();
        let mut rest = CONTENT;
        let slices = LENGTHS.map(|len| IoSlice::new(rest.split_off(..len).unwrap()));
        let mut written = Vec::new();
        write_with(&slices, 100, |buffers, offset| {
            assert_eq!(offset, 100 + written.len() as u64);
            let all: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
            let count = limit(all.len())?;
            written.extend_from_slice(&all[..count]);
            Ok(count)
        })
        .unwrap();
        assert_eq!(written, CONTENT);
    }

    #[test]
    fn short_and_interrupted_reads_are_continued_to_the_end_of_the_file() {
        for file_len in 0..=CONTENT.len() {
            let mut limit = limits();
            let mut read = [0; CONTENT.len()];
            let mut rest = &mut read[..];
            let mut slices = LENGTHS.map(|len| IoSliceMut::new(rest.split_off_mut(..len).unwrap()));
            let total = read_with(&mut slices, 0, |buffers, offset| {
                let mut source = &CONTENT[offset as usize..file_len];
                let mut count = limit(source.len())?;
                source = &source[..count];
                for buffer in buffers {
                    let len = buffer.len().min(source.len());
                    buffer[..len].copy_from_slice(source.split_off(..len).unwrap());
                }
                count -= source.len();
                Ok(count)
            });
            assert_eq!(total.unwrap(), file_len);
            assert_eq!(&read[..file_len], &CONTENT[..file_len]);
        }
    }

    #[test]
    fn a_write_that_makes_no_progress_fails() {
        let outcome = write_with(&[IoSlice::new(b"x")], 0, |_, _| Ok(0));
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EIO));
        let outcome = write_with(&[IoSlice::new(b"xy")], 0, |_, offset| match offset {
            0 => Ok(1),
            _ => Err(Errno::NOSPC),
        });
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }
}
