//! The replicated state: any row of commands.

use ha_core::state::{Command, DIVERGED_MAX, HISTORY_MAX, Outcome, State};

use super::text;

/// Nobody sends more in one input.
const COMMANDS_MAX: usize = 64;

/// One command a line, as JSON; a first line that is a state begins with that one. Every node comes to the same
/// state, a refused command changes nothing, and nothing grows without a bound.
pub(super) fn commands(data: &[u8]) {
    let text = text(data);
    let mut lines = text.lines().take(COMMANDS_MAX).peekable();
    let begun = lines.peek().and_then(|line| serde_json::from_str::<State>(line).ok());
    let mut here = begun.clone().unwrap_or_default();
    let bounded = begun.is_none();
    for line in lines {
        let Ok(command) = serde_json::from_str::<Command>(line) else { continue };
        let written = serde_json::to_string(&command).expect("a command is plain JSON");
        assert_eq!(serde_json::from_str::<Command>(&written).ok().as_ref(), Some(&command));
        // Another node has it from a snapshot.
        let mut there = copied(&here);
        assert_eq!(there, here, "a snapshot loses something");
        let before = here.clone();
        let outcome = here.apply(&command);
        assert_eq!(there.apply(&command), outcome, "{command:?}");
        assert_eq!(there, here, "{command:?}");
        match outcome {
            Outcome::Applied => {
                assert!(here.last_epoch >= before.last_epoch, "{command:?}");
                assert!(here.event_count >= before.event_count, "{command:?}");
            }
            Outcome::Refused(why) => {
                assert_eq!(here, before, "{command:?}");
                assert!(!why.to_string().is_empty());
            }
        }
        assert!(!bounded || here.history.len() <= HISTORY_MAX);
        assert!(!bounded || here.diverged.len() <= DIVERGED_MAX);
        assert!(!bounded || here.nodes.len() <= 16, "{} nodes", here.nodes.len());
    }
}

fn copied(state: &State) -> State {
    let text = serde_json::to_string(state).expect("a state is plain JSON");
    serde_json::from_str(&text).expect("what was written can be read")
}
