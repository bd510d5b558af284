//! What the fuzzers found worth keeping, once more on stable: every file of `tests/fuzz/corpus` through the
//! same function that found it.

#[path = "../fuzz/targets/mod.rs"]
pub mod targets;

use std::path::Path;

#[test]
fn every_kept_input_of_every_fuzz_target_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    for (name, run) in targets::ALL {
        let folder = std::fs::read_dir(corpus.join(name)).unwrap_or_else(|_| panic!("{name} has no corpus"));
        let mut replayed = 0;
        for entry in folder.flatten() {
            let data = std::fs::read(entry.path()).unwrap();
            let place = entry.path();
            let held = std::panic::catch_unwind(|| run(&data));
            assert!(held.is_ok(), "{} breaks a promise", place.display());
            replayed += 1;
        }
        assert!(replayed >= 10, "{name}: only {replayed} inputs");
    }
}

#[test]
fn the_corpus_is_small_and_of_known_targets() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
    let (mut files, mut bytes) = (0, 0);
    for folder in std::fs::read_dir(&corpus).unwrap().flatten() {
        let name = folder.file_name().into_string().unwrap();
        assert!(targets::ALL.iter().any(|(target, _)| *target == name), "{name} is no target");
        for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
            files += 1;
            bytes += file.metadata().unwrap().len();
        }
    }
    assert!(files <= 2_000 && bytes <= 1 << 20, "{files} files, {bytes} bytes");
}
