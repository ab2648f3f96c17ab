//! What the agent and the guard tell each other: small files, read and written as text.
//!
//! The agent writes the [`Permit`] (and, for a guard in a container, the [`Launch`] file and
//! [`SignalRequest`]s), the guard writes its [`GuardStatus`]; all by atomic rename into a directory that
//! only the two share, on tmpfs where there is one. All formats carry a version, the id of the boot they are meant for, and a checksum: a file that is cut short,
//! damaged, of another version or of another boot is an error, never a permit.

mod launch;
mod signalling;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use crate::boot::BootId;
use crate::clock::{BootNanos, millis};
use crate::epoch::Epoch;

pub use launch::{LAUNCH_FILE, Launch};
pub use signalling::{SIGNAL_FILE, SIGNALLED_FILE, ServerSignal, SignalRequest, Signalled};

/// Name of the permit inside the shared directory.
pub const PERMIT_FILE: &str = "permit";
/// Name of the guard's status inside the shared directory.
pub const STATUS_FILE: &str = "guard.status";
/// Name of the file that a running guard holds an exclusive lock on.
pub const LOCK_FILE: &str = "guard.lock";

const PERMIT_HEADER: &str = "haclt permit 1";
const STATUS_HEADER: &str = "haclt guard-status 1";

/// How `PostgreSQL` is to be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Disconnects clients and writes a shutdown checkpoint (SIGINT to the postmaster).
    Fast,
    /// Stops at once without a checkpoint (SIGQUIT to the postmaster).
    Immediate,
}

/// What the guard is to do with its `PostgreSQL`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It must not run.
    Down {
        /// The first, gentlest means; the guard escalates to SIGKILL within its bounds.
        stop: StopMode,
    },
    /// It may run in recovery, with `standby.signal` in place.
    Standby,
    /// It may accept writes until shortly before `deadline`.
    Primary {
        /// The grant that this right comes from.
        epoch: Epoch,
        /// When the right ends, on this boot's `CLOCK_BOOTTIME`.
        deadline: BootNanos,
    },
}

impl Order {
    /// Returns whether the order lets `PostgreSQL` run at all.
    #[must_use]
    pub const fn lets_run(self) -> bool {
        match self {
            Self::Down { .. } => false,
            Self::Standby | Self::Primary { .. } => true,
        }
    }
}

/// The permit: the only thing the guard obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permit {
    /// The boot it is valid in.
    pub boot: BootId,
    /// Which run of `PostgreSQL` it is about. A number above the last run the guard started asks for
    /// a new start; the same number never starts anything twice, so a crash is not followed by a
    /// restart that nobody decided.
    pub run: u64,
    /// The highest epoch whose right this node gave up for good. The agent must not renew it, and the
    /// guard refuses to make or keep `PostgreSQL` primary under it or an older one.
    pub burnt: Epoch,
    /// What is permitted.
    pub order: Order,
}

/// What became of the `PostgreSQL` of the latest run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunState {
    /// Nothing was started by this guard yet.
    Idle,
    /// The postmaster is alive.
    Running,
    /// The postmaster is being stopped.
    Stopping,
    /// Every process of the run is gone; the postmaster ended by itself or as ordered.
    Exited,
    /// Every process of the run is gone; the guard killed them because the right had ended.
    KilledAtDeadline,
    /// The guard refused to start this run; `reason` says why.
    Refused,
    /// The guard is killing the run's processes and some are still there (uninterruptible I/O).
    Killing,
}

impl RunState {
    const ALL: [(Self, &'static str); 7] = [
        (Self::Idle, "idle"),
        (Self::Running, "running"),
        (Self::Stopping, "stopping"),
        (Self::Exited, "exited"),
        (Self::KilledAtDeadline, "killed_at_deadline"),
        (Self::Refused, "refused"),
        (Self::Killing, "killing"),
    ];

    /// Returns the state's name, as written in the status file and in logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(state, _)| *state == self).map_or("", |(_, name)| name)
    }

    /// Returns whether no process of the run can be alive any more.
    #[must_use]
    pub const fn is_gone(self) -> bool {
        match self {
            Self::Idle | Self::Exited | Self::KilledAtDeadline | Self::Refused => true,
            Self::Running | Self::Stopping | Self::Killing => false,
        }
    }
}

/// How the postmaster ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitHow {
    /// With an exit code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

/// What the guard reports, several times a second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardStatus {
    /// The boot it was written in.
    pub boot: BootId,
    /// The guard's own process id.
    pub guard_pid: i32,
    /// When it was written, on `CLOCK_BOOTTIME`. Old means: the guard is dead or frozen.
    pub heartbeat: BootNanos,
    /// The run that the rest is about; 0 before the first.
    pub run: u64,
    /// What became of it.
    pub state: RunState,
    /// The postmaster's process id, while there is one.
    pub postmaster: Option<i32>,
    /// How the postmaster of this run ended, once it has.
    pub exit: Option<ExitHow>,
    /// The highest epoch under which this run may have accepted writes; [`Epoch::NONE`] if it only
    /// ever was permitted to run as a standby.
    pub primary_epoch: Epoch,
    /// Whether the guard runs with real-time priority and locked memory.
    pub realtime: bool,
    /// How long before the deadline the killing starts, of this run or the next; `None` before a guard
    /// in a container was told, and from a guard of a version that did not say.
    pub margin: Option<Duration>,
    /// When the right of this run ends, as the guard knows it; `None` if it has none, and from a guard of a
    /// version that did not say.
    pub deadline: Option<BootNanos>,
    /// One line for people: why it refused, why it killed. May be empty.
    pub reason: String,
}

