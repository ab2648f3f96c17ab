//! Waiting for conditions, always with an end.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(25);

/// Returns a number of seconds as a duration.
pub const fn within(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Looks until there is something to see, and returns it with how long it took.
///
/// Panics with `what` if nothing is there by the limit.
pub async fn eventually<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(began.elapsed() < limit, "still not after {limit:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Watches for the whole span that a condition holds.
pub async fn always(what: &str, span: Duration, mut look: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + span;
    while Instant::now() < until {
        assert!(look().await, "no longer true: {what}");
        tokio::time::sleep(POLL).await;
    }
}
