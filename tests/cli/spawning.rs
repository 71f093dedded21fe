//! Between fork(2) and exec(2) a child has a copy of every descriptor of this process, and with it the lock of a vault that another
//! thread has open: for some milliseconds that vault is in use although its thread has let go of it. So programs are started one
//! at a time, and a vault is opened between them.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, PoisonError};

static STARTING: Mutex<()> = Mutex::new(());

/// As [`Command::spawn`]: it returns when the child has executed.
pub fn start(command: &mut Command) -> io::Result<Child> {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// As [`Command::status`].
pub fn status(command: &mut Command) -> ExitStatus {
    start(command).unwrap().wait().unwrap()
}

/// Waits until no child has copies of what was let go of before.
pub fn all_started() {
    drop(STARTING.lock().unwrap_or_else(PoisonError::into_inner));
}