/// A file of the permit directory that cannot be believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The first line names another format or version.
    #[error("unknown format: expected the first line to be {expected:?}")]
    Header {
        /// What the first line must be.
        expected: &'static str,
    },
    /// Cut short, or changed after it was written.
    #[error("damaged: its checksum does not match")]
    Checksum,
    /// A field is absent.
    #[error("field {name} is missing")]
    Missing {
        /// The field's name.
        name: &'static str,
    },
    /// A field has a value that means nothing.
    #[error("field {name} has the invalid value {value:?}")]
    Invalid {
        /// The field's name.
        name: &'static str,
        /// What was found.
        value: String,
    },
}

impl Permit {
    /// Returns the file's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = Text::new(PERMIT_HEADER);
        text.field("boot", self.boot);
        text.field("run", self.run);
        text.field("burnt", self.burnt);
        match self.order {
            Order::Down { stop } => {
                text.field("role", "down");
                text.field(
                    "stop",
                    match stop {
                        StopMode::Fast => "fast",
                        StopMode::Immediate => "immediate",
                    },
                );
            }
            Order::Standby => text.field("role", "standby"),
            Order::Primary { epoch, deadline } => {
                text.field("role", "primary");
                text.field("epoch", epoch);
                text.field("deadline_ns", deadline.0);
            }
        }
        text.seal()
    }

    /// Reads a permit. Whether it is of this boot is for the caller to check.
    ///
    /// # Errors
    /// [`ParseError`] if the text is not a whole, undamaged permit of this version.
    pub fn decode(text: &str) -> Result<Self, ParseError> {
        let fields = Fields::open(text, PERMIT_HEADER)?;
        let order = match fields.text("role")? {
            "down" => Order::Down {
                stop: match fields.text("stop")? {
                    "fast" => StopMode::Fast,
                    "immediate" => StopMode::Immediate,
                    other => return Err(invalid("stop", other)),
                },
            },
            "standby" => Order::Standby,
            "primary" => Order::Primary {
                epoch: Epoch(fields.parsed("epoch")?),
                deadline: BootNanos(fields.parsed("deadline_ns")?),
            },
            other => return Err(invalid("role", other)),
        };
        Ok(Self {
            boot: fields.parsed("boot")?,
            run: fields.parsed("run")?,
            burnt: Epoch(fields.parsed("burnt")?),
            order,
        })
    }
}

impl GuardStatus {
    /// Returns the file's text. Line breaks in the reason become spaces.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = Text::new(STATUS_HEADER);
        text.field("boot", self.boot);
        text.field("guard_pid", self.guard_pid);
        text.field("heartbeat_ns", self.heartbeat.0);
        text.field("run", self.run);
        text.field("state", self.state.name());
        if let Some(pid) = self.postmaster {
            text.field("postmaster", pid);
        }
        match self.exit {
            Some(ExitHow::Code(code)) => text.field("exit_code", code),
            Some(ExitHow::Signal(signal)) => text.field("exit_signal", signal),
            None => {}
        }
        text.field("primary_epoch", self.primary_epoch);
        text.field("realtime", self.realtime);
        if let Some(margin) = self.margin {
            text.field("margin_ms", millis(margin));
        }
        if let Some(deadline) = self.deadline {
            text.field("deadline_ns", deadline.0);
        }
        text.field("reason", self.reason.replace(['\n', '\r'], " "));
        text.seal()
    }

    /// Reads a status. Whether it is of this boot and recent is for the caller to check.
    ///
    /// # Errors
    /// [`ParseError`] if the text is not a whole, undamaged status of this version.
    pub fn decode(text: &str) -> Result<Self, ParseError> {
        let fields = Fields::open(text, STATUS_HEADER)?;
        let state_name = fields.text("state")?;
        let state = RunState::ALL
            .iter()
            .find(|(_, name)| *name == state_name)
            .map(|(state, _)| *state)
            .ok_or_else(|| invalid("state", state_name))?;
        let exit = match (fields.optional("exit_code")?, fields.optional("exit_signal")?) {
            (Some(code), _) => Some(ExitHow::Code(code)),
            (None, Some(signal)) => Some(ExitHow::Signal(signal)),
            (None, None) => None,
        };
        Ok(Self {
            boot: fields.parsed("boot")?,
            guard_pid: fields.parsed("guard_pid")?,
            heartbeat: BootNanos(fields.parsed("heartbeat_ns")?),
            run: fields.parsed("run")?,
            state,
            postmaster: fields.optional("postmaster")?,
            exit,
            primary_epoch: Epoch(fields.parsed("primary_epoch")?),
            realtime: fields.parsed("realtime")?,
            margin: fields.optional("margin_ms")?.map(Duration::from_millis),
            deadline: fields.optional("deadline_ns")?.map(BootNanos),
            reason: fields.text("reason")?.to_owned(),
        })
    }
}

