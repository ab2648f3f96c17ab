//! Section `peers`: where the agents listen.

use std::collections::BTreeMap;

use ha_core::NodeId;

use super::check_address;
use super::reader::Reader;

/// Reads every voter's address. An agent that waits to be taken in lists whoever is there, and itself: that may be
/// an even number.
pub(super) fn voters(r: &mut Reader, node: &NodeId, join: bool) -> BTreeMap<NodeId, String> {
    let mut peers = BTreeMap::new();
    for (name, value) in r.table("peers") {
        let address = value.as_str().unwrap_or_default().to_owned();
        check_address(r, &format!("peers.{name}"), &address);
        match name.parse::<NodeId>() {
            Ok(id) => {
                if let Some((other, _)) = peers.iter().find(|(_, known)| **known == address) {
                    r.fault(format!("peers.{name}: {address} is the address of {other} already"));
                }
                peers.insert(id, address);
            }
            Err(error) => r.fault(format!("peers: {error}")),
        }
    }
    if peers.is_empty() {
        r.fault("section peers is missing: it lists every voter, this node included");
    } else if !peers.contains_key(node) {
        r.fault(format!("peers: this node, {node}, is not among them"));
    } else if !join && peers.len() % 2 == 0 {
        r.fault(format!(
            "peers: {} voters survive no more failures than {}: use an odd number",
            peers.len(),
            peers.len() - 1
        ));
    }
    peers
}
