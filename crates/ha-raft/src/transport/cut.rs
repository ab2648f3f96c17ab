//! A partition that is rehearsed: for a while this node hears no peer, and no peer hears it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// Whether this node is cut off from its peers, and until when. Clones are the same.
///
/// Nothing has to happen for it to heal: whoever wants to know compares the clock, so neither a lost order
/// nor a dead task can leave a node cut off.
#[derive(Debug, Clone, Default)]
pub struct Cut(Arc<Mutex<Option<Instant>>>);

impl Cut {
    /// Cuts this node off for so long from now.
    pub fn begin(&self, span: Duration) {
        *self.lock() = Some(Instant::now() + span);
    }

    /// Ends it now, if there is one.
    pub fn heal(&self) {
        *self.lock() = None;
    }

    /// Returns for how much longer this node is cut off; `None` if it is not.
    #[must_use]
    pub fn left(&self) -> Option<Duration> {
        let left = self.lock().as_ref()?.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// Waits until this node is not cut off. May be cancelled.
    pub async fn healed(&self) {
        while let Some(left) = self.left() {
            sleep(left).await;
        }
    }

    /// Waits as for an answer that never comes, for as long as `limit`, if this node is cut off. Returns
    /// whether it was. May be cancelled.
    pub async fn swallowed(&self, limit: Duration) -> bool {
        if self.left().is_none() {
            return false;
        }
        sleep(limit).await;
        true
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_cut_heals_by_the_clock_alone() {
        let cut = Cut::default();
        assert_eq!(cut.left(), None);
        assert!(!cut.swallowed(Duration::from_secs(60)).await, "no wait without a cut");
        let began = Instant::now();
        cut.clone().begin(Duration::from_millis(60));
        assert!(cut.left().is_some_and(|left| left <= Duration::from_millis(60)));
        assert!(cut.swallowed(Duration::from_millis(10)).await);
        cut.healed().await;
        assert!(began.elapsed() >= Duration::from_millis(60));
        assert_eq!(cut.left(), None);
        cut.begin(Duration::from_secs(60));
        cut.heal();
        assert_eq!(cut.left(), None);
    }
}
