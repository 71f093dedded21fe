//! The kernel's FUSE: mounts a vault's filesystem and answers its requests.
//!
//! | file | what |
//! |---|---|
//! | `activity` | counts what is asked |
//! | `adapter` | one request, one call of [`crate::fs::Fs`], one reply; panics and errors end here |
//! | `background` | threads for what has to wait |
//! | `transport` | the protocol, and the threads that read and answer |
//! | `negotiate` | the capabilities taken of the kernel |
//! | `seeking` | SEEK_DATA and SEEK_HOLE beside the kernel's dirty pages |
//! | `through` | files that are written past the kernel's cache while the backing is nearly full |
//! | `session` | [`serve`]: mount, answer until the end, unmount |
//! | `mount`, `fusermount` | the mount itself: mount(2) as root, the set-user-id helper as an ordinary user |
//! | `io_uring` | has the kernel offer FUSE over io_uring |
//! | `options` | what `-o` accepts |
//! | `mountinfo`, `users` | which mounts there are, and who keeps one busy |

mod activity;
mod adapter;
mod background;
mod error;
mod fusermount;
mod io_uring;
mod mount;
pub mod mountinfo;
mod negotiate;
mod options;
mod seeking;
mod session;
mod through;
mod transport;
mod users;
mod write_back;

pub use crate::fs::{Fs, FsOptions, Lost, Usage};
pub use activity::{Activity, ActivityCount, ErrorCount};
pub use error::FuseError;
pub use mount::{MountRequest, Unmount, begin_detaching, check_available, is_dead, look, looks_dead, unmount};
pub use mountinfo::DeviceNumber;
pub use options::{AccessTime, MountOptions, UnknownOption};
pub use session::{Held, MountedSession, serve, write_back};
pub use users::{Process, mounts_on, processes_seeing, processes_using};
