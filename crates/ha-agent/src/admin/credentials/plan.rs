//! What is to be done to change one password, by what every node has of it.

use std::collections::{BTreeMap, BTreeSet};

use ha_core::NodeId;
use ha_proto::v1::CredentialFacts;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Nothing was begun.
    Begin,
    /// An earlier order was not finished.
    GoOn {
        /// Fingerprint of the new password.
        next: Vec<u8>,
        /// What it was made with; empty if nobody needs that any more.
        salt: Vec<u8>,
        /// Who lacks it.
        stage: BTreeSet<NodeId>,
        /// Who of them has another one, which nothing can know.
        discard: BTreeSet<NodeId>,
    },
}

/// Decides by what the nodes said.
///
/// A server is told a new password only when every node has it, and none is ever overwritten. So, where nodes
/// have different new ones, no server knows any but, at most, one: the others may go.
///
/// # Errors
/// Why nothing is begun, in one line.
pub(super) fn plan(
    user: &str,
    all: &BTreeMap<NodeId, Result<CredentialFacts, String>>,
) -> Result<Plan, String> {
    let mut seen = BTreeMap::new();
    for (node, facts) in all {
        let facts = facts.as_ref().map_err(Clone::clone)?;
        if !facts.obstacle.is_empty() {
            return Err(format!("node {node}: {}", facts.obstacle));
        }
        if facts.current.is_empty() {
            return Err(format!("node {node}: {}", facts.trouble));
        }
        if facts.takes == "unasked" {
            return Err(format!(
                "the server of node {node} lets {user} in without a password: there is none to change"
            ));
        }
        seen.insert(node, facts);
    }
    if seen.is_empty() {
        return Err(format!("no node has a password of role {user:?}"));
    }
    let begun = |facts: &&CredentialFacts| !facts.next.is_empty();
    if !seen.values().copied().any(|facts| begun(&facts)) {
        return fresh(user, &seen).map(|()| Plan::Begin);
    }
    let taken = seen.values().find(|facts| facts.takes == "next");
    // One that was in place before is what all others are to have.
    let promoted = seen
        .values()
        .find(|facts| begun(facts) && seen.values().any(|it| it.current == facts.next));
    let first = seen.values().find(|facts| begun(facts));
    let Some(chosen) = taken.or(promoted).or(first) else {
        return Err(format!("no node has a new password of {user}"));
    };
    let lacks = |facts: &CredentialFacts| facts.next != chosen.next && facts.current != chosen.next;
    let lacking = || seen.iter().filter(|(_, facts)| lacks(facts));
    let stage: BTreeSet<NodeId> = lacking().map(|(node, _)| (*node).clone()).collect();
    let discard = lacking().filter(|(_, facts)| begun(facts)).map(|(node, _)| (*node).clone());
    if chosen.salt.is_empty() && !stage.is_empty() {
        let file = &chosen.file;
        return Err(format!("{file}.next was not made by haclt: look at it, and remove it"));
    }
    let (next, salt) = (chosen.next.clone(), chosen.salt.clone());
    Ok(Plan::GoOn { next, salt, discard: discard.collect(), stage })
}

/// Whether all have one password, and every server takes it.
fn fresh(user: &str, seen: &BTreeMap<&NodeId, &CredentialFacts>) -> Result<(), String> {
    let mut nodes = seen.iter();
    let Some((first, reference)) = nodes.next() else { return Ok(()) };
    for (node, facts) in nodes {
        if facts.current != reference.current {
            return Err(format!(
                "nodes {first} and {node} have different passwords of {user} in their files: \
                 haclt credentials show"
            ));
        }
    }
    for (node, facts) in seen {
        match facts.takes.as_str() {
            "current" | "none" => {}
            "neither" => {
                return Err(format!(
                    "the server of node {node} takes another password of {user} than {} has",
                    facts.file
                ));
            }
            _ => {
                return Err(format!(
                    "the server of node {node} gives no answer: {}",
                    facts.trouble
                ));
            }
        }
    }
    Ok(())
}

