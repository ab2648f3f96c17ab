//! The `[hooks]` section.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use ha_core::NodeKind;

use super::reader::Reader;

/// How long a hook may take unless something else is said.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longer ones would make one believe that the queue moves.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// When a hook is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HookKind {
    /// This node's database has become primary and accepts writes.
    OnPromote,
    /// It stopped being primary, in order or after a crash.
    OnDemote,
    /// It was primary, or could have been, and was made unable to write.
    OnFence,
    /// It runs.
    OnStart,
    /// It does not run any more.
    OnStop,
    /// A switchover away from this node begins; it can be broken off.
    BeforeSwitchover,
    /// That switchover has ended, one way or another.
    AfterSwitchover,
}

impl HookKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::OnPromote,
        Self::OnDemote,
        Self::OnFence,
        Self::OnStart,
        Self::OnStop,
        Self::BeforeSwitchover,
        Self::AfterSwitchover,
    ];

    /// Returns its key in the configuration, which is also what the hook is told.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OnPromote => "on_promote",
            Self::OnDemote => "on_demote",
            Self::OnFence => "on_fence",
            Self::OnStart => "on_start",
            Self::OnStop => "on_stop",
            Self::BeforeSwitchover => "before_switchover",
            Self::AfterSwitchover => "after_switchover",
        }
    }
}

impl fmt::Display for HookKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The `[hooks]` section: programs of the operator.
#[derive(Debug, Clone, Default)]
pub struct HookSettings {
    /// Program and first arguments, by when it is run.
    pub commands: BTreeMap<HookKind, Vec<String>>,
    /// How long each may take.
    pub timeout: Duration,
    /// How long `before_switchover` may take.
    pub before_switchover_timeout: Duration,
}

impl HookSettings {
    /// Returns how long a hook may take.
    #[must_use]
    pub const fn limit(&self, kind: HookKind) -> Duration {
        match kind {
            HookKind::BeforeSwitchover => self.before_switchover_timeout,
            HookKind::OnPromote
            | HookKind::OnDemote
            | HookKind::OnFence
            | HookKind::OnStart
            | HookKind::OnStop
            | HookKind::AfterSwitchover => self.timeout,
        }
    }
}

pub(super) fn settings(r: &mut Reader, node: NodeKind) -> HookSettings {
    let mut commands = BTreeMap::new();
    if node == NodeKind::Witness && !r.keys("hooks").is_empty() {
        r.fault("section hooks: a witness has no role that could change");
        drop(r.table("hooks"));
    }
    for kind in HookKind::ALL {
        let key = format!("hooks.{kind}");
        let Some(command) = r.texts(&key) else { continue };
        match command.first() {
            None => r.fault(format!("{key} is empty: it is a program and its arguments")),
            Some(program) if !Path::new(program).is_absolute() => {
                r.fault(format!("{key}: {program} is not an absolute path"));
            }
            Some(_) => {}
        }
        if command.iter().any(|word| word.contains('\0')) {
            r.fault(format!("{key}: an argument holds a zero byte"));
        }
        commands.insert(kind, command);
    }
    let mut limit = |key: &str| {
        let limit = r.duration(key)?;
        if limit.is_zero() || limit > TIMEOUT_MAX {
            let max = TIMEOUT_MAX.as_secs();
            r.fault(format!("{key}: not between 1ms and {max}s"));
        }
        Some(limit)
    };
    let timeout = limit("hooks.timeout").unwrap_or(TIMEOUT);
    let before_switchover_timeout = limit("hooks.before_switchover_timeout").unwrap_or(timeout);
    HookSettings { commands, timeout, before_switchover_timeout }
}
