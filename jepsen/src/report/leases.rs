//! Who held the lease when, and who acknowledged writes when.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::markup::{LEFT, Picture, distinct};
use crate::checker::overlap::reigns;
use crate::checker::recovery::windows;
use crate::history::History;

/// A time in which a node held the lease, as the agents told it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Who.
    pub node: String,
    /// Under which epoch.
    pub epoch: u64,
    /// From when, nanoseconds of the history.
    pub from_ns: u64,
    /// Until when, nanoseconds of the history.
    pub to_ns: u64,
}

const TOP: u64 = 80;
const LANE: u64 = 40;

/// Draws a lane for each node: above when it held the lease, below when it acknowledged writes.
#[must_use]
pub fn lanes(history: &History, leases: &[Lease]) -> String {
    let reigns = reigns(history);
    let nodes: BTreeSet<&str> = leases
        .iter()
        .map(|lease| lease.node.as_str())
        .chain(reigns.iter().map(|reign| reign.node))
        .collect();
    let bottom = TOP + LANE * nodes.len() as u64;
    let until_ns = leases.iter().map(|lease| lease.to_ns).max().unwrap_or(0).max(history.end_ns());
    let mut picture =
        Picture::new("lease (above) and acknowledged writes (below)", until_ns, bottom + 40);
    picture.faults(&windows(history), TOP, bottom);
    for (place, node) in nodes.into_iter().enumerate() {
        let y = TOP + LANE * place as u64;
        picture.text(20, y + 22, "", node);
        for lease in leases.iter().filter(|lease| lease.node == node) {
            let look = format!("fill=\"{}\"", distinct(place));
            let told = format!("{node} held the lease, epoch {}", lease.epoch);
            picture.bar((lease.from_ns, lease.to_ns), (y + 6, 12), &look, &told);
            let x = picture.x(lease.from_ns).max(LEFT) + 2;
            picture.text(x, y + 16, "small", &lease.epoch.to_string());
        }
        for reign in reigns.iter().filter(|reign| reign.node == node) {
            let told = format!("{node} acknowledged writes, {}", reign.under);
            picture.bar((reign.from_ns, reign.to_ns), (y + 20, 8), "class=\"ok\"", &told);
        }
    }
    picture.seconds(bottom);
    picture.finish()
}
