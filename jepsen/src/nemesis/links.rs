//! Which links between nodes a partition cuts, and the rules that cut them.

use super::Fault;
use crate::env::world::{CLIENTS, address};
use crate::random::Random;

/// Port of the agents.
const AGENTS: u16 = 7431;
/// Port of the databases.
const DATABASES: u16 = 5431;

/// What is lost on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Everything.
    All,
    /// What belongs to a connection to or from this port.
    Port(u16),
    /// So many of a hundred packets.
    Percent(u8),
}

/// What one node sends to another. Nodes are counted from 1; clients are [`CLIENTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// Who sends.
    pub from: u8,
    /// Who does not receive it.
    pub to: u8,
    /// What is lost.
    pub traffic: Traffic,
}

impl Link {
    /// Returns the rules for the receiver's filter. Clients have none: what they would not receive is lost
    /// where it leaves.
    pub fn rules(self) -> (u8, Vec<String>) {
        let Self { from, to, traffic } = self;
        let (at, chain) = if to == CLIENTS {
            (from, format!("OUTPUT -d {}", address(to)))
        } else {
            (to, format!("INPUT -s {}", address(from)))
        };
        let rules = match traffic {
            Traffic::All => vec![format!("{chain} -j DROP")],
            Traffic::Port(port) => vec![
                format!("{chain} -p tcp --dport {port} -j DROP"),
                format!("{chain} -p tcp --sport {port} -j DROP"),
            ],
            Traffic::Percent(percent) => {
                let part = f32::from(percent) / 100.0;
                vec![format!("{chain} -m statistic --mode random --probability {part:.2} -j DROP")]
            }
        };
        (at, rules)
    }
}

/// Who there is, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Present {
    /// All nodes.
    pub nodes: Vec<u8>,
    /// Those with a database.
    pub data: Vec<u8>,
}

/// Returns the links that a fault cuts among the nodes; `chosen` is the node it is about.
pub fn cut_by(fault: Fault, present: &Present, chosen: u8, random: &mut Random) -> Vec<Link> {
    let Present { nodes, data } = present;
    let others: Vec<u8> = nodes.iter().copied().filter(|node| *node != chosen).collect();
    let apart = |others: &[u8]| both_ways(chosen, others, Traffic::All);
    match fault {
        Fault::IsolatePrimary | Fault::IsolateNode | Fault::Halves | Fault::Flapping => {
            apart(&others)
        }
        Fault::IsolateAll => apart(&[others, vec![CLIENTS]].concat()),
        Fault::Ring => {
            // Of three nodes each hears the one before it; of more, all but the one after it.
            let next = nodes.iter().cycle().skip(1);
            let lost =
                |(to, from): (&u8, &u8)| Link { from: *from, to: *to, traffic: Traffic::All };
            nodes.iter().zip(next).map(lost).collect()
        }
        Fault::OneWay => {
            let other = random.pick(&others).copied().unwrap_or(chosen);
            let out = random.percent(50);
            let (from, to) = if out { (chosen, other) } else { (other, chosen) };
            vec![Link { from, to, traffic: Traffic::All }]
        }
        Fault::PostgresOnly => everywhere(nodes, Traffic::Port(DATABASES)),
        Fault::DataLink => everywhere(data, Traffic::Port(DATABASES)),
        Fault::AgentsOnly => everywhere(nodes, Traffic::Port(AGENTS)),
        Fault::Loss => {
            let percent = u8::try_from(random.between(10, 33)).unwrap_or(10);
            everywhere(nodes, Traffic::Percent(percent))
        }
        _ => Vec::new(),
    }
}

fn both_ways(one: u8, others: &[u8], traffic: Traffic) -> Vec<Link> {
    let pair = |other: &u8| {
        [Link { from: one, to: *other, traffic }, Link { from: *other, to: one, traffic }]
    };
    // What clients send is lost where it arrives, what is sent to them where it leaves.
    others.iter().flat_map(pair).collect()
}

