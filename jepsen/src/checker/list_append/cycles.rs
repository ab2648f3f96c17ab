//! Cycles of what must come before what, each told by its shortest one.

use std::collections::{BTreeSet, HashSet};

use super::order::{Edge, Why};
use super::{Known, Level};
use crate::checker::graph::Graph;
use crate::checker::{Class, Verdict};

/// How many edges of a component are tried as the one that its cycle must have. A smaller component
/// gets its very shortest cycle.
const TRIED_MAX: usize = 64;
/// How many components of one search are told.
const COMPONENTS_MAX: usize = 16;

/// Which anti-dependencies a cycle may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missed {
    /// None.
    None,
    /// Any number, but no two that follow each other.
    Apart,
    /// Any.
    Any,
}

/// One search: the cycles of edges that it allows and that have at least one that it requires.
#[derive(Debug, Clone, Copy)]
struct Search {
    required: Why,
    allowed: &'static [Why],
    missed: Missed,
}

/// From the worst to the mildest; what needs order in time comes after what does not.
const SEARCHES: [Search; 10] = {
    use Why::{Missed as Anti, Overwrote as Ww, Read as Wr, Session as So, Time as Rt};
    const fn search(required: Why, allowed: &'static [Why], missed: Missed) -> Search {
        Search { required, allowed, missed }
    }
    [
        search(Ww, &[Ww], Missed::None),
        search(Wr, &[Ww, Wr], Missed::None),
        search(Anti, &[Ww, Wr, Anti], Missed::Apart),
        search(Anti, &[Ww, Wr, Anti], Missed::Any),
        search(So, &[Ww, Wr, So], Missed::None),
        search(Rt, &[Ww, Wr, So, Rt], Missed::None),
        search(So, &[Ww, Wr, Anti, So], Missed::Apart),
        search(Rt, &[Ww, Wr, Anti, So, Rt], Missed::Apart),
        search(So, &[Ww, Wr, Anti, So], Missed::Any),
        search(Rt, &[Ww, Wr, Anti, So, Rt], Missed::Any),
    ]
};

impl Search {
    /// Returns whether what it finds is forbidden at that level.
    fn forbidden(self, level: Level) -> bool {
        match self.missed {
            Missed::None => true,
            Missed::Apart => level >= Level::SnapshotIsolation,
            Missed::Any => level >= Level::Serializable,
        }
    }

    /// Makes the graph of what it allows. For cycles whose anti-dependencies stay apart, each
    /// transaction is two nodes: the second is where an anti-dependency has just led to, and none
    /// leads on from there.
    fn graph(self, nodes: usize, edges: &[Edge]) -> Graph {
        let mut arcs = Vec::new();
        for (label, edge) in (0_u32..).zip(edges) {
            if !self.allowed.contains(&edge.why) {
                continue;
            }
            let anti = edge.why == Why::Missed;
            if self.missed == Missed::Apart {
                arcs.push((2 * edge.from, 2 * edge.to + u32::from(anti), label));
                if !anti {
                    arcs.push((2 * edge.from + 1, 2 * edge.to, label));
                }
            } else {
                arcs.push((edge.from, edge.to, label));
            }
        }
        let states = if self.missed == Missed::Apart { 2 } else { 1 };
        Graph::new(nodes * states, &arcs)
    }

    /// Returns a shortest cycle of a component that has an edge of the kind that is required.
    fn cycle(self, graph: &Graph, component: &[u32], edges: &[Edge]) -> Option<Vec<u32>> {
        let inside: HashSet<u32> = component.iter().copied().collect();
        let mut best: Option<Vec<u32>> = None;
        let arcs = component
            .iter()
            .flat_map(|&node| graph.arcs(node).iter().map(move |&(to, label)| (node, to, label)));
        let wanted = arcs.filter(|(_, to, label)| {
            edges[*label as usize].why == self.required && inside.contains(to)
        });
        for (from, to, label) in wanted.take(TRIED_MAX) {
            let way = if to == from {
                Some(Vec::new())
            } else {
                graph.shortest(to, |node| node == from, |node| inside.contains(&node))
            };
            let Some(way) = way else { continue };
            let cycle: Vec<u32> = std::iter::once(label).chain(way).collect();
            let better = |best: &Vec<u32>| weight(&cycle, edges) < weight(best, edges);
            if best.as_ref().is_none_or(better) {
                best = Some(cycle);
            }
        }
        best
    }
}

