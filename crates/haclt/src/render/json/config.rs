//! The replicated configuration, for programs.

use serde::Serialize;

use super::{Layout, object};
use crate::reply::config::{
    ConfigChanged, ConfigChanges, ConfigHistory, ConfigItem, ConfigNode, Configuration, Difference,
    HistoryEntry, Outcome,
};

#[derive(Serialize)]
struct Shown<'a> {
    version: u64,
    items: Vec<Item<'a>>,
    nodes: Vec<Node<'a>>,
}

#[derive(Serialize)]
struct Node<'a> {
    name: &'a str,
    version: Option<u64>,
    pending_restart: &'a [String],
}

#[derive(Serialize)]
struct Several<'a> {
    outcome: &'a str,
    detail: Option<&'a str>,
    version: u64,
    changes: Vec<Changing<'a>>,
}

#[derive(Serialize)]
struct Changing<'a> {
    key: &'a str,
    before: Option<&'a str>,
    after: Option<&'a str>,
    needs: Option<&'a str>,
}

#[derive(Serialize)]
struct Log<'a> {
    entries: Vec<Entry<'a>>,
}

#[derive(Serialize)]
struct Entry<'a> {
    version: u64,
    at_unix_ms: u64,
    by: Option<&'a str>,
    changes: Vec<Changing<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    key: &'a str,
    value: &'a str,
    in_force: &'a str,
    about: Option<&'a str>,
    awaited: Option<&'a str>,
}

#[derive(Serialize)]
struct Changed<'a> {
    key: &'a str,
    value: &'a str,
    outcome: &'a str,
    detail: Option<&'a str>,
    before: Option<&'a str>,
    version: u64,
}

/// Returns the configuration as one JSON object and a line feed.
#[must_use]
pub fn configuration(configuration: &Configuration, layout: Layout) -> String {
    let items = configuration.items.iter().map(shape).collect();
    let nodes = configuration.nodes.iter().map(|node| {
        let ConfigNode { name, version, pending } = node;
        Node { name: name.as_str(), version: *version, pending_restart: pending }
    });
    let (version, nodes) = (configuration.version, nodes.collect());
    object(&Shown { version, items, nodes }, layout)
}

/// Returns keys that are changed together as one JSON object and a line feed.
#[must_use]
pub fn changes(changes: &ConfigChanges, layout: Layout) -> String {
    let ConfigChanges { outcome, detail, version, changes } = changes;
    let outcome = outcome.map_or("possible", Outcome::word);
    let (detail, version) = (detail.as_deref(), *version);
    object(&Several { outcome, detail, version, changes: differences(changes) }, layout)
}

/// Returns the changes that are remembered as one JSON object and a line feed.
#[must_use]
pub fn config_history(history: &ConfigHistory, layout: Layout) -> String {
    let entries = history.entries.iter().map(|entry| {
        let HistoryEntry { version, at_unix_ms, by, changes } = entry;
        let (version, at_unix_ms, by) = (*version, *at_unix_ms, by.as_deref());
        Entry { version, at_unix_ms, by, changes: differences(changes) }
    });
    object(&Log { entries: entries.collect() }, layout)
}

fn differences(changes: &[Difference]) -> Vec<Changing<'_>> {
    changes.iter().map(changing).collect()
}

fn changing(change: &Difference) -> Changing<'_> {
    let Difference { key, before, after, needs } = change;
    let (before, after, needs) = (before.as_deref(), after.as_deref(), needs.as_deref());
    Changing { key, before, after, needs }
}

/// Returns one key of it as one JSON object and a line feed.
#[must_use]
pub fn item(item: &ConfigItem, layout: Layout) -> String {
    object(&shape(item), layout)
}

fn shape(item: &ConfigItem) -> Item<'_> {
    let ConfigItem { key, value, in_force, about, awaited } = item;
    Item { key, value, in_force, about: about.as_deref(), awaited: awaited.as_deref() }
}

/// Returns what became of setting `key` to `value`, as one JSON object and a line feed.
#[must_use]
pub fn changed(key: &str, value: &str, changed: &ConfigChanged, layout: Layout) -> String {
    let ConfigChanged { outcome, detail, before, version } = changed;
    let (detail, before) = (detail.as_deref(), before.as_deref());
    let outcome = outcome.word();
    object(&Changed { key, value, outcome, detail, before, version: *version }, layout)
}
