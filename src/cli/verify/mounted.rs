//! The verify of a mounted vault: the daemon does it, and is asked how far it is.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cli::control::{self, Endpoint, Request, Response};
use crate::cli::failure::{Failure, Result};
use crate::cli::findings::Reporter;
use crate::fuse::mountinfo::Mount;
use crate::vault::{Finding, VerifyObserver, VerifyOptions, VerifySummary};

/// Between two questions.
const INTERVAL: Duration = Duration::from_millis(100);

/// How far the daemon is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(in crate::cli) struct Verification {
    /// Which of the daemon's it is.
    pub(in crate::cli) number: u64,
    /// Bytes of content.
    pub(in crate::cli) checked: u64,
    /// None: not known yet.
    pub(in crate::cli) total: Option<u64>,
    /// Those that were asked for, or the first of them.
    pub(in crate::cli) findings: Vec<Finding>,
    /// It is over, and there are no more findings.
    pub(in crate::cli) summary: Option<VerifySummary>,
}

/// Has the daemon behind a mount verify the vault.
pub(super) fn verify(mount: &Mount, options: VerifyOptions, reporter: &Reporter<'_>) -> Result<VerifySummary> {
    let endpoint = Endpoint::of(mount);
    let about = |failure: Failure| failure.about(mount.mountpoint.display());
    let VerifyOptions { paths, jobs } = options;
    let ask = |request| match control::ask(&endpoint, &request).map_err(about)? {
        Response::Verification(answer) => Ok(answer),
        _ => Err(about(Failure::other("the daemon answered something else; seal and mount again"))),
    };
    let number = ask(Request::Verify { paths, jobs })?.number;
    let (mut seen, mut checked) = (0, 0);
    loop {
        let now = ask(Request::VerifyProgress { number, from: seen })?;
        if let Some(total) = now.total {
            reporter.total(total);
        }
        reporter.checked(now.checked.saturating_sub(checked));
        checked = now.checked;
        let is_more = !now.findings.is_empty();
        seen = seen.saturating_add(now.findings.len());
        now.findings.into_iter().for_each(|finding| reporter.found(finding));
        if let Some(summary) = now.summary {
            return Ok(summary);
        }
        if !is_more {
            thread::sleep(INTERVAL);
        }
    }
}
