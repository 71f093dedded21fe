//! sero mounts an encrypted project vault as a normal directory: tools read and write plain files, the
//! backing directory holds only ciphertext, unmounting seals the project.
//!
//! The layers, lowest first. Each imports only what the table allows; `tests/tidy.rs` enforces it.
//!
//! | module | what | may import |
//! |---|---|---|
//! | [`crypto`] | AES-256-GCM, AES-SIV, HKDF, Argon2id, randomness | nothing of the crate |
//! | [`storage`] | what is asked of a backing, and the real one | nothing of the crate |
//! | [`format`] | bytes to types and back, no I/O | crypto |
//! | [`vault`] | files, directories, journal, checkpoint, recovery | crypto, storage, format |
//! | [`fs`] | POSIX semantics: inodes, handles, attributes, errno | vault |
//! | [`fuse`] | the mount: FUSE's protocol, and the adapter to it | fs |
//! | [`cli`] | arguments, prompts, reports, exit codes | fuse, vault |
//!
//! [`format`]: mod@format
//!
//! `docs/architecture.md` follows a write and a read through them; `docs/format.md` is the format.

#![deny(unsafe_code)]

pub mod cli;
pub mod crypto;
pub mod format;
pub mod fs;
pub mod fuse;
pub mod storage;
pub mod vault;
