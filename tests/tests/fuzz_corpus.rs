//! Every kept input of every fuzz target, run by an ordinary compiler.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ha_tests::fuzz::TARGETS;

/// A folder of inputs is a few of the best, not all that were ever found.
const FOLDER_BYTES_MAX: u64 = 64 << 10;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder of the repository").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn no_kept_input_of_a_fuzz_target_breaks_a_promise() {
    let mut broken = Vec::new();
    for target in TARGETS {
        let folder = corpus().join(target.name);
        for name in names(&folder) {
            let data = fs::read(folder.join(&name)).expect("a file of the repository");
            let run = AssertUnwindSafe(|| (target.run)(&data));
            if catch_unwind(run).is_err() {
                broken.push(format!("{}/{name}", target.name));
            }
        }
    }
    assert!(broken.is_empty(), "see above: {broken:?}");
}

#[test]
fn every_target_is_a_program_and_has_inputs_but_not_too_many() {
    let ours: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&corpus()), ours, "folders of fuzz/corpus");
    let programs = names(&corpus().join("../fuzz_targets"));
    let expected: BTreeSet<String> = ours.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(programs, expected, "files of fuzz/fuzz_targets");
    for name in ours {
        let folder = corpus().join(&name);
        let inputs = names(&folder);
        assert!(!inputs.is_empty(), "{name} has no inputs");
        let bytes = inputs.iter().map(|input| fs::metadata(folder.join(input)));
        let bytes: u64 = bytes.map(|found| found.map_or(0, |found| found.len())).sum();
        assert!(bytes <= FOLDER_BYTES_MAX, "{name} has {bytes} bytes of inputs");
    }
}

/// Numbers that look random and are the same in each run (xorshift64, George Marsaglia).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits") % bound.max(1)
    }

    /// Changes a byte, takes some out, doubles some, or puts another input's end behind.
    fn change(&mut self, data: &mut Vec<u8>, other: &[u8]) {
        let at = self.below(data.len());
        let length = self.below(16).min(data.len() - at);
        match self.below(4) {
            0 if !data.is_empty() => data[at] = u8::try_from(self.below(256)).expect("a byte"),
            1 => drop(data.drain(at..at + length)),
            2 => {
                let some = data[at..at + length].to_vec();
                data.splice(at..at, some);
            }
            _ => {
                data.truncate(at);
                data.extend(&other[self.below(other.len())..]);
            }
        }
    }
}

/// Without knowing what was reached this finds little in a short time; it is here for what changes the
/// outcome of almost any input. `HACLT_FUZZ_ROUNDS` makes it longer.
#[test]
fn inputs_changed_at_random_break_no_promise() {
    let rounds = std::env::var("HACLT_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds: usize = rounds.unwrap_or(300);
    let mut broken = Vec::new();
    for target in TARGETS {
        let folder = corpus().join(target.name);
        let read = |name| fs::read(folder.join(name)).expect("a file of the repository");
        let inputs: Vec<Vec<u8>> = names(&folder).iter().map(read).collect();
        let mut numbers = Numbers(0x9E37_79B9_7F4A_7C15);
        // It takes as long for one as others for hundreds.
        let rounds = if target.name == "redact_time" { rounds / 100 } else { rounds };
        for _ in 0..rounds {
            let mut data = inputs[numbers.below(inputs.len())].clone();
            for _ in 0..=numbers.below(4) {
                let other = &inputs[numbers.below(inputs.len())];
                numbers.change(&mut data, other);
            }
            let run = AssertUnwindSafe(|| (target.run)(&data));
            if catch_unwind(run).is_err() {
                broken.push(format!("{}: {:?}", target.name, String::from_utf8_lossy(&data)));
                break;
            }
        }
    }
    assert!(broken.is_empty(), "see above: {broken:#?}");
}
