//! What a fault has to itself while it lasts: two that put off one clock would undo each other.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is in use.
#[derive(Debug, Clone, Default)]
pub struct Busy(Arc<Mutex<BTreeSet<String>>>);

/// The right to something, for as long as the value lives.
#[derive(Debug)]
pub struct Held {
    busy: Busy,
    what: String,
}

impl Busy {
    /// Takes something, unless somebody has it.
    pub fn take(&self, what: &str) -> Option<Held> {
        let is_free = self.names().insert(what.to_owned());
        is_free.then(|| Held { busy: self.clone(), what: what.to_owned() })
    }

    /// Returns whether somebody has something.
    pub fn has(&self, what: &str) -> bool {
        self.names().contains(what)
    }

    /// Returns whether somebody has anything whose name begins so.
    pub fn has_any(&self, prefix: &str) -> bool {
        self.names().iter().any(|name| name.starts_with(prefix))
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        // A set of names is whole whoever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.busy.names().remove(&self.what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_has_nobody_else_gets_until_it_is_given_back() {
        let busy = Busy::default();
        let held = busy.take("clock n1");
        assert!(held.is_some() && busy.take("clock n2").is_some());
        assert!(busy.clone().take("clock n1").is_none());
        assert!(busy.has("clock n1") && !busy.has("clock n2") && !busy.has_any("line "));
        assert!(busy.has_any("clock "));
        drop(held);
        assert!(busy.take("clock n1").is_some());
    }
}