/// The fewer anti-dependencies the worse, then the shorter the better told.
fn weight(cycle: &[u32], edges: &[Edge]) -> (usize, usize) {
    let anti = cycle.iter().filter(|&&label| edges[label as usize].why == Why::Missed).count();
    (anti.min(2), cycle.len())
}

pub(super) fn find(known: &Known, edges: &[Edge], level: Level, verdict: &mut Verdict) {
    let all: &[Why] = &[Why::Overwrote, Why::Read, Why::Missed, Why::Session, Why::Time];
    let any = Search { required: Why::Missed, allowed: all, missed: Missed::Any };
    let nodes = known.txns.len();
    let components = any.graph(nodes, edges).cyclic_components();
    verdict.figure("cyclic components", components.len() as u64);
    if components.is_empty() {
        return;
    }
    let mut told: BTreeSet<Vec<u32>> = BTreeSet::new();
    for search in SEARCHES.into_iter().filter(|search| search.forbidden(level)) {
        let graph = search.graph(nodes, edges);
        let mut components = graph.cyclic_components();
        components.sort_by_key(|component| (component.len(), component.first().copied()));
        for component in components.iter().take(COMPONENTS_MAX) {
            let Some(cycle) = search.cycle(&graph, component, edges) else { continue };
            let mut members: Vec<u32> =
                cycle.iter().map(|&label| edges[label as usize].from).collect();
            members.sort_unstable();
            // The worst thing that some transactions did together is enough.
            if told.insert(members) {
                tell(known, edges, &cycle, verdict);
            }
        }
    }
}

fn class(cycle: &[u32], edges: &[Edge]) -> Class {
    let why = |at: usize| edges[cycle[at % cycle.len()] as usize].why;
    let anti = (0..cycle.len()).filter(|&at| why(at) == Why::Missed).count();
    let adjacent =
        (0..cycle.len()).any(|at| anti > 1 && why(at) == Why::Missed && why(at + 1) == Why::Missed);
    let read = (0..cycle.len()).any(|at| why(at) == Why::Read);
    match (anti, adjacent, read) {
        (0, _, false) => Class::G0,
        (0, _, true) => Class::G1c,
        (1, _, _) => Class::GSingle,
        (_, false, _) => Class::GNonadjacent,
        (_, true, _) => Class::G2Item,
    }
}

fn tell(known: &Known, edges: &[Edge], cycle: &[u32], verdict: &mut Verdict) {
    let class = class(cycle, edges);
    let steps: Vec<String> =
        cycle.iter().map(|&label| edges[label as usize].words(known)).collect();
    let mut names: Vec<String> = cycle
        .iter()
        .map(|&label| format!("T{}", known.txns[edges[label as usize].from as usize].index))
        .collect();
    names.extend(names.first().cloned());
    let uses = |why| cycle.iter().any(|&label| edges[label as usize].why == why);
    let needs = match (uses(Why::Time), uses(Why::Session)) {
        (true, _) => " (in real time)",
        (false, true) => " (in the order of a process)",
        (false, false) => "",
    };
    let text = format!("{}; so {}{needs}", steps.join("; "), names.join(" before "));
    let operations: BTreeSet<u64> =
        cycle.iter().map(|&label| known.txns[edges[label as usize].from as usize].index).collect();
    verdict.find(class, operations.into_iter().collect(), text);
}
