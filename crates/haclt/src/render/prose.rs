//! Explanations as paragraphs.

use std::io::Write;

use crate::Streams;
use crate::client::{Answer, Failure};
use crate::render::units;
use crate::reply::{Explanation, IfPrimaryDied, NodeExplanation};

/// Lines are broken here, so that they can be read anywhere.
const WIDTH: usize = 80;

/// Returns the state, a paragraph for each node, and what would happen if the primary died now.
#[must_use]
pub fn explanation(explanation: &Explanation) -> String {
    let mut paragraphs = vec![wrap(&explanation.summary, 0)];
    paragraphs.extend(explanation.nodes.iter().map(node));
    paragraphs.push(if_primary_died(explanation.if_primary_died.as_ref()));
    paragraphs.join("\n")
}

fn node(node: &NodeExplanation) -> String {
    let NodeExplanation { node, rule, why, waiting_for } = node;
    let rule = rule.as_deref().unwrap_or("unknown");
    let mut text = format!("{node}: rule {rule}\n");
    if let Some(why) = why {
        text.push_str(&wrap(why, 2));
    }
    if let Some(waiting_for) = waiting_for {
        text.push_str(&wrap(&format!("Waiting for: {waiting_for}"), 2));
    }
    text
}

fn if_primary_died(future: Option<&IfPrimaryDied>) -> String {
    let mut text = "If the primary died now:\n".to_owned();
    let Some(future) = future else {
        text.push_str("  Unknown: the agent did not say.\n");
        return text;
    };
    let who = future.successor.as_ref().map_or("Nobody".to_owned(), |node| format!("Node {node}"));
    let why = future.why.as_ref().map_or(".".to_owned(), |why| format!(": {why}"));
    text.push_str(&wrap(&format!("{who} would be promoted{why}"), 2));
    for refusal in &future.refusals {
        text.push_str(&wrap(&format!("Not chosen: {refusal}"), 2));
    }
    let lost_bytes = future.lost_bytes.map_or("unknown".to_owned(), units::size);
    let lost = future.lost.as_ref().map_or(String::new(), |lost| format!(" {lost}"));
    text.push_str(&wrap(&format!("Acknowledged commits lost: {lost_bytes}.{lost}"), 2));
    let back = match (&future.successor, future.expected_ms) {
        (None, _) => "Writes would not come back by themselves.".to_owned(),
        (Some(_), None) => "How long writes would be refused is unknown.".to_owned(),
        (Some(_), Some(ms)) => {
            format!("Writes would be accepted again after about {}.", units::seconds(ms))
        }
    };
    text.push_str(&wrap(&back, 2));
    text
}

/// Returns the lines for standard error: who gave no useful answer, and what the view is worth.
#[must_use]
pub fn notes(failures: &[Failure], informed: bool) -> Vec<String> {
    let mut lines: Vec<_> = failures.iter().map(|failure| format!("note: {failure}")).collect();
    if !informed {
        lines.push(
            "note: no agent that answered knows a leader with a quorum: this is what one of them \
             sees by itself"
                .to_owned(),
        );
    }
    lines
}

/// Writes the notes on an answer to standard error.
pub(crate) fn tell<T>(answer: &Answer<T>, streams: &mut Streams<impl Write, impl Write>) {
    for note in notes(&answer.failures, answer.informed) {
        streams.note(&note);
    }
}

/// Returns `text` in lines of at most [`WIDTH`] characters, each indented.
fn wrap(text: &str, indent: usize) -> String {
    let mut lines = String::new();
    let mut line = " ".repeat(indent);
    let mut width = indent;
    for word in text.split_whitespace() {
        let longer = width + 1 + word.chars().count();
        if width > indent && longer > WIDTH {
            lines.push_str(&line);
            lines.push('\n');
            line = " ".repeat(indent);
            width = indent;
        }
        if width > indent {
            line.push(' ');
            width += 1;
        }
        line.push_str(word);
        width += word.chars().count();
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::prose;
    use crate::reply::samples;

    #[test]
    fn an_explanation_reads_as_paragraphs() {
        let expected = "\
the cluster is healthy

n1: rule following
  n2 holds the lease.

n2: rule serving
  It holds the lease.
  Waiting for: the standby n1 to catch up

If the primary died now:
  Node n1 would be promoted: It has all WAL.
  Not chosen: n4: 20 MiB behind
  Acknowledged commits lost: 0 B. Every acknowledged commit is on n1 or n3.
  Writes would be accepted again after about 3.5 s.
";
        assert_eq!(prose::explanation(&samples::explanation()), expected);
    }

    #[test]
    fn what_would_happen_is_told_however_little_is_known() {
        let future = IfPrimaryDied {
            successor: None,
            why: None,
            refusals: vec![],
            lost_bytes: None,
            lost: None,
            expected_ms: None,
        };
        let expected = "\
If the primary died now:
  Nobody would be promoted.
  Acknowledged commits lost: unknown.
  Writes would not come back by themselves.
";
        assert_eq!(if_primary_died(Some(&future)), expected);
        let expected = "If the primary died now:\n  Unknown: the agent did not say.\n";
        assert_eq!(if_primary_died(None), expected);
        let future = IfPrimaryDied { successor: Some("n1".parse().unwrap()), ..future };
        assert!(if_primary_died(Some(&future)).contains("would be refused is unknown"));
    }

    #[test]
    fn lines_are_broken_between_words() {
        let text = "word ".repeat(20);
        let wrapped = wrap(&text, 2);
        assert!(wrapped.lines().all(|line| line.len() <= WIDTH && line.starts_with("  word")));
        assert_eq!(wrapped.lines().count(), 2);
        assert_eq!(wrap(&"x".repeat(100), 2), format!("  {}\n", "x".repeat(100)));
        assert_eq!(wrap(&format!("a {}", "x".repeat(79)), 0), format!("a\n{}\n", "x".repeat(79)));
        assert_eq!(wrap(&format!("a {}", "x".repeat(78)), 0), format!("a {}\n", "x".repeat(78)));
    }
}
