//! Clusters in containers, as `deploy/compose.yaml` makes them, on the real engine: what restart policies,
//! operators and machines do to containers, with clients that write all the time.
//!
//! In each story nothing that was acknowledged may be lost, no two nodes acknowledge at once, and the
//! cluster is well again without a human, unless one took something away.

mod adopt;
mod deployment;
mod disks;
mod engine;
mod fencing;
mod restarts;
mod surprises;

use ha_tests::compose::{Compose, is_there};

/// Major version of the stories that are not about versions.
const MAJOR: u32 = 17;

/// Runs a story on a cluster of its own.
fn story(major: u32, body: impl AsyncFnOnce(&mut Compose)) {
    story_of(|| (Compose::prepare(major, None), ()), async |c, ()| body(c).await);
}

/// Runs a story on a cluster that was prepared for it, with something that outlives it.
fn story_of<T>(prepare: impl FnOnce() -> (Compose, T), body: impl AsyncFnOnce(&mut Compose, &T)) {
    if !is_there() {
        return;
    }
    let (cluster, around) = prepare();
    run_on(async {
        let mut cluster = cluster.begin().await;
        body(&mut cluster, &around).await;
    });
}

/// Runs a test to its end.
fn run_on(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(test);
}
