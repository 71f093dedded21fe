//! SEEK_DATA and SEEK_HOLE in files that somebody has open for writing.
//!
//! With the writeback cache Linux (6.18) asks for data and holes without writing its dirty pages first, and
//! may know a larger size than we do: what was just written would look like a hole, and a copy that
//! believes it would lose it. So the kernel is made to write the file back before the question is answered:
//! by [`Mountpoint`] if that can be, and otherwise by a notification, which also drops the file's pages. Either
//! waits, and the threads that serve the mount answer the writes: so a thread of its own does it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use dashmap::DashMap;

use super::background::Background;
use super::transport::{self, Agreement, Device};
use super::write_back::Mountpoint;

/// The protocol's minor version of Linux 6.16.
const WAITS_FOR_WRITES: u32 = 44;

/// The thread that answers, and for which files it is needed.
pub(super) struct Seeking {
    /// How often each file is open for writing. A file that is not has no dirty pages: close(2) wrote them,
    /// and a mapping keeps its handle.
    writers: DashMap<u64, u64>,
    answers: Background,
    /// None: only notifications can be sent there.
    mountpoint: Option<Arc<Mountpoint>>,
    /// Whether the kernel waits for requests that it has sent already.
    waits: Arc<AtomicBool>,
}

impl Seeking {
    /// Starts the thread; it ends when this is dropped.
    pub(super) fn start(device: Arc<OnceLock<Device>>, mountpoint: Option<Mountpoint>) -> io::Result<Self> {
        let answers = Background::start("seeking", device)?;
        Ok(Self { writers: DashMap::new(), answers, mountpoint: mountpoint.map(Arc::new), waits: Arc::default() })
    }

    /// Notes what was agreed with the kernel.
    pub(super) fn when_agreed(&self) -> impl FnOnce(&Agreement) + use<> {
        let waits = Arc::clone(&self.waits);
        move |agreement| waits.store(agreement.minor >= WAITS_FOR_WRITES, Ordering::Relaxed)
    }

    /// Whether somebody has the file open for writing, so that the daemon may not know all of it.
    pub(super) fn has_writer(&self, node: u64) -> bool {
        self.writers.contains_key(&node)
    }

    /// Whether the kernel can be made to write a file back. Before Linux 6.16 a page counts as written when its request is
    /// sent: whoever waits for the pages does not wait for that, and would be told of holes where data is on its way.
    pub(super) fn can_write_back(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }

    /// A handle was opened.
    pub(super) fn opened(&self, node: u64, flags: i32) {
        if is_for_writing(flags) {
            let mut count = self.writers.entry(node).or_default();
            *count = count.saturating_add(1);
        }
    }

    /// A handle was released; the kernel repeats the flags that it was opened with.
    pub(super) fn released(&self, node: u64, flags: i32) {
        if !is_for_writing(flags) {
            return;
        }
        if let Some(mut count) = self.writers.get_mut(&node) {
            *count = count.saturating_sub(1);
        }
        self.writers.remove_if(&node, |_, count| *count == 0);
    }

    /// Has the kernel write a file back, and then runs `answer`, in a thread where nothing else is waited for. An error is that
    /// of writing.
    pub(super) fn when_written_back(
        &self,
        node: u64,
        generation: Option<u32>,
        answer: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        let mountpoint = self.mountpoint.clone();
        // Without its thread the job is dropped, and with it the reply, which then says EIO.
        self.answers.run(move |device| {
            let written =
                mountpoint.zip(generation).map(|(mountpoint, generation)| mountpoint.write_back(node, generation));
            answer(match written {
                Some(Ok(written)) => written,
                unreached => {
                    if let Some(Err(error)) = unreached {
                        log::debug!("a file's pages are dropped before a seek: {error}");
                    }
                    // That writes the dirty ones first.
                    transport::invalidate(device, node);
                    Ok(())
                }
            });
        });
    }
}

pub(super) fn is_for_writing(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn files_that_are_open_for_writing_are_known() {
        let seeking = Seeking::start(Arc::default(), None).unwrap();
        let node = 7;
        seeking.opened(node, libc::O_RDONLY);
        assert!(!seeking.has_writer(node));
        seeking.opened(node, libc::O_RDWR);
        seeking.opened(node, libc::O_WRONLY);
        seeking.released(node, libc::O_RDWR);
        assert!(seeking.has_writer(node) && !seeking.has_writer(8));
        seeking.released(node, libc::O_WRONLY);
        seeking.released(node, libc::O_RDONLY);
        assert!(!seeking.has_writer(node) && seeking.writers.is_empty());
    }

    #[test]
    fn another_thread_answers() {
        let (sender, receiver) = mpsc::channel();
        let seeking = Seeking::start(Arc::default(), None).unwrap();
        seeking.when_written_back(7, None, move |_| sender.send(thread::current().id()).unwrap());
        assert_ne!(receiver.recv().unwrap(), thread::current().id());
    }
}