/// A file being written: a header, `name value` lines, and a last line with the checksum of all.
struct Text(String);

impl Text {
    fn new(header: &str) -> Self {
        Self(format!("{header}\n"))
    }

    fn field(&mut self, name: &str, value: impl std::fmt::Display) {
        writeln!(self.0, "{name} {value}").expect("writing to a String cannot fail");
    }

    fn seal(mut self) -> String {
        let sum = checksum(&self.0);
        writeln!(self.0, "sum {sum:016x}").expect("writing to a String cannot fail");
        self.0
    }
}

struct Fields<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Fields<'a> {
    fn open(text: &'a str, header: &'static str) -> Result<Self, ParseError> {
        if text.lines().next() != Some(header) {
            return Err(ParseError::Header { expected: header });
        }
        let (body, sum) = text
            .strip_suffix('\n')
            .and_then(|t| t.rfind("\nsum ").map(|at| t.split_at(at + 1)))
            .ok_or(ParseError::Checksum)?;
        if sum != format!("sum {:016x}", checksum(body)) {
            return Err(ParseError::Checksum);
        }
        let lines = body.lines().skip(1);
        Ok(Self(lines.map(|line| line.split_once(' ').unwrap_or((line, ""))).collect()))
    }

    fn text(&self, name: &'static str) -> Result<&'a str, ParseError> {
        self.0.get(name).copied().ok_or(ParseError::Missing { name })
    }

    fn parsed<T: FromStr>(&self, name: &'static str) -> Result<T, ParseError> {
        let value = self.text(name)?;
        value.parse().map_err(|_| invalid(name, value))
    }

    fn optional<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, ParseError> {
        if self.0.contains_key(name) { self.parsed(name).map(Some) } else { Ok(None) }
    }
}

fn invalid(name: &'static str, value: &str) -> ParseError {
    ParseError::Invalid { name, value: value.to_owned() }
}

/// FNV-1a, 64 bits: against damage and short writes, not against malice.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_order() -> impl Strategy<Value = Order> {
        prop_oneof![
            Just(Order::Down { stop: StopMode::Fast }),
            Just(Order::Down { stop: StopMode::Immediate }),
            Just(Order::Standby),
            (any::<u64>(), any::<u64>()).prop_map(|(epoch, deadline)| Order::Primary {
                epoch: Epoch(epoch),
                deadline: BootNanos(deadline),
            }),
        ]
    }

    fn any_permit() -> impl Strategy<Value = Permit> {
        (any::<u128>(), any::<u64>(), any::<u64>(), any_order()).prop_map(
            |(boot, run, burnt, order)| Permit {
                boot: BootId(boot),
                run,
                burnt: Epoch(burnt),
                order,
            },
        )
    }

    fn status() -> GuardStatus {
        GuardStatus {
            boot: BootId(7),
            guard_pid: 12,
            heartbeat: BootNanos(99),
            run: 3,
            state: RunState::KilledAtDeadline,
            postmaster: None,
            exit: Some(ExitHow::Signal(9)),
            primary_epoch: Epoch(4),
            realtime: true,
            margin: Some(Duration::from_millis(500)),
            deadline: Some(BootNanos(u64::MAX)),
            reason: "the right of epoch 4\nended".to_owned(),
        }
    }

    #[test]
    fn a_status_survives_being_written_and_read_on_one_line_per_field() {
        let read = GuardStatus::decode(&status().encode());
        let one_line = "the right of epoch 4 ended".to_owned();
        assert_eq!(read, Ok(GuardStatus { reason: one_line, ..status() }));
    }

    #[test]
    fn a_status_is_no_permit() {
        assert!(matches!(Permit::decode(&status().encode()), Err(ParseError::Header { .. })));
    }

    proptest! {
        #[test]
        fn a_permit_survives_being_written_and_read(permit in any_permit()) {
            prop_assert_eq!(Permit::decode(&permit.encode()), Ok(permit));
        }

        #[test]
        fn a_permit_cut_short_is_refused(permit in any_permit(), keep in 0.0..1.0_f64) {
            let text = permit.encode();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "an index into a short text"
            )]
            let short = &text[..(text.len() as f64 * keep) as usize];
            prop_assert!(Permit::decode(short).is_err());
        }

        #[test]
        fn a_permit_with_any_bit_flipped_is_refused(
            permit in any_permit(),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..7,
        ) {
            let mut bytes = permit.encode().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(String::from_utf8(bytes).is_ok_and(|t| Permit::decode(&t).is_err()));
        }

        #[test]
        fn input_never_panics(text in "(haclt permit 1\n)?(.|\n){0,200}") {
            drop(Permit::decode(&text));
            drop(GuardStatus::decode(&text));
        }
    }
}
