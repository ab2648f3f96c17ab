//! Keeping the guard itself running when the machine is short of memory or processor time.
//!
//! Everything here is done as far as the system allows; the status says whether it was.

use std::fs;

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setpriority_process, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use thread_priority::{
    NormalThreadSchedulePolicy, RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue,
    ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id, thread_schedule_policy,
};

const OOM_FILE: &str = "/proc/self/oom_score_adj";
/// "Never", for the killer of processes that use too much memory.
const OOM_NEVER: &str = "-1000";
/// A limit on locked memory below this would make an allocation fail once all of it is locked.
const LOCKABLE_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// The lowest real-time priority is above everything that is not real-time.
const PRIORITY: u8 = 1;
/// The strongest nice value, where real-time is not allowed.
const NICE: i32 = -20;
/// What `thread-priority` turns into nice value 0.
const NICE_0: u8 = 47;

/// What was reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steadiness {
    /// Real-time priority and locked memory, both.
    pub realtime: bool,
    /// The OOM score adjustment that the guard had before it lowered its own; `None` if it could
    /// not, and `PostgreSQL` simply inherits what there is.
    pub oom_before: Option<String>,
}

/// Locks the guard's memory, gives the calling thread real-time priority, and asks the OOM killer to
/// spare it. To be called after the other thread was started, which is to stay ordinary.
#[must_use]
pub fn steady() -> Steadiness {
    let locked = lock_memory();
    let first = raise_priority();
    Steadiness { realtime: locked && first, oom_before: avoid_oom() }
}

/// Locks all memory, present and future. Not inherited across `fork`.
///
/// # Sources
/// `mlockall(2)`; `RLIMIT_MEMLOCK` does not bind a process with `CAP_IPC_LOCK`.
fn lock_memory() -> bool {
    let Rlimit { current, maximum } = getrlimit(Resource::Memlock);
    let unbound =
        capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    let raised = Rlimit { current: maximum, maximum };
    let limit = if setrlimit(Resource::Memlock, raised).is_ok() { maximum } else { current };
    let enough = limit.is_none_or(|bytes| bytes >= LOCKABLE_BYTES_MIN);
    (unbound || enough) && mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE).is_ok()
}

fn raise_priority() -> bool {
    let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    let realtime = ThreadPriorityValue::try_from(PRIORITY).is_ok_and(|priority| {
        let priority = ThreadPriority::Crossplatform(priority);
        set_thread_priority_and_policy(thread_native_id(), priority, fifo).is_ok()
    });
    if !realtime {
        let _not_allowed = setpriority_process(None, NICE);
    }
    realtime
}

fn avoid_oom() -> Option<String> {
    let before = fs::read_to_string(OOM_FILE).ok()?.trim().to_owned();
    fs::write(OOM_FILE, OOM_NEVER).ok().map(|()| before)
}

/// Gives the calling process ordinary priority again: `PostgreSQL` must not inherit the guard's.
///
/// Returns whether it has it now. A nice value that the guard was started with may stay.
#[must_use]
pub fn ordinary_priority() -> bool {
    let other = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);
    let reset = ThreadPriorityValue::try_from(NICE_0).is_ok_and(|priority| {
        let priority = ThreadPriority::Crossplatform(priority);
        set_thread_priority_and_policy(thread_native_id(), priority, other).is_ok()
    });
    reset || thread_schedule_policy().is_ok_and(|policy| policy == other)
}
