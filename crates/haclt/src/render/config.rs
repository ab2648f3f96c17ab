//! The replicated configuration, and changes to it, for people.

use crate::client::Answer;
use crate::render::grid::grid;
use crate::render::units;
use crate::reply::ClusterStatus;
use crate::reply::config::{
    ConfigChanged, ConfigChanges, ConfigHistory, ConfigNode, Configuration, Difference, Outcome,
};

/// Returns the version, and a line for each key.
#[must_use]
pub fn configuration(configuration: &Configuration) -> String {
    let rows: Vec<_> = configuration
        .items
        .iter()
        .map(|item| {
            let about = item.about.clone().unwrap_or_default();
            let in_force = item.awaited.as_ref().unwrap_or(&item.in_force);
            [item.key.clone(), item.value.clone(), in_force.clone(), about]
        })
        .collect();
    let table = grid(["KEY", "VALUE", "IN FORCE", "ABOUT"], &[], &rows);
    format!("version {}\n{table}{}", configuration.version, nodes(&configuration.nodes))
}

/// Returns a line for each data node, if any says what it has.
fn nodes(nodes: &[ConfigNode]) -> String {
    if nodes.is_empty() {
        return String::new();
    }
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            let version = node.version.map_or("-".to_owned(), |version| version.to_string());
            let pending = node.pending.join(", ");
            let pending = if pending.is_empty() { "-".to_owned() } else { pending };
            [node.name.to_string(), version, pending]
        })
        .collect();
    grid(["NODE", "VERSION", "WAITS FOR A RESTART"], &[1], &rows)
}

/// Returns a line for each key that differs, and what became of it.
#[must_use]
pub fn changes(changes: &ConfigChanges) -> String {
    let ConfigChanges { outcome, detail, version, changes } = changes;
    let mut text: String = changes.iter().map(|change| difference(change) + "\n").collect();
    let said = match outcome {
        None if changes.is_empty() => "nothing would change".to_owned(),
        None => "possible; nothing was changed".to_owned(),
        Some(Outcome::Done) => format!("done, version {version}"),
        Some(Outcome::Accepted) => format!("accepted, version {version}"),
        Some(Outcome::Unchanged) => format!("unchanged, version {version}"),
    };
    text.push_str(&said);
    text.extend(detail.iter().flat_map(|detail| [": ", detail.as_str()]));
    text.push('\n');
    text
}

fn difference(change: &Difference) -> String {
    let Difference { key, before, after, needs } = change;
    let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(unset)".to_owned());
    let needs = match needs.as_deref() {
        Some("restart") => "  [needs a restart]",
        Some("unchecked") => "  [of an extension that is not loaded: not checked]",
        _ => "",
    };
    format!("{key}: {} -> {}{needs}", shown(before), shown(after))
}

/// Returns a line for each key of each change that is remembered, or says that there is none.
#[must_use]
pub fn history(history: &ConfigHistory) -> String {
    if history.entries.is_empty() {
        return "no change is remembered\n".to_owned();
    }
    let rows = history.entries.iter().flat_map(|entry| {
        entry.changes.iter().map(|change| {
            let (version, time) = (entry.version.to_string(), units::utc(entry.at_unix_ms));
            let by = entry.by.clone().unwrap_or_default();
            [version, time, by, difference(change)]
        })
    });
    grid(["VERSION", "TIME", "BY", "WHAT"], &[0], &rows.collect::<Vec<_>>())
}

/// Returns what became of setting `key` to `value`.
#[must_use]
pub fn changed(key: &str, value: &str, changed: &ConfigChanged) -> String {
    let ConfigChanged { outcome, detail, before, version } = changed;
    let before = before.as_ref().map_or(String::new(), |before| format!(", before {before}"));
    let what = match outcome {
        Outcome::Done => format!("{key} is {value} now{before}"),
        Outcome::Accepted => format!("{key} is to be {value}{before}; it is not in force yet"),
        Outcome::Unchanged => format!("unchanged: {key} is {value} already"),
    };
    let detail = detail.as_ref().map_or(String::new(), |detail| format!("{detail}\n"));
    format!("{what} (version {version})\n{detail}")
}

/// Returns what may be lost by the durability mode `async`, in this cluster, now.
#[must_use]
pub fn cost_of_async(answer: &Answer<ClusterStatus>) -> String {
    let standbys =
        answer.reply.nodes.iter().filter(|node| node.role == "standby" && node.reachable);
    let nearest = standbys
        .filter_map(|node| node.lag_bytes.map(|lag_bytes| (lag_bytes, &node.name)))
        .min()
        .map_or("No standby is known to follow at present.".to_owned(), |(lag_bytes, node)| {
            let lag = units::size(lag_bytes);
            format!("At present the nearest standby, {node}, is {lag} behind.")
        });
    format!(
        "In durability mode async, cluster {} acknowledges commits before another node has them: \
         what no standby has received is lost with the primary. {nearest}",
        answer.cluster
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::config::ConfigItem;
    use crate::reply::samples;

    fn changed_to(outcome: Outcome, detail: Option<&str>, before: Option<&str>) -> String {
        let text = |text: Option<&str>| text.map(str::to_owned);
        let change =
            ConfigChanged { outcome, detail: text(detail), before: text(before), version: 8 };
        changed("durability.mode", "quorum", &change)
    }

    #[test]
    fn the_configuration_is_a_table_that_shows_a_change_under_way() {
        let configuration_of = |in_force: &str| Configuration {
            version: 8,
            items: vec![ConfigItem {
                key: "durability.mode".into(),
                value: "quorum".into(),
                in_force: in_force.into(),
                about: Some("who acknowledges".into()),
                awaited: None,
            }],
            nodes: vec![],
        };
        let expected = "\
version 8
KEY              VALUE   IN FORCE  ABOUT
durability.mode  quorum  async     who acknowledges
";
        assert_eq!(configuration(&configuration_of("async")), expected);
        let empty = Configuration { version: 0, items: vec![], nodes: vec![] };
        assert_eq!(configuration(&empty), "version 0\nKEY  VALUE  IN FORCE  ABOUT\n");
    }

    #[test]
    fn a_change_says_how_far_it_got() {
        assert_eq!(
            changed_to(Outcome::Done, Some("any 1 of n1, n3"), Some("async")),
            "durability.mode is quorum now, before async (version 8)\nany 1 of n1, n3\n"
        );
        assert_eq!(
            changed_to(Outcome::Accepted, Some("awaited: n3"), Some("async")),
            "durability.mode is to be quorum, before async; it is not in force yet (version 8)\n\
             awaited: n3\n"
        );
        assert_eq!(
            changed_to(Outcome::Unchanged, None, None),
            "unchanged: durability.mode is quorum already (version 8)\n"
        );
    }

    #[test]
    fn what_async_may_cost_is_said_in_bytes() {
        let cost = |reply: ClusterStatus| {
            let endpoint = crate::endpoint::parse_endpoints(["n1:7400"]).unwrap().remove(0);
            let (cluster, failures) = (reply.cluster.clone(), vec![]);
            cost_of_async(&Answer { reply, endpoint, cluster, informed: true, failures })
        };
        let far = cost(samples::degraded());
        assert!(far.contains("cluster orders acknowledges"), "{far}");
        assert!(far.ends_with("the nearest standby, n1, is 16.0 MiB behind."), "{far}");
        let none = cost(samples::cut_off());
        assert!(none.ends_with("No standby is known to follow at present."), "{none}");
    }
}
