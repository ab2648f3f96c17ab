//! Diverged WAL is recorded, kept and described before it is thrown away.

use std::path::Path;

use ha_tests::{Plan, programs, scenario, status, within};

use super::FAULTS;

#[test]
fn what_only_a_diverged_primary_had_is_listed_described_and_dropped() {
    scenario(Plan::within(150).announces(&FAULTS), async |c| {
        let (old, new) = c.bootstrap().await;
        c.same_rows(within(20)).await;
        c.node_mut(&new).kill_everything();
        for batch in 0..3 {
            let lonely = format!(
                "insert into writes select {batch} * 1000 + g, 'lost' from generate_series(1, 50) g"
            );
            c.node(&old).sql(&lonely).await.expect("async: the primary acknowledges alone");
        }
        let undone = "begin; insert into writes values (-1, 'undone'); rollback";
        c.node(&old).sql(undone).await.expect("a primary");
        c.node_mut(&old).kill_everything();
        c.node_mut(&new).start();
        c.primary_is(&new, within(40)).await;
        c.node_mut(&old).start();
        let status = c.healthy(within(60)).await;
        assert_eq!(status::holder(&status), new);
        let entries = c.diverged(1, within(20)).await;
        let entry = entries.first().expect("one entry").clone();
        assert_eq!(entry.node, old);
        assert!(entry.bytes > 3 * 50 * 30, "at least the rows: {entry:?}");
        assert!(!entry.fork_lsn.is_empty() && !entry.end_lsn.is_empty(), "{entry:?}");
        let shown = c.diverged_show(entry.id).await;
        assert!(shown.reachable && shown.kept, "{shown:?}");
        assert!(Path::new(&shown.directory).is_dir(), "{shown:?}");
        let described = shown.transactions.iter().all(|transaction| {
            !transaction.committed_at.is_empty() && !transaction.commit_lsn.is_empty()
        });
        let with_relations =
            shown.transactions.iter().filter(|transaction| !transaction.relations.is_empty());
        assert_eq!(with_relations.count(), 3, "three were committed: {:?}", shown.transactions);
        assert!(described, "{:?}", shown.transactions);
        let listed = programs::said(&c.haclt(&["diverged", "list"]));
        assert!(listed.contains(&old) && listed.contains(&entry.end_lsn), "{listed}");
        let id = entry.id.to_string();
        let told = programs::said(&c.haclt(&["diverged", "show", &id]));
        assert!(told.contains(&shown.transactions[0].xid.to_string()), "{told}");
        let dropped = c.diverged_drop(entry.id).await;
        assert_eq!(dropped.directory, shown.directory);
        assert!(!Path::new(&shown.directory).exists(), "the copy is gone");
        c.diverged(0, within(10)).await;
        let gone = c.haclt(&["diverged", "show", &id]);
        assert_eq!(gone.status.code(), Some(1), "{}", programs::said(&gone));
    });
}
