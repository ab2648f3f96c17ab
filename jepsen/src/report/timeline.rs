//! What each process did, as a page: time runs down, each process has a column.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::markup::{colour, escaped, page};
use crate::checker::seconds;
use crate::history::{History, Pair, Process};

/// How many operations a page shows; more would be too much for a browser.
pub const OPERATIONS_MAX: usize = 3000;

const COLUMN: usize = 130;
const ROW: u64 = 18;

const STYLE: &str = "\
.board{position:relative}.op{position:absolute;width:122px;overflow:hidden;white-space:nowrap;font-size:11px;\
border-radius:2px;border:1px solid #777;box-sizing:border-box;padding:0 3px}\
.name{position:absolute;font-weight:bold;font-size:12px}";

/// Draws the first operations of a history.
#[must_use]
pub fn timeline(history: &History) -> String {
    let pairs = history.pairs();
    let shown = &pairs[..pairs.len().min(OPERATIONS_MAX)];
    // Each line of the history is a row: what happened close together can be told apart that way.
    let last_row = shown.iter().map(|pair| row(pair, u64::MAX).1).max().unwrap_or(0);
    let columns = columns(shown);
    let mut body = format!(
        "<p>{} of {} operations. Rows are lines of the history; times are in the texts.</p>\n",
        shown.len(),
        pairs.len()
    );
    let width = columns.values().max().map_or(0, |last| (last + 1) * COLUMN);
    let height = (last_row + 3) * ROW;
    writeln!(body, "<div class=\"board\" style=\"width:{width}px;height:{height}px\">")
        .expect("writing to a text");
    let mut named: BTreeMap<usize, Vec<String>> = BTreeMap::new();
    for (process, column) in &columns {
        named.entry(*column).or_default().push(process.to_string());
    }
    for (column, names) in named {
        let (left, names) = (column * COLUMN, escaped(&names.join(", ")));
        writeln!(
            body,
            "<div class=\"name\" style=\"left:{left}px;top:0\" title=\"{names}\">{names}</div>"
        )
        .expect("writing to a text");
    }
    for pair in shown {
        operation(&mut body, pair, columns[&pair.invoke.process], last_row);
    }
    body.push_str("</div>\n");
    page("what each process did", STYLE, &body)
}

/// Gives each process a column; one that took over from a retired one gets its column.
fn columns(pairs: &[Pair]) -> BTreeMap<Process, usize> {
    let mut spans: BTreeMap<Process, (u64, u64)> = BTreeMap::new();
    for pair in pairs {
        let (from, to) = row(pair, u64::MAX);
        let span = spans.entry(pair.invoke.process).or_insert((from, to));
        span.1 = span.1.max(to);
    }
    let mut order: Vec<(Process, (u64, u64))> = spans.into_iter().collect();
    order.sort_by_key(|&(_, (from, _))| from);
    let mut free_after: Vec<u64> = Vec::new();
    let mut columns = BTreeMap::new();
    for (process, (from, to)) in order {
        let free = free_after.iter().position(|&after| after < from);
        let column = free.unwrap_or_else(|| {
            free_after.push(0);
            free_after.len() - 1
        });
        free_after[column] = to;
        columns.insert(process, column);
    }
    columns
}

/// Returns the rows of an operation's begin and end.
fn row(pair: &Pair, last: u64) -> (u64, u64) {
    let from = pair.invoke.index;
    let to = pair.completion.map_or(from + 1, |end| end.index);
    (from, to.min(last))
}

fn operation(body: &mut String, pair: &Pair, column: usize, last_row: u64) {
    let (from, to) = row(pair, last_row);
    let (left, top) = (column * COLUMN, (from + 1) * ROW);
    let height = to.saturating_sub(from).max(1) * ROW;
    let told = pair.completion.unwrap_or(pair.invoke);
    let ended = pair.completion.map_or(u64::MAX, |end| end.time_ns);
    let mut text = format!(
        "{} {} from {} to {}: {:?}",
        pair.kind().word(),
        told.f.word(),
        seconds(pair.invoke.time_ns),
        seconds(ended),
        told.value
    );
    if let Some(server) = &told.server {
        write!(text, " at {server:?}").expect("writing to a text");
    }
    if let Some(error) = &told.error {
        write!(text, ": {error}").expect("writing to a text");
    }
    let label = format!("{} {}", pair.invoke.index, told.f.word());
    writeln!(
        body,
        "<div class=\"op\" style=\"left:{left}px;top:{top}px;height:{height}px;background:{}\" title=\"{}\">{}</div>",
        colour(pair.kind()),
        escaped(&text),
        escaped(&label)
    )
    .expect("writing to a text");
}
