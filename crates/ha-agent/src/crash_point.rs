//! Places between two steps at which a test ends the agent, as a power cut would.
//!
//! They are there in debug builds only. A test names one in a file, whose path the agent was given in
//! [`FILE_VARIABLE`]; the first to pass that place takes the file away and dies.

use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::process::{Signal, getpid, kill_process};

/// Environment variable with the path of the file.
pub const FILE_VARIABLE: &str = "HACLT_TEST_CRASH_POINT";

/// The same for an adoption, whose places are its steps: `adopt:` and the step.
pub(crate) fn reached_in_adoption(step: &str) {
    reached(&format!("adopt:{step}"));
}

/// Ends this process without any clean-up if the file names this place.
pub(crate) fn reached(place: &str) {
    static FILE: OnceLock<Option<PathBuf>> = OnceLock::new();
    if !cfg!(debug_assertions) {
        return;
    }
    let file = FILE.get_or_init(|| std::env::var_os(FILE_VARIABLE).map(PathBuf::from));
    let Some(file) = file else { return };
    let named = std::fs::read_to_string(file).is_ok_and(|name| name.trim() == place);
    // Of two that pass at once one takes the file; both would die of it anyway.
    if named && std::fs::remove_file(file).is_ok() {
        let _dies_of_it = kill_process(getpid(), Signal::KILL);
        std::process::abort();
    }
}
