//! Taking secrets out of texts.

use std::time::Duration;

use ha_core::redact::{REMOVED, Redactor};
use rustix::time::{ClockId, clock_gettime};

use super::{choice, text};

const SECRET: &str = "correct-horse";
const UNTOLD: &str = "battery-staple";
/// How long a text is that must be done in the time below.
const LONG_BYTES: usize = 64 << 10;
/// Far above what it takes, and far below what anything quadratic takes.
const LONGEST: Duration = Duration::from_secs(1);

/// A known secret is nowhere in what comes out, and neither is what is called a password.
pub(super) fn redact(data: &[u8]) {
    let text = text(data);
    let clean = Redactor::knowing([SECRET]).text(&text);
    assert!(!clean.contains(SECRET), "{clean:?}");
    // One secret at a time: names that are not secret ones are left alone.
    let harmless = !text.contains(SECRET) && text.bytes().all(|b| b == b' ' || b == b'\n');
    assert!(!harmless || clean == text);
    // One that nobody told, behind whatever does not open a quote: it stands nowhere else.
    // Nor does it come about by being taken out.
    let before = text.replace(['\'', '"', '`', '$'], "").replace(UNTOLD, ".");
    let clean = Redactor::default().text(&format!("{before}\npassword='{UNTOLD}x'\n"));
    assert!(!clean.contains(UNTOLD) && clean.contains(REMOVED), "{clean:?}");
}

/// However often something is repeated: the time does not grow with the square of the length.
pub(super) fn redact_time(data: &[u8]) {
    let (head, rest) = choice(data);
    if rest.is_empty() {
        return;
    }
    let text = text(rest);
    let mut long = String::with_capacity(LONG_BYTES + text.len());
    let (once, repeated) = text.split_at(floor(&text, usize::from(head) % rest.len()));
    long.push_str(once);
    while !repeated.is_empty() && long.len() < LONG_BYTES {
        long.push_str(repeated);
    }
    let began = cpu_time();
    let clean = Redactor::knowing([SECRET]).text(&long);
    let took = cpu_time().saturating_sub(began);
    assert!(took < LONGEST, "{took:?} for {} bytes of {text:?}", long.len());
    assert!(clean.len() <= long.len() * (REMOVED.len() + 1) + REMOVED.len());
}

/// Whatever else runs on this machine.
fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
