//! Whether the clients of a PgBouncer are to go on. Nothing else.

use std::time::Duration;

use ha_core::Epoch;
use tokio::time::Instant;

/// How long clients wait for a primary if none comes: then they had better hear of it.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How long an agent that finds the note of an earlier one leaves a PgBouncer to the next primary's agent: that
/// may have paused it anew for a switchover of its own, which nobody else knows.
const LEAVE_TO_NEXT: Duration = Duration::from_secs(10);

/// A pause that this node's agent ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// The grant that was to end.
    pub(super) epoch: Epoch,
    /// Since when.
    pub(super) since: Instant,
    /// Whether the switchover is still under way.
    pub(super) held: bool,
    /// Whether it was an earlier start of the agent that ordered it.
    pub(super) found: bool,
}

/// Whether to resume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Not now.
    No,
    /// As soon as it points at the primary.
    Yes,
    /// Wherever it points.
    Anyway,
}

/// Decides. `primary` is the grant under which there is one, and whether that is this node; `claimed` the
/// grant under which this node has resumed it already.
pub(super) fn due(
    paused: Option<Pause>,
    primary: Option<(Epoch, bool)>,
    claimed: Option<Epoch>,
    now: Instant,
) -> Due {
    let age = paused.map_or(Duration::ZERO, |pause| now.duration_since(pause.since));
    match (paused, primary) {
        (Some(pause), Some((epoch, false)))
            if pause.found && epoch > pause.epoch && age < LEAVE_TO_NEXT =>
        {
            Due::No
        }
        (Some(pause), Some((epoch, _))) if epoch > pause.epoch || !pause.held => Due::Yes,
        (Some(pause), None) if !pause.held && age >= WAIT_MAX => Due::Anyway,
        // The agent that had paused it may be gone for good.
        (None, Some((epoch, true))) if claimed != Some(epoch) => Due::Yes,
        (Some(_) | None, Some(_) | None) => Due::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_go_on_once_there_is_a_primary_or_none_comes() {
        let since = Instant::now();
        let (soon, late) = (since + Duration::from_secs(1), since + WAIT_MAX);
        let pause = |held| Some(Pause { epoch: Epoch(3), since, held, found: false });
        let found = Some(Pause { epoch: Epoch(3), since, held: false, found: true });
        let (old, new) = (Some((Epoch(3), true)), Some((Epoch(4), false)));
        #[rustfmt::skip]
        let table = [
            // paused       primary                 claimed         now   due
            (pause(true),   old,                    None,           soon, Due::No),
            (pause(true),   None,                   None,           late, Due::No),
            (pause(true),   new,                    None,           soon, Due::Yes),
            (pause(false),  old,                    Some(Epoch(3)), soon, Due::Yes),
            (pause(false),  new,                    None,           soon, Due::Yes),
            (pause(false),  None,                   None,           soon, Due::No),
            (pause(false),  None,                   None,           late, Due::Anyway),
            (found,         old,                    None,           soon, Due::Yes),
            (found,         new,                    None,           soon, Due::No),
            (found,         new,                    None,           late, Due::Yes),
            (found,         Some((Epoch(4), true)), None,           soon, Due::Yes),
            (None,          None,                   None,           late, Due::No),
            (None,          new,                    None,           soon, Due::No),
            (None,          Some((Epoch(4), true)), Some(Epoch(3)), soon, Due::Yes),
            (None,          Some((Epoch(4), true)), Some(Epoch(4)), soon, Due::No),
        ];
        for (paused, primary, claimed, now, expected) in table {
            assert_eq!(due(paused, primary, claimed, now), expected, "{paused:?}, {primary:?}");
        }
    }
}
