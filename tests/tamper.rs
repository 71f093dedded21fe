//! What an attacker does to the backing is noticed: each region of each kind of file, each kind of entry, the
//! configuration and the journal, at rest and while the vault is open. Expected is an error (`EIO`, or a refused
//! mount) with one line in the log that names the place, for what was touched and for nothing else; or one committed
//! version in full. What docs/threat-model.md says is not noticed is shown here, too, so that it says no more and no
//! less than what is so.

#[path = "tamper/attacks.rs"]
mod attacks;
#[path = "tamper/configuration.rs"]
mod configuration;
#[path = "tamper/files.rs"]
mod files;
#[path = "cli/harness.rs"]
mod harness;
#[path = "tamper/journal.rs"]
mod journal;
#[path = "tamper/mounted.rs"]
mod mounted;
#[path = "tamper/names.rs"]
mod names;
#[path = "tamper/oracle.rs"]
mod oracle;
#[path = "tamper/specimen.rs"]
mod specimen;
