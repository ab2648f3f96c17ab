//! Signals for our server, which the guard sends: it is in the server's process namespace.

use std::time::Duration;

use ha_core::permit::{SIGNAL_FILE, SIGNALLED_FILE, ServerSignal, SignalRequest, Signalled};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::Shared;

/// How long the guard may take to send a signal that it was asked for.
const SIGNAL_LIMIT: Duration = Duration::from_secs(1);
const SIGNAL_LOOK_EVERY: Duration = Duration::from_millis(1);

impl Shared {
    /// Has the guard signal a process of our server. Returns whether the number still meant one.
    ///
    /// Through its directory and not through the engine: a standby must be able to stop receiving for
    /// an election whatever has become of the engine.
    pub(crate) async fn signal_server(&self, pid: i32, signals: &[Signal]) -> bool {
        let signals = signals.iter().filter_map(|signal| match *signal {
            Signal::HUP => Some(ServerSignal::Hup),
            Signal::TERM => Some(ServerSignal::Term),
            Signal::CONT => Some(ServerSignal::Cont),
            Signal::KILL => Some(ServerSignal::Kill),
            _ => None,
        });
        let _one_at_a_time = self.signalling.lock().await;
        let (boot, number) = (self.files.boot(), self.random());
        let request = SignalRequest { boot, number, pid, signals: signals.collect() };
        if let Err(error) = self.files.replace(SIGNAL_FILE, &request.encode()) {
            warn!(%error, "could not ask the guard for a signal");
            return false;
        }
        let until = Instant::now() + SIGNAL_LIMIT;
        while Instant::now() < until {
            let answer = self.files.read(SIGNALLED_FILE).ok();
            let answer = answer.and_then(|text| Signalled::decode(&text).ok());
            if let Some(answer) = answer.filter(|it| (it.boot, it.number) == (boot, number)) {
                return answer.done;
            }
            sleep(SIGNAL_LOOK_EVERY).await;
        }
        false
    }
}
