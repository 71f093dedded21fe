//! Large buffers, one for each thread.

use std::cell::RefCell;

use super::VaultCore;
use crate::storage::Storage;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<S: Storage> VaultCore<S> {
    /// A buffer of this thread, of this many bytes, whatever they are.
    pub fn scratch(&self, len: usize) -> Scratch {
        let mut scratch = Scratch { bytes: SCRATCH.take(), len: 0 };
        scratch.set_len(len);
        scratch
    }
}

/// A buffer that goes back to its thread, so that large requests do not each map and unmap their own. It holds
/// ciphertext only.
pub(crate) struct Scratch {
    bytes: Vec<u8>,
    len: usize,
}

impl Scratch {
    pub fn set_len(&mut self, len: usize) {
        if self.bytes.len() < len {
            self.bytes.resize(len, 0);
        }
        self.len = len;
    }
}

impl std::ops::Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl std::ops::DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.len).unwrap_or_default()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        SCRATCH.set(std::mem::take(&mut self.bytes));
    }
}
