//! Ctrl-C: measuring ends early, and everything is cleaned up all the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::{Failure, Outcome};
use crate::{exec, note};

static ASKED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT and SIGTERM only raise a flag, which every wait here looks at.
pub(crate) fn listen() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let pair = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
            let (Ok(mut interrupt), Ok(mut terminate)) = pair else { return };
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            note!("stopping: cleaning up, this takes a few seconds");
            ASKED.store(true, Ordering::SeqCst);
            // Further signals are taken and ignored: cleaning up is not to be cut short.
            loop {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            }
        });
    });
}

/// Fails once somebody asked to stop.
pub(crate) fn check() -> Outcome<()> {
    if ASKED.load(Ordering::SeqCst) { Err(Failure::new("stopped by a signal")) } else { Ok(()) }
}

/// Lets time pass, unless somebody asks to stop.
pub(crate) fn pause(time: Duration) -> Outcome<()> {
    wait(time, || Ok(false)).map(|_| ())
}

/// Waits until a condition holds; fails naming `what` if it does not within `limit`.
pub(crate) fn until(
    what: &str,
    limit: Duration,
    holds: impl FnMut() -> Outcome<bool>,
) -> Outcome<()> {
    if wait(limit, holds)? {
        return Ok(());
    }
    Err(Failure::new(format!("{what}: not within {} s", limit.as_secs_f64())))
}

fn wait(limit: Duration, mut holds: impl FnMut() -> Outcome<bool>) -> Outcome<bool> {
    let end = Instant::now() + limit;
    loop {
        check()?;
        if holds()? {
            return Ok(true);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        thread::sleep(left.min(exec::POLL));
    }
}
