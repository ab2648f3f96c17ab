//! The `[fencing]` section.

use std::collections::{BTreeMap, BTreeSet};

use ha_core::NodeId;
use ha_core::policy::Policy;
use ha_postgres::PeerAddress;

use super::reader::Reader;
use super::{FencingPeer, FencingSettings, absolute, check_address};

pub(super) fn settings(
    r: &mut Reader,
    own: &NodeId,
    voters: &BTreeMap<NodeId, String>,
    policy: &Policy,
) -> FencingSettings {
    // One renewal may be lost, and the next be late.
    let (least, most) = (policy.renew_interval * 3, policy.ttl);
    let after = r.duration("fencing.after");
    if let Some(after) = after.filter(|after| *after < least || *after > most) {
        let (after, least, most) = (after.as_millis(), least.as_millis(), most.as_millis());
        r.fault(format!(
            "fencing.after: {after} ms is not between three lease.renew_interval, {least} ms, and \
             lease.ttl, {most} ms"
        ));
    }
    let after = after.unwrap_or_else(|| (policy.ttl / 2).max(least).min(most));
    // `n1.docker`, `n1.ca` …; names of nodes hold no dot.
    let named = r.keys("fencing.peers");
    let names: BTreeSet<String> =
        named.iter().filter_map(|key| Some(key.rsplit_once('.')?.0.to_owned())).collect();
    let mut peers = BTreeMap::new();
    for name in names {
        let section = format!("fencing.peers.{name}");
        let peer = peer(r, &section);
        match voters.keys().find(|voter| voter.as_str() == name) {
            // The section may be the same on all nodes.
            Some(node) if node == own => {}
            Some(node) => drop(peers.insert(node.clone(), peer)),
            None => r.fault(format!("{section}: {name} is not among peers")),
        }
    }
    FencingSettings { after, peers }
}

fn peer(r: &mut Reader, section: &str) -> FencingPeer {
    let key = format!("{section}.docker");
    let url = r.required(&key);
    let address = url.strip_prefix("tcp://").unwrap_or_default();
    if address.is_empty() && !url.is_empty() {
        r.fault(format!("{key}: {url:?} is no address such as tcp://10.77.0.2:2376"));
    }
    check_address(r, &key, address);
    let engine = PeerAddress {
        address: address.to_owned(),
        ca: absolute(r, &format!("{section}.ca"), None),
        cert: absolute(r, &format!("{section}.cert"), None),
        key: absolute(r, &format!("{section}.key"), None),
    };
    FencingPeer { container: r.required(&format!("{section}.container")), engine }
}
