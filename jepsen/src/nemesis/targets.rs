//! Who a fault is about, found out when it comes.

use ha_tests::{Cluster, status};
use tokio::task::JoinSet;

use super::plan::Target;
use crate::random::Random;

/// Returns who holds the lease, as the first agent says that answers; none if nobody knows.
///
/// All are asked at once: one that is frozen would keep the next fault waiting.
pub async fn holder(cluster: &Cluster) -> Option<String> {
    let mut asked = JoinSet::new();
    for node in cluster.nodes() {
        let grpc = node.grpc();
        asked.spawn(async move { status::status(&grpc).await });
    }
    while let Some(answer) = asked.join_next().await {
        if let Ok(Some(status)) = answer
            && !status::holder(&status).is_empty()
        {
            return Some(status::holder(&status).to_owned());
        }
    }
    None
}

/// Returns a node for a target; only one with a database if `data` says so.
///
/// # Errors
/// Why there is none.
pub async fn resolve(
    cluster: &Cluster,
    target: &Target,
    data: bool,
    random: &mut Random,
) -> Result<String, String> {
    let fits = |name: &String| !data || cluster.node(name).is_data;
    let names: Vec<String> = cluster.nodes().iter().map(|node| node.name.clone()).collect();
    let all: Vec<String> = names.iter().filter(|name| fits(name)).cloned().collect();
    match target {
        Target::Named(name) if all.contains(name) => Ok(name.clone()),
        Target::Named(name) if names.contains(name) => Err(format!("{name} has no database")),
        Target::Named(name) => Err(format!("there is no node {name}")),
        Target::Primary => holder(cluster).await.ok_or_else(|| "there is no primary".to_owned()),
        Target::Standby => {
            let primary = holder(cluster).await.ok_or("nobody knows who is the primary")?;
            let mut standbys = cluster.data_nodes().map(|node| node.name.clone());
            standbys.find(|name| *name != primary).ok_or_else(|| "no standby".to_owned())
        }
        // A fault that only a database can have is for some database then.
        Target::Witness if !data => Ok(cluster.witness()),
        Target::Witness | Target::Any => {
            random.pick(&all).cloned().ok_or_else(|| "there is no node".to_owned())
        }
    }
}
