//! The control socket: how `sero status` and other commands speak with the daemon behind a mount.
//!
//! One connection carries any number of [`Request`]s, each answered by one [`Response`], in order. Both are one
//! line of JSON, of [`wire::LINE_MAX_BYTES`] at most. Neither ever holds a secret, but the keys that a
//! rotation goes to;
//! names of what is in the vault only where a verify is asked for them, or finds damage there.
//!
//! The socket belongs to the daemon's user alone, in a directory that does too ([`place`]), and the daemon answers
//! only that user and root, by what the kernel says about the other end ([`wire::peer`]).
//!
//! To add a request: a variant here, an arm in the daemon's [`server::Handler`], and its types as serde writes them.
//! A request that starts something long answers at once; how far it is, is asked for afterwards.

mod client;
mod place;
mod server;
mod wire;

use serde::{Deserialize, Serialize};

use super::exit_code::ExitCode;
use super::failure::Failure;
use super::rotate::{KeysText, RotationFacts};
use super::status::Status;
use super::verify::Verification;
pub(super) use client::{Endpoint, Unreachable, ask, endpoints, exchange};
pub(super) use server::{Handler, Server};

/// What can be asked of a daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub(super) enum Request {
    /// What it serves, and how it is.
    Status,
    /// Begin to verify the vault: these plain paths, or everything.
    Verify { paths: Vec<Vec<u8>>, jobs: usize },
    /// How far the one of this number is; the findings from this one on.
    VerifyProgress { number: u64, from: usize },
    /// To rotate the vault's key; the configuration has the new version already.
    Rotate {
        keys: KeysText,
        /// 0: without a limit.
        bytes_per_second: u64,
    },
    /// How far the rotation is.
    RotationStatus,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "kebab-case")]
pub(super) enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Verify`] and [`Request::VerifyProgress`].
    Verification(Box<Verification>),
    /// To [`Request::Rotate`] and [`Request::RotationStatus`].
    Rotation(RotationFacts),
    /// Refused, or failed; as the command that asked reports it.
    Failed { code: ExitCode, message: String },
}

impl Response {
    pub(super) fn failed(failure: Failure) -> Self {
        Self::Failed { code: failure.code, message: failure.message }
    }
}