fn everywhere(nodes: &[u8], traffic: Traffic) -> Vec<Link> {
    let pairs = nodes.iter().enumerate();
    pairs.flat_map(|(at, one)| both_ways(*one, &nodes[at + 1..], traffic)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(fault: Fault, chosen: u8) -> Vec<(u8, u8)> {
        among(&[1, 2, 3], &[1, 2], fault, chosen)
    }

    fn among(nodes: &[u8], data: &[u8], fault: Fault, chosen: u8) -> Vec<(u8, u8)> {
        let present = Present { nodes: nodes.to_vec(), data: data.to_vec() };
        let links = cut_by(fault, &present, chosen, &mut Random::new(1, 1));
        links.iter().map(|link| (link.from, link.to)).collect()
    }

    #[test]
    fn a_node_that_is_cut_off_hears_nobody_and_is_heard_by_nobody_but_clients() {
        assert_eq!(cut(Fault::IsolatePrimary, 2), [(2, 1), (1, 2), (2, 3), (3, 2)]);
        let all = cut(Fault::IsolateAll, 2);
        assert!(all.contains(&(2, CLIENTS)) && all.contains(&(CLIENTS, 2)));
    }

    #[test]
    fn databases_that_are_cut_off_from_each_other_still_reach_the_witness() {
        assert_eq!(cut(Fault::DataLink, 1), [(1, 2), (2, 1)]);
    }

    #[test]
    fn in_a_ring_each_node_hears_exactly_one_other() {
        let links = cut(Fault::Ring, 1);
        for to in 1..=3 {
            assert_eq!(links.iter().filter(|link| link.1 == to).count(), 1, "{links:?}");
            assert_eq!(links.iter().filter(|link| link.0 == to).count(), 1, "{links:?}");
        }
    }

    #[test]
    fn nodes_that_came_are_cut_off_like_others_and_nodes_that_went_are_left_alone() {
        let cut = |fault, chosen| among(&[1, 3, 4], &[1, 4], fault, chosen);
        assert_eq!(cut(Fault::IsolatePrimary, 4), [(4, 1), (1, 4), (4, 3), (3, 4)]);
        assert_eq!(cut(Fault::DataLink, 1), [(1, 4), (4, 1)]);
        assert_eq!(cut(Fault::Ring, 1), [(3, 1), (4, 3), (1, 4)]);
        let four = among(&[1, 2, 3, 4], &[1, 2, 4], Fault::DataLink, 1);
        assert_eq!(four.len(), 6, "three databases, and the witness is reached: {four:?}");
    }

    #[test]
    fn one_way_is_one_link_and_every_other_partition_has_both_directions() {
        assert_eq!(cut(Fault::OneWay, 1).len(), 1);
        for fault in [Fault::Halves, Fault::PostgresOnly, Fault::AgentsOnly, Fault::Loss] {
            let links = cut(fault, 1);
            assert!(links.iter().all(|(a, b)| links.contains(&(*b, *a))), "{fault:?}: {links:?}");
        }
    }

    #[test]
    fn rules_are_put_where_the_packets_arrive_and_for_clients_where_they_leave() {
        let link = |from, to, traffic| Link { from, to, traffic }.rules();
        let all = link(1, 2, Traffic::All);
        assert_eq!(all, (2, vec!["INPUT -s 10.78.0.1 -j DROP".to_owned()]));
        let clients = link(1, CLIENTS, Traffic::All);
        assert_eq!(clients, (1, vec!["OUTPUT -d 10.78.0.254 -j DROP".to_owned()]));
        let (at, rules) = link(3, 1, Traffic::Port(5431));
        assert_eq!((at, rules.len()), (1, 2));
        let (_, rules) = link(3, 1, Traffic::Percent(20));
        assert!(rules[0].contains("--probability 0.20"), "{rules:?}");
    }
}
