//! The on-disk format: pure functions between bytes and types, as `docs/format.md` specifies it.
//!
//! No input or output happens here, and keys are used but never kept. What comes from the disk is
//! untrusted: it parses into a type or an error, never into a panic, and no length that it claims is
//! used before it is checked. The lints below hold the parsers to that.
//!
//! | module | what |
//! |---|---|
//! | [`configuration`] | `sero.json`: public facts, keyslots, wrapped project keys |
//! | [`header`] | the 128 bytes at the start of every file |
//! | [`geometry`] | where pages and nodes stand in a file |
//! | [`record`] | the journal's records |
//! | [`recovery_key`] | the text of a recovery key |
//! | [`seals`] | what the associated data of pages and nodes says |
//! | [`names`] | sealed names and their long form |
//! | [`directory_iv`] | a directory's IV |
//! | [`symlink`] | sealed targets of symbolic links |
//! | [`xattrs`] | the sealed table of extended attributes |

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::unreachable,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::arithmetic_side_effects,
        clippy::as_conversions
    )
)]

pub mod configuration;
pub mod directory_iv;
#[allow(
    clippy::as_conversions,
    reason = "const functions know no From; each conversion widens, or is of a number below 4096"
)]
pub mod geometry;
pub mod header;
pub mod names;
pub mod record;
pub mod recovery_key;
pub mod seals;
pub mod symlink;
pub mod xattrs;
