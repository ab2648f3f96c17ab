//! Hooks that wait for their turn: at most one of each kind.

use std::collections::VecDeque;

use super::Call;
use super::change::Standing;

/// Something that waits.
#[derive(Debug)]
pub(super) struct Item {
    /// The hook; `None` if the change called for none.
    pub(super) call: Option<Call>,
    /// How the database stood then, with the last hook of a change: it is remembered afterwards.
    pub(super) then: Option<Standing>,
}

/// Items in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Queue(VecDeque<Item>);

impl Queue {
    /// Adds an item. Returns the hook of the same kind that it supersedes, if one waits.
    pub(super) fn push(&mut self, item: Item) -> Option<Call> {
        let kind = item.call.as_ref().map(|call| call.kind);
        let older = self.0.iter().position(|known| known.call.as_ref().map(|c| c.kind) == kind);
        let older = older.and_then(|at| self.0.remove(at));
        self.0.push_back(item);
        older.and_then(|item| item.call)
    }

    /// Takes the next one.
    pub(super) fn pop(&mut self) -> Option<Item> {
        self.0.pop_front()
    }

    /// Returns whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HookKind;

    fn item(kind: HookKind, reason: &str) -> Item {
        let call =
            Call { kind, role: "none", environment: vec![("HACLT_REASON", reason.to_owned())] };
        Item { call: Some(call), then: None }
    }

    #[test]
    fn what_piles_up_is_superseded_by_the_latest_of_its_kind() {
        let mut queue = Queue::default();
        assert!(queue.push(item(HookKind::OnStop, "first")).is_none());
        assert!(queue.push(item(HookKind::OnStart, "first")).is_none());
        let older = queue.push(item(HookKind::OnStop, "second")).expect("one waits");
        assert_eq!(older.environment, [("HACLT_REASON", "first".to_owned())]);
        for n in 0..100 {
            drop(queue.push(item(HookKind::OnStart, &n.to_string())));
            drop(queue.push(Item { call: None, then: None }));
        }
        let mut left = Vec::new();
        while let Some(item) = queue.pop() {
            left.push(item.call.map(|call| (call.kind, call.environment[0].1.clone())));
        }
        let stop = (HookKind::OnStop, "second".to_owned());
        assert_eq!(left, [Some(stop), Some((HookKind::OnStart, "99".to_owned())), None]);
    }
}
