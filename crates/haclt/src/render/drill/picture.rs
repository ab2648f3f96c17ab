//! A drill as a picture: SVG, by itself or in a page of HTML.

use std::fmt::Write as _;

use super::{Look, figures, offset};
use crate::reply::drill::{DrillPlan, Measured, Seen};

const LEFT: u64 = 90;
const WIDTH: u64 = 960;
const PLOT: u64 = WIDTH - LEFT - 20;
const LANE: u64 = 30;
const BAR: u64 = 20;
const LINE: u64 = 16;

const STYLE: &str = "\
text{font:13px sans-serif;fill:#222}.small{font-size:11px;fill:#555}.head{font-size:16px;font-weight:bold}\
.axis{stroke:#999}.fault{fill:#c33;fill-opacity:.12}.gap{fill:#c33;fill-opacity:.35}\
.mark{stroke:#c33;stroke-dasharray:3 2}.write{fill:#2a7}.missed{fill:#c33}";

impl Look {
    const fn colour(self) -> &'static str {
        match self {
            Self::Primary => "#2a6fb0",
            Self::Following => "#7fb77e",
            Self::Standby => "#d9c46a",
            Self::Witness => "#b7a6cf",
            Self::Silent => "#555555",
            Self::Down => "#d8d8d8",
        }
    }
}

/// Returns text that is text in XML, whatever it holds.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() && c != '\n' => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// Where things are.
struct Plot {
    until_ms: u64,
    svg: String,
}

impl Plot {
    fn x(&self, at_ms: u64) -> u64 {
        LEFT + PLOT * at_ms.min(self.until_ms) / self.until_ms
    }

    fn text(&mut self, x: u64, y: u64, class: &str, text: &str) {
        let text = escaped(text);
        writeln!(self.svg, "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{text}</text>").ok();
    }

    fn span(&mut self, from_ms: u64, to_ms: u64, y: u64, height: u64, look: &str) {
        let (x, end) = (self.x(from_ms), self.x(to_ms));
        let width = end.saturating_sub(x).max(1);
        let place = format!("x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\"");
        writeln!(self.svg, "<rect {place} {look}/>").ok();
    }

    fn line(&mut self, at_ms: u64, from: u64, to: u64, class: &str) {
        let x = self.x(at_ms);
        let place = format!("x1=\"{x}\" y1=\"{from}\" x2=\"{x}\" y2=\"{to}\"");
        writeln!(self.svg, "<line {place} class=\"{class}\"/>").ok();
    }
}

/// Returns the picture: a lane for each node, one for the writes, and who noticed what.
#[must_use]
pub fn svg(plan: &DrillPlan, seen: &Seen, result: &Measured) -> String {
    let lanes = u64::try_from(plan.nodes.len()).unwrap_or(0) + 1;
    let shown = figures(result);
    let figures_lines = u64::try_from(shown.len()).unwrap_or(0).div_ceil(2);
    let top = 44 + figures_lines * LINE + 24;
    let bottom = top + lanes * LANE;
    let events = u64::try_from(seen.noticed.len()).unwrap_or(0);
    let height = bottom + 70 + events * LINE;
    let mut plot = Plot { until_ms: seen.until_ms.max(1), svg: String::new() };
    let view = format!("viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\"");
    writeln!(plot.svg, "<svg xmlns=\"http://www.w3.org/2000/svg\" {view} role=\"img\">").ok();
    writeln!(plot.svg, "<title>{}</title>\n<style>{STYLE}</style>", escaped(&plan.what())).ok();
    plot.span(0, plot.until_ms, 0, 0, "fill=\"none\"");
    plot.text(20, 26, "head", &format!("{}, durability {}", plan.what(), plan.durability));
    for (at, (name, value)) in shown.iter().enumerate() {
        let at = u64::try_from(at).unwrap_or(0);
        let (x, y) = (20 + (at % 2) * (WIDTH / 2), 48 + (at / 2) * LINE);
        plot.text(x, y, "", &format!("{name}: {value}"));
    }
    draw_lanes(&mut plot, plan, seen, result, top);
    legend(&mut plot, bottom + 34);
    for (noticed, y) in seen.noticed.iter().zip((bottom + 60..).step_by(16)) {
        let at = offset(noticed.at_ms, result.struck_ms);
        let node = noticed.node.as_deref().unwrap_or("-");
        plot.line(noticed.at_ms, top, bottom - 6, "axis");
        plot.text(20, y, "small", &format!("{at}   {node}   {}: {}", noticed.kind, noticed.text));
    }
    plot.svg.push_str("</svg>\n");
    plot.svg
}

fn draw_lanes(plot: &mut Plot, plan: &DrillPlan, seen: &Seen, result: &Measured, top: u64) {
    let mut y = top;
    let until = plot.until_ms;
    for node in &plan.nodes {
        plot.text(20, y + 15, "", node.as_str());
        let sights: Vec<_> = seen.sights.iter().filter(|s| s.node == node.as_str()).collect();
        for (at, sight) in sights.iter().enumerate() {
            let end = sights.get(at + 1).map_or(until, |next| next.at_ms);
            let look = Look::of(sight);
            let fill = format!("fill=\"{}\"", look.colour());
            plot.span(sight.at_ms, end, y, BAR, &fill);
        }
        y += LANE;
    }
    plot.text(20, y + 15, "", "writes");
    let mut before = 0;
    for writes in &seen.writes {
        let class = match (writes.acknowledged, writes.missed) {
            (0, 0) => None,
            (0, _) => Some("class=\"missed\""),
            (_, _) => Some("class=\"write\""),
        };
        if let Some(class) = class {
            plot.span(before, writes.at_ms, y, BAR, class);
        }
        before = writes.at_ms;
    }
    let gap_to = result.gap_from_ms.saturating_add(result.gap_ms);
    plot.span(result.gap_from_ms, gap_to, y, BAR, "class=\"gap\"");
    if result.over_ms > result.struck_ms {
        plot.span(
            result.struck_ms,
            result.over_ms,
            top - 14,
            y + BAR + 14 - top,
            "class=\"fault\"",
        );
    }
    plot.line(result.struck_ms, top - 14, y + BAR, "mark");
    let x = plot.x(result.struck_ms);
    plot.text(x, top - 18, "small", "fault");
}

