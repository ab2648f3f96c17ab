//! Clusters in containers, as `deploy/compose.yaml` makes them, on the real engine: what restart policies,
//! operators and machines do to containers, with clients that write all the time.
//!
//! In each story nothing that was acknowledged may be lost, no two nodes acknowledge at once, and the
//! cluster is well again without a human, unless one took something away.

mod restarts;
mod surprises;

use ha_tests::compose::{Compose, is_there};

/// Major version of the stories that are not about versions.
const MAJOR: u32 = 17;

/// Runs a story on a cluster of its own.
fn story(major: u32, body: impl AsyncFnOnce(&mut Compose)) {
    if !is_there() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut cluster = Compose::up(major).await;
        body(&mut cluster).await;
    });
}
