//! One target, the one that `SERO_FUZZ` names, under libFuzzer. See `scripts/fuzz.sh`.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

mod targets;

static TARGET: OnceLock<targets::Target> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var("SERO_FUZZ").unwrap_or_default();
        let known = targets::ALL.iter().find(|(known, _)| *known == name);
        known.unwrap_or_else(|| panic!("SERO_FUZZ names no target: {name}")).1
    });
    target(data);
});
