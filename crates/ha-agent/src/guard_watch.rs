//! Wakes the control loop the moment the guard writes its status.

use std::path::Path;

use ha_core::permit::STATUS_FILE;
use ha_postgres::driver::PostgresDriver;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use tokio::sync::watch;
use tracing::debug;

use crate::agent::Agent;

/// How often the thread looks whether anybody still listens.
const PATIENCE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Watches the permit directory on a thread of its own, since waiting on a bare descriptor is the one
/// thing tokio offers no safe call for. The receiver changes whenever the status file is replaced;
/// without inotify it never does, and the loop's own tick has to do.
pub fn start<D: PostgresDriver>(agent: &Agent<D>) -> watch::Receiver<()> {
    let (sender, receiver) = watch::channel(());
    if let Some(settings) = &agent.config.postgres {
        let dir = settings.permit_dir.clone();
        let thread = std::thread::Builder::new().name("guard-watch".to_owned());
        let started = thread.spawn(move || {
            if let Err(error) = forward(&dir, &sender) {
                debug!(%error, "cannot watch the permit directory");
            }
        });
        if let Err(error) = started {
            debug!(%error, "cannot watch the permit directory");
        }
    }
    receiver
}

fn forward(dir: &Path, sender: &watch::Sender<()>) -> std::io::Result<()> {
    let flags = inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC;
    let fd = inotify::init(flags)?;
    inotify::add_watch(&fd, dir, inotify::WatchFlags::MOVED_TO)?;
    let mut buffer = [std::mem::MaybeUninit::<u8>::uninit(); 4096];
    while !sender.is_closed() {
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&PATIENCE)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        let mut reader = inotify::Reader::new(&fd, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    if event.file_name().is_some_and(|n| n.to_bytes() == STATUS_FILE.as_bytes()) {
                        sender.send_replace(());
                    }
                }
                Err(rustix::io::Errno::AGAIN) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