fn legend(plot: &mut Plot, y: u64) {
    let mut x = LEFT;
    for look in Look::ALL {
        let place = format!("x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\"", y - 9);
        writeln!(plot.svg, "<rect {place} fill=\"{}\"/>", look.colour()).ok();
        plot.text(x + 14, y, "small", look.word());
        x += 24 + 7 * u64::try_from(look.word().len()).unwrap_or(0);
    }
}

/// Returns a page with the picture and the report as text.
#[must_use]
pub fn html(plan: &DrillPlan, seen: &Seen, result: &Measured, report: &str) -> String {
    let (title, picture) = (escaped(&plan.what()), svg(plan, seen, result));
    let report = escaped(report);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"/><title>{title}</title></head>\n\
         <body>\n{picture}<pre>{report}</pre>\n</body>\n</html>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    /// Reads a document as XML does, as far as ours go: every tag is closed in order, every attribute quoted, no
    /// bare `<` or `&` in text. Returns how many elements there are.
    fn elements(document: &str) -> Result<usize, String> {
        let mut open: Vec<String> = Vec::new();
        let (mut rest, mut count) = (document, 0);
        while let Some(at) = rest.find('<') {
            text_is_sound(&rest[..at])?;
            let after = &rest[at + 1..];
            let end = after.find('>').ok_or("a tag does not end")?;
            let tag = &after[..end];
            rest = &after[end + 1..];
            if tag.starts_with('!') {
                continue;
            }
            if let Some(name) = tag.strip_prefix('/') {
                let opened = open.pop().ok_or_else(|| format!("{name} was not opened"))?;
                if opened != name {
                    return Err(format!("{opened} is closed by {name}"));
                }
                continue;
            }
            count += 1;
            let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            attributes_are_sound(attributes)?;
            if !empty {
                open.push(name.to_owned());
            }
        }
        text_is_sound(rest)?;
        if open.is_empty() { Ok(count) } else { Err(format!("not closed: {open:?}")) }
    }

    fn text_is_sound(text: &str) -> Result<(), String> {
        if text.contains('>') && !text.contains("&gt;") {
            return Err(format!("a bare > in {text:?}"));
        }
        let entities = ["lt;", "gt;", "amp;", "quot;", "#39;"];
        let bare =
            text.split('&').skip(1).find(|after| !entities.iter().any(|e| after.starts_with(e)));
        bare.map_or(Ok(()), |bare| Err(format!("a bare & before {bare:?}")))
    }

    fn attributes_are_sound(attributes: &str) -> Result<(), String> {
        let parts: Vec<&str> = attributes.split('"').collect();
        let well = parts.len() % 2 == 1
            && parts.iter().step_by(2).all(|name| name.trim().is_empty() || name.ends_with('='));
        if well { text_is_sound(attributes) } else { Err(format!("attributes {attributes:?}")) }
    }

    #[test]
    fn the_picture_is_well_formed_and_shows_every_node_and_event() {
        let (plan, seen, result) = sample();
        let picture = svg(&plan, &seen, &result);
        let count = elements(&picture).unwrap_or_else(|why| panic!("{why}: {picture}"));
        assert!(count > 30, "{picture}");
        for part in [">n1<", ">n2<", ">n3<", ">writes<", "write gap: 3210 ms", "class=\"fault\""] {
            assert!(picture.contains(part), "{part}: {picture}");
        }
        assert!(picture.contains("&lt;nobody&gt; renewed it &amp; it &quot;expired&quot;"));
        assert!(!picture.contains("<nobody>"), "{picture}");
        assert!(picture.contains(Look::Silent.colour()));
        let page = html(&plan, &seen, &result, "a < b & c\n");
        elements(&page).unwrap_or_else(|why| panic!("{why}: {page}"));
        assert!(page.contains("<pre>a &lt; b &amp; c\n</pre>"));
    }

    #[test]
    fn the_check_itself_finds_what_is_wrong() {
        for wrong in ["<a>", "<a></b>", "</a>", "<a b=c/>", "<a>x & y</a>", "<a b=\"c/>"] {
            assert!(elements(wrong).is_err(), "{wrong}");
        }
        assert_eq!(elements("<!DOCTYPE html>\n<a b=\"c\"><d/>x &amp; y</a>\n"), Ok(2));
    }

    #[test]
    fn nothing_that_was_seen_makes_it_draw_outside() {
        let (plan, _, result) = sample();
        let seen = Seen::default();
        let picture = svg(&plan, &seen, &Measured { gap_ms: u64::MAX / 4, ..result });
        elements(&picture).unwrap_or_else(|why| panic!("{why}: {picture}"));
    }
}
