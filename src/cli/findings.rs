//! What verify and salvage find, as text and as JSON.

use std::os::unix::ffi::OsStrExt;

use data_encoding::HEXLOWER;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Context;
use super::progress::{Progress, Unit};
use crate::vault::{Finding, Severity, VerifyObserver};

/// A name or path of bytes, fit for a terminal: what is not printable text is escaped.
pub(super) fn shown(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for char in chunk.valid().chars() {
            if char.is_control() { text.extend(char.escape_default()) } else { text.push(char) }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A path for JSON: text where it is text, and its bytes in hexadecimal beside it where it is not.
pub(super) fn put_path(object: &mut Value, field: &str, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object[field] = json!(text),
        Err(_) => {
            object[field] = json!(String::from_utf8_lossy(bytes));
            object[format!("{field}_hex")] = json!(HEXLOWER.encode(bytes));
        }
    }
}

/// One line.
pub(super) fn line(finding: &Finding) -> String {
    let backing = shown(finding.backing.as_bytes());
    let mut line = format!("{}: ", finding.severity.name());
    match &finding.plain {
        Some(plain) => line.push_str(&format!("/{}", shown(plain))),
        None => line.push_str(&backing),
    }
    if let Some(extent) = finding.extent {
        let end = extent.offset_bytes.saturating_add(extent.len_bytes);
        line.push_str(&format!(", bytes {} to {}", extent.offset_bytes, end.saturating_sub(1)));
    }
    line.push_str(&format!(": {}", shown(finding.reason.as_bytes())));
    if finding.plain.is_some() {
        line.push_str(&format!(" ({backing})"));
    }
    line
}

/// The fields of one finding.
pub(super) fn object(finding: &Finding) -> Value {
    let mut object = json!({
        "severity": finding.severity.name(),
        "kind": finding.kind.name(),
        "reason": finding.reason,
        "offset": finding.extent.map(|extent| extent.offset_bytes),
        "length": finding.extent.map(|extent| extent.len_bytes),
        "path": null,
    });
    put_path(&mut object, "backing", finding.backing.as_bytes());
    if let Some(plain) = &finding.plain {
        put_path(&mut object, "path", &[b"/", plain.as_slice()].concat());
    }
    object
}

/// Prints what is found as it is found, or keeps it for JSON; and shows how far it is.
pub(super) struct Reporter<'a> {
    context: &'a Context,
    progress: Progress,
    /// None: printed at once.
    kept: Option<Mutex<Vec<Finding>>>,
}

impl<'a> Reporter<'a> {
    /// `keep`: nothing is printed, and [`into_findings`](Self::into_findings) has all of it.
    pub(super) fn start(context: &'a Context, verb: &'static str, keep: bool) -> Self {
        let kept = keep.then(Mutex::default);
        Self { context, progress: Progress::start(context, verb, Unit::Bytes), kept }
    }

    /// What was kept, the worst first, then by path.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.kept.map(Mutex::into_inner).unwrap_or_default();
        findings.sort_by(|a, b| {
            (a.severity, &a.plain, &a.backing, a.extent).cmp(&(b.severity, &b.plain, &b.backing, b.extent))
        });
        findings
    }
}

impl VerifyObserver for Reporter<'_> {
    fn total(&self, bytes: u64) {
        self.progress.set_total(bytes);
    }

    fn checked(&self, bytes: u64) {
        self.progress.advance(bytes);
    }

    fn found(&self, finding: Finding) {
        match &self.kept {
            Some(kept) => kept.lock().push(finding),
            None if self.context.verbosity < 0 && finding.severity == Severity::Leftover => {}
            None => self.progress.suspend(|| self.context.print(&line(&finding))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vault::{Extent, FindingKind};

    fn finding(plain: &[u8]) -> Finding {
        Finding {
            severity: Severity::Damage,
            kind: FindingKind::Page,
            backing: "tree/AA/BB".into(),
            plain: Some(plain.to_vec()),
            extent: Some(Extent { offset_bytes: 4096, len_bytes: 8192 }),
            reason: "the page does not verify".into(),
        }
    }

    #[test]
    fn a_line_says_where_and_why_and_cannot_steer_a_terminal() {
        assert_eq!(
            line(&finding(b"a\x1b[2J\xff")),
            "damage: /a\\u{1b}[2J\\xff, bytes 4096 to 12287: the page does not verify (tree/AA/BB)"
        );
    }

    #[test]
    fn json_keeps_paths_that_are_no_text() {
        let object = object(&finding(b"a\xff"));
        assert_eq!(object["path"], "/a\u{fffd}");
        assert_eq!(object["path_hex"], "2f61ff");
        assert_eq!((&object["offset"], &object["length"]), (&json!(4096), &json!(8192)));
        assert_eq!(object["kind"], "page");
    }
}
