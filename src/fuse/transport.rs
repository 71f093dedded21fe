//! The way to the kernel: FUSE's protocol over `/dev/fuse`, and over io_uring where the kernel has that.
//!
//! | file | what |
//! |---|---|
//! | `abi` | the protocol's words |
//! | `request`, `reply` | requests taken apart, answers put together |
//! | `dispatch` | [`Filesystem`]: what is served, one method for each kind of request |
//! | `session`, `seat` | the threads that read the device and answer |
//! | `uring` | the threads that answer what comes over io_uring |
//!
//! It is sero's own for the sake of its threads: what a request costs is mostly what it takes to wake whoever answers it
//! (docs/performance.md).

mod abi;
mod dispatch;
mod reply;
mod request;
mod seat;
mod session;
mod uring;

pub(super) use abi::{init, open};
pub(super) use dispatch::{Filesystem, Making, Range, Rename, Writing, node_at_work};
pub(super) use reply::{Device, List, Reply, invalidate, invalidate_name};
pub(super) use request::Request;
pub(super) use session::{Agreement, Session};
