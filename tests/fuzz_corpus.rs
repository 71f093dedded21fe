//! The corpus of the fuzz targets, run once: what was found once is found again. `scripts/fuzz.sh` looks for more.

use std::fs;
use std::path::Path;

#[path = "../fuzz/src/targets.rs"]
mod targets;

#[test]
fn no_input_of_the_corpus_fails() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, target) in targets::ALL {
        let mut inputs: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|entry| entry.unwrap().path()).collect();
        inputs.sort();
        assert!(inputs.len() > 1, "{name} has a corpus");
        for input in inputs {
            // Named before it runs: a panic then says which it was.
            println!("{name} {}", input.file_name().unwrap().display());
            target(&fs::read(&input).unwrap());
        }
        target(b"");
    }
}

#[test]
fn every_folder_of_the_corpus_is_of_a_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for folder in fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().file_name()) {
        assert!(targets::ALL.iter().any(|(name, _)| folder == *name), "{}", folder.display());
    }
}
