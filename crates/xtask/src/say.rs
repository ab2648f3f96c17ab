//! Output. Data goes to standard output, everything about the work to standard error.

use std::fmt::Arguments;
use std::io::Write as _;

/// Writes a line to standard output. A closed pipe is the reader's decision, not a failure.
pub(crate) fn data(line: Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    drop(writeln!(out, "{line}"));
    drop(out.flush());
}

/// Writes a line to standard error.
pub(crate) fn note(line: Arguments<'_>) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// Writes a line to standard output, worded as by `format!`.
#[macro_export]
macro_rules! data {
    ($($word:tt)*) => { $crate::say::data(format_args!($($word)*)) };
}

/// Writes a line to standard error, worded as by `format!`.
#[macro_export]
macro_rules! note {
    ($($word:tt)*) => { $crate::say::note(format_args!($($word)*)) };
}