/// Returns whether a node's server is known to take the password of that fingerprint; a witness needs none.
pub(super) fn takes(facts: &CredentialFacts, next: &[u8]) -> bool {
    match facts.takes.as_str() {
        "none" => true,
        "next" => facts.next == next,
        "current" => facts.current == next,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "a cell of the tables below")]
    fn facts(current: u8, next: u8, takes: &str) -> Result<CredentialFacts, String> {
        let print = |number: u8| if number == 0 { Vec::new() } else { vec![number] };
        Ok(CredentialFacts {
            user: "u".to_owned(),
            file: "/f".to_owned(),
            current: print(current),
            next: print(next),
            salt: print(next),
            takes: takes.to_owned(),
            trouble: "why".to_owned(),
            ..CredentialFacts::default()
        })
    }

    fn planned(nodes: [Result<CredentialFacts, String>; 3]) -> Result<Plan, String> {
        let names = ["n1", "n2", "n3"].map(|name| name.parse::<NodeId>().expect("a name"));
        plan("u", &names.into_iter().zip(nodes).collect())
    }

    #[expect(clippy::unnecessary_wraps, reason = "a cell of the tables below")]
    fn go_on(next: u8, stage: &[&str], discard: &[&str]) -> Result<Plan, String> {
        let set = |names: &[&str]| names.iter().map(|name| name.parse().expect("a name")).collect();
        let (stage, discard) = (set(stage), set(discard));
        Ok(Plan::GoOn { next: vec![next], salt: vec![next], stage, discard })
    }

    #[test]
    fn wherever_an_order_was_cut_short_it_goes_on_with_the_same_password() {
        let [begun, old, witness] =
            [facts(1, 2, "current"), facts(1, 0, "current"), facts(1, 0, "none")];
        let told = || facts(1, 2, "next");
        let done = || facts(2, 0, "current");
        #[rustfmt::skip]
        let table = [
            ([old.clone(), old.clone(), witness.clone()],                Ok(Plan::Begin)),
            ([begun.clone(), old.clone(), witness.clone()],              go_on(2, &["n2", "n3"], &[])),
            ([begun.clone(), begun.clone(), facts(1, 2, "none")],        go_on(2, &[], &[])),
            ([told(), begun.clone(), facts(1, 2, "none")],               go_on(2, &[], &[])),
            ([done(), told(), facts(1, 2, "none")],                      go_on(2, &[], &[])),
            ([done(), done(), facts(1, 2, "none")],                      go_on(2, &[], &[])),
            // A node of which the new one was lost: it makes the same again.
            ([told(), old.clone(), facts(1, 2, "none")],                 go_on(2, &["n2"], &[])),
            // Two orders met.
            ([begun.clone(), facts(1, 3, "current"), witness.clone()],   go_on(2, &["n2", "n3"], &["n2"])),
            ([begun.clone(), facts(1, 3, "next"), witness.clone()],      go_on(3, &["n1", "n3"], &["n1"])),
            ([facts(1, 3, "current"), begun.clone(), facts(2, 0, "none")], go_on(2, &["n1"], &["n1"])),
            // Its server is down: what was begun is finished as far as it goes.
            ([told(), facts(1, 2, "unknown"), facts(1, 2, "none")],      go_on(2, &[], &[])),
        ];
        for (nodes, expected) in table {
            assert_eq!(planned(nodes.clone()), expected, "{nodes:?}");
        }
    }

    #[test]
    fn nothing_is_begun_where_it_could_not_be_finished() {
        let old = || facts(1, 0, "current");
        let witness = || facts(1, 0, "none");
        let with = |change: &dyn Fn(&mut CredentialFacts)| {
            let mut facts = facts(1, 0, "current").expect("facts");
            change(&mut facts);
            Ok(facts)
        };
        #[rustfmt::skip]
        let table = [
            ([old(), Err("node n2 does not answer: x".to_owned()), witness()], "node n2 does not answer: x"),
            ([old(), old(), facts(9, 0, "none")],        "nodes n1 and n3 have different passwords of u in their files"),
            ([old(), facts(1, 0, "neither"), witness()], "the server of node n2 takes another password of u than /f has"),
            ([old(), facts(1, 0, "unknown"), witness()], "the server of node n2 gives no answer: why"),
            ([facts(1, 0, "unasked"), old(), witness()], "the server of node n1 lets u in without a password"),
            ([old(), with(&|f| f.obstacle = "/f is mounted".to_owned()), witness()], "node n2: /f is mounted"),
            ([old(), facts(0, 0, "unknown"), witness()], "node n2: why"),
        ];
        for (nodes, words) in table {
            let why = planned(nodes.clone()).expect_err(words);
            assert!(why.starts_with(words), "{why}");
        }
        let foreign = with(&|facts| facts.next = vec![7]);
        let why = planned([foreign, old(), witness()]).expect_err("nobody could make it");
        assert!(why.starts_with("/f.next was not made by haclt"), "{why}");
    }

    #[test]
    fn a_server_takes_the_new_one_whichever_file_it_is_in() {
        #[rustfmt::skip]
        let table = [
            (facts(1, 2, "next"),    true),
            (facts(2, 0, "current"), true),
            (facts(1, 0, "none"),    true),
            (facts(1, 2, "current"), false),
            (facts(1, 2, "unknown"), false),
            (facts(1, 2, "neither"), false),
        ];
        for (facts, expected) in table {
            let facts = facts.expect("facts");
            assert_eq!(takes(&facts, &[2]), expected, "{facts:?}");
        }
    }
}
