//! What is fuzzed. `scripts/fuzz.sh` runs these under libFuzzer, `tests/fuzz_corpus.rs` on the committed corpus.
//!
//! A decoder behind an authenticated cipher would see nothing but refusals: so the input is also taken for what was
//! sealed, by someone with the key. Whatever it is, nothing panics, overflows, or takes memory by a length that was not
//! checked; and what is accepted is what the encoder would have written.

// Paths, as a test includes this file, too.
#[path = "targets/decoders.rs"]
mod decoders;
#[path = "targets/engine.rs"]
mod engine;

/// Fuzzes one thing with an input.
pub type Target = fn(&[u8]);

/// All of them, by the names of their folders in `fuzz/corpus`.
pub const ALL: &[(&str, Target)] = &[
    ("header", decoders::header),
    ("geometry", decoders::geometry),
    ("record", decoders::record),
    ("segment", decoders::segment),
    ("configuration", decoders::configuration),
    ("names", decoders::names),
    ("directory_iv", decoders::directory_iv),
    ("symlink", decoders::symlink),
    ("xattrs", decoders::xattrs),
    ("state", engine::state),
    ("node", engine::node),
    ("home", engine::home),
    ("journal", engine::journal),
    ("operations", engine::operations),
];

/// An input, taken apart; zeros behind its end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self, below: u64) -> u64 {
        let bytes = [self.byte(), self.byte(), self.byte(), self.byte()];
        u64::from(u32::from_le_bytes(bytes)) % below.max(1)
    }

    const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    const fn rest(&self) -> &'a [u8] {
        self.0
    }
}
