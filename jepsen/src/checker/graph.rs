//! Directed graphs: strongly connected components and shortest ways.
//!
//! # Sources
//! R. Tarjan, "Depth-first search and linear graph algorithms", SIAM J. Comput. 1 (1972).

use std::collections::{HashMap, VecDeque};

/// A graph whose arcs carry a number, for instance the place of what they stand for.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    /// Where each node's arcs begin; one more than nodes.
    starts: Vec<usize>,
    /// Target and label of each arc.
    arcs: Vec<(u32, u32)>,
}

impl Graph {
    /// Makes a graph of nodes `0..nodes` from arcs `(from, to, label)`.
    ///
    /// # Panics
    /// If an arc has an end that is no node.
    #[must_use]
    pub fn new(nodes: usize, arcs: &[(u32, u32, u32)]) -> Self {
        let mut starts = vec![0; nodes + 1];
        for &(from, to, _) in arcs {
            assert!((to as usize) < nodes, "an arc leads to a node that is not there");
            starts[from as usize + 1] += 1;
        }
        for node in 0..nodes {
            starts[node + 1] += starts[node];
        }
        let mut next = starts.clone();
        let mut sorted = vec![(0, 0); arcs.len()];
        for &(from, to, label) in arcs {
            sorted[next[from as usize]] = (to, label);
            next[from as usize] += 1;
        }
        Self { starts, arcs: sorted }
    }

    /// Returns how many nodes there are.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Returns target and label of each arc of a node.
    #[must_use]
    pub fn arcs(&self, node: u32) -> &[(u32, u32)] {
        &self.arcs[self.starts[node as usize]..self.starts[node as usize + 1]]
    }

    /// Returns the strongly connected components that have a cycle, each sorted.
    #[must_use]
    pub fn cyclic_components(&self) -> Vec<Vec<u32>> {
        Search::new(self).run()
    }

    /// Returns the labels along a shortest way of at least one arc from one node to the first of the
    /// goals, over the nodes that are allowed.
    #[must_use]
    pub fn shortest(
        &self,
        from: u32,
        goal: impl Fn(u32) -> bool,
        allowed: impl Fn(u32) -> bool,
    ) -> Option<Vec<u32>> {
        let mut came: HashMap<u32, (u32, u32)> = HashMap::new();
        let mut queue = VecDeque::from([from]);
        while let Some(node) = queue.pop_front() {
            for &(to, label) in self.arcs(node) {
                if goal(to) {
                    let mut way = vec![label];
                    let mut at = node;
                    while at != from {
                        let (before, label) = came[&at];
                        way.push(label);
                        at = before;
                    }
                    way.reverse();
                    return Some(way);
                }
                if to != from && allowed(to) && !came.contains_key(&to) {
                    came.insert(to, (node, label));
                    queue.push_back(to);
                }
            }
        }
        None
    }
}

const UNSEEN: u32 = u32::MAX;

/// Tarjan's search, with its own stack: a history's graph is too deep for the machine's.
struct Search<'a> {
    graph: &'a Graph,
    order: Vec<u32>,
    low: Vec<u32>,
    on_stack: Vec<bool>,
    stack: Vec<u32>,
    next: u32,
    found: Vec<Vec<u32>>,
}

impl<'a> Search<'a> {
    fn new(graph: &'a Graph) -> Self {
        let nodes = graph.nodes();
        Self {
            graph,
            order: vec![UNSEEN; nodes],
            low: vec![UNSEEN; nodes],
            on_stack: vec![false; nodes],
            stack: Vec::new(),
            next: 0,
            found: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<Vec<u32>> {
        let nodes = u32::try_from(self.graph.nodes()).expect("nodes are numbered with 32 bits");
        for root in 0..nodes {
            if self.order[root as usize] == UNSEEN {
                self.from(root);
            }
        }
        self.found
    }

    fn enter(&mut self, node: u32) {
        self.order[node as usize] = self.next;
        self.low[node as usize] = self.next;
        self.next += 1;
        self.stack.push(node);
        self.on_stack[node as usize] = true;
    }

    fn from(&mut self, root: u32) {
        self.enter(root);
        let mut calls = vec![(root, 0_usize)];
        while let Some((node, arc)) = calls.last_mut() {
            let here = *node;
            if let Some(&(to, _)) = self.graph.arcs(here).get(*arc) {
                *arc += 1;
                if self.order[to as usize] == UNSEEN {
                    self.enter(to);
                    calls.push((to, 0));
                } else if self.on_stack[to as usize] {
                    self.low[here as usize] = self.low[here as usize].min(self.order[to as usize]);
                }
                continue;
            }
            calls.pop();
            if let Some(&(caller, _)) = calls.last() {
                self.low[caller as usize] = self.low[caller as usize].min(self.low[here as usize]);
            }
            if self.low[here as usize] == self.order[here as usize] {
                self.leave(here);
            }
        }
    }

    fn leave(&mut self, root: u32) {
        let mut component = Vec::new();
        while let Some(node) = self.stack.pop() {
            self.on_stack[node as usize] = false;
            component.push(node);
            if node == root {
                break;
            }
        }
        let own = || self.graph.arcs(root).iter().any(|&(to, _)| to == root);
        if component.len() > 1 || own() {
            component.sort_unstable();
            self.found.push(component);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_components_with_a_cycle_are_returned() {
        let arcs = [(0, 1, 0), (1, 2, 1), (2, 0, 2), (2, 3, 3), (4, 4, 4), (3, 5, 5)];
        let mut found = Graph::new(6, &arcs).cyclic_components();
        found.sort();
        assert_eq!(found, [vec![0, 1, 2], vec![4]]);
    }

    #[test]
    fn a_chain_deeper_than_the_machine_s_stack_is_searched() {
        let nodes = 400_000;
        let arcs: Vec<_> = (0..nodes).map(|n| (n, (n + 1) % nodes, n)).collect();
        assert_eq!(Graph::new(nodes as usize, &arcs).cyclic_components().len(), 1);
    }

    #[test]
    fn the_shortest_way_is_found_and_stays_where_it_may_be() {
        let arcs = [(0, 1, 10), (1, 2, 11), (0, 2, 12), (2, 0, 13)];
        let graph = Graph::new(3, &arcs);
        assert_eq!(graph.shortest(0, |n| n == 2, |_| true), Some(vec![12]));
        assert_eq!(graph.shortest(0, |n| n == 0, |_| true), Some(vec![12, 13]));
        assert_eq!(graph.shortest(1, |n| n == 0, |n| n != 2), None);
    }
}
