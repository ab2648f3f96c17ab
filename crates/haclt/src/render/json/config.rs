//! The replicated configuration, for programs.

use serde::Serialize;

use super::{Layout, object};
use crate::reply::config::{ConfigChanged, ConfigItem, Configuration};

#[derive(Serialize)]
struct Shown<'a> {
    version: u64,
    items: Vec<Item<'a>>,
}

#[derive(Serialize)]
struct Item<'a> {
    key: &'a str,
    value: &'a str,
    in_force: &'a str,
    about: Option<&'a str>,
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
    object(&Shown { version: configuration.version, items }, layout)
}

/// Returns one key of it as one JSON object and a line feed.
#[must_use]
pub fn item(item: &ConfigItem, layout: Layout) -> String {
    object(&shape(item), layout)
}

fn shape(item: &ConfigItem) -> Item<'_> {
    let ConfigItem { key, value, in_force, about } = item;
    Item { key, value, in_force, about: about.as_deref() }
}

/// Returns what became of setting `key` to `value`, as one JSON object and a line feed.
#[must_use]
pub fn changed(key: &str, value: &str, changed: &ConfigChanged, layout: Layout) -> String {
    let ConfigChanged { outcome, detail, before, version } = changed;
    let (detail, before) = (detail.as_deref(), before.as_deref());
    let outcome = outcome.word();
    object(&Changed { key, value, outcome, detail, before, version: *version }, layout)
}
