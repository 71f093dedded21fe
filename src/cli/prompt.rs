//! A line from the terminal itself, without echo: standard input and output may be redirected.
//!
//! Whatever ends or stops the process meanwhile finds the terminal as it was: signals wait while the echo is off, and strike
//! when it is on again. No handler stays behind that could keep them from ending the process later.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcdrain, tcgetattr, tcsetattr};

/// What the terminal sends, and what others send to end a process.
const SIGNALS: [Signal; 5] = [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTSTP, Signal::SIGTERM, Signal::SIGHUP];

/// A prompt that is shown; what is read from it is what is typed. The terminal is as before when this is dropped.
pub(super) struct Prompt<'a> {
    text: &'a str,
    terminal: File,
    before: Termios,
    signals: SigSet,
    /// Readable while one of them waits.
    waiting: SignalFd,
}

impl<'a> Prompt<'a> {
    /// # Errors
    /// If there is no terminal.
    pub(super) fn show(text: &'a str) -> io::Result<Self> {
        let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty")?;
        let before = tcgetattr(&terminal)?;
        let signals = SIGNALS.into_iter().collect();
        let waiting = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)?;
        let mut prompt = Self { text, terminal, before, signals, waiting };
        prompt.begin()?;
        Ok(prompt)
    }

    fn begin(&mut self) -> io::Result<()> {
        // In the background the kernel stops the process here, where signals can still end it. What the shell has made of the
        // terminal meanwhile is what it was before.
        tcdrain(&self.terminal)?;
        self.before = tcgetattr(&self.terminal)?;
        self.signals.thread_block()?;
        let mut silent = self.before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        self.set(OptionalActions::Now, &silent)?;
        self.terminal.write_all(self.text.as_bytes())
    }

    /// Signals that waited strike at the end of this.
    fn end(&self, when: OptionalActions) {
        let _ = self.set(when, &self.before);
        let _ = self.signals.thread_unblock();
    }

    fn set(&self, when: OptionalActions, modes: &Termios) -> io::Result<()> {
        Ok(tcsetattr(&self.terminal, when, modes)?)
    }
}

impl Read for Prompt<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = [PollFd::new(&self.waiting, PollFlags::IN), PollFd::new(&self.terminal, PollFlags::IN)];
            poll(&mut ready, None)?;
            if ready[0].revents().is_empty() {
                return self.terminal.read(out);
            }
            // Who looks at the terminal next does not do so beside the prompt.
            let _ = self.terminal.write_all(b"\n");
            // Half a passphrase is nothing for a shell to read.
            self.end(OptionalActions::Flush);
            // It was stopped only, and goes on.
            self.begin()?;
        }
    }
}

impl Drop for Prompt<'_> {
    fn drop(&mut self) {
        self.end(OptionalActions::Now);
    }
}
