//! Text and shapes in XML.

use std::fmt::Write as _;

use crate::checker::recovery::Window;
use crate::history::Kind;

/// Where a plot begins, from the left.
pub(super) const LEFT: u64 = 90;
/// How wide a picture is.
pub(super) const WIDTH: u64 = 1000;
/// How wide what it shows is.
pub(super) const PLOT: u64 = WIDTH - LEFT - 20;

/// About how wide a letter of a small text is, with something to keep names apart.
const LETTER: u64 = 7;
const STYLE: &str = "\
text{font:12px sans-serif;fill:#222}.small{font-size:11px;fill:#555}.head{font-size:16px;font-weight:bold}\
.axis{stroke:#999;fill:none}.grid{stroke:#ddd}.fault{fill:#c33;fill-opacity:.12}\
.unsure{fill:#c90;fill-opacity:.12}.ok{fill:#2a7;stroke:#2a7}.fail{fill:#c33;stroke:#c33}\
.info{fill:#d90;stroke:#d90}.line{fill:none;stroke-width:1.5}";

/// Returns text that is text in XML, whatever it holds.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' => safe.push('\n'),
            // XML has no way to write these.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// Returns the colour of an operation's end.
pub(super) const fn colour(kind: Kind) -> &'static str {
    match kind {
        Kind::Ok => "#9fd8bd",
        Kind::Fail => "#f0b0b0",
        Kind::Info | Kind::Invoke => "#f2d38a",
    }
}

/// Returns a colour for each of some few things that are told apart.
pub(super) const fn distinct(place: usize) -> &'static str {
    const COLOURS: [&str; 6] = ["#2a6fb0", "#7fb77e", "#d9c46a", "#b7a6cf", "#d98a6a", "#6ab7b7"];
    COLOURS[place % COLOURS.len()]
}

/// A picture whose x axis is time.
pub(super) struct Picture {
    until_ns: u64,
    height: u64,
    title: String,
    body: String,
}

impl Picture {
    pub(super) fn new(title: &str, until_ns: u64, height: u64) -> Self {
        let until_ns = until_ns.max(1);
        let mut picture = Self { until_ns, height, title: escaped(title), body: String::new() };
        picture.text(20, 24, "head", title);
        picture
    }

    pub(super) fn x(&self, at_ns: u64) -> u64 {
        let share =
            u128::from(PLOT) * u128::from(at_ns.min(self.until_ns)) / u128::from(self.until_ns);
        LEFT + u64::try_from(share).unwrap_or(PLOT)
    }

    /// Writes text; `class` is one of the style's.
    pub(super) fn text(&mut self, x: u64, y: u64, class: &str, text: &str) {
        self.shape(format_args!(
            "<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{}</text>",
            escaped(text)
        ));
    }

    pub(super) fn shape(&mut self, shape: std::fmt::Arguments) {
        writeln!(self.body, "{shape}").expect("writing to a text");
    }

    /// Draws a bar from one time to another, with a text for whoever points at it.
    pub(super) fn bar(
        &mut self,
        (from_ns, to_ns): (u64, u64),
        (y, height): (u64, u64),
        look: &str,
        told: &str,
    ) {
        let (x, end) = (self.x(from_ns), self.x(to_ns));
        let width = end.saturating_sub(x).max(1);
        self.shape(format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" {look}><title>{}</title></rect>",
            escaped(told)
        ));
    }

    /// Shades the time of each fault between two heights, and names it above where there is room. The name of
    /// each stands in its tool tip too.
    pub(super) fn faults(&mut self, windows: &[Window], top: u64, bottom: u64) {
        // Where the last name in each of three rows ends.
        let mut ends = [0_u64; 3];
        for window in windows {
            let class = if window.sure { "class=\"fault\"" } else { "class=\"unsure\"" };
            let told = format!("{} {}", window.name, window.targets.join(", "));
            let at = (window.from_ns, window.to_ns);
            self.bar(at, (top, bottom.saturating_sub(top)), class, &told);
            let width = LETTER * window.name.len() as u64;
            // One that begins at the end stands a little to the left of where it should.
            let x = self.x(window.from_ns).min(WIDTH.saturating_sub(width));
            if let Some((row, end)) = (0..).zip(&mut ends).find(|(_, end)| **end <= x) {
                *end = x + width;
                self.text(x, top - 4 - 12 * row, "small", &window.name);
            }
        }
    }

    /// Draws the time axis at a height.
    pub(super) fn seconds(&mut self, y: u64) {
        let until_s = self.until_ns / 1_000_000_000;
        let step = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800]
            .into_iter()
            .find(|step| until_s / step <= 12)
            .unwrap_or(3600);
        self.shape(format_args!("<path d=\"M{LEFT} {y}H{}\" class=\"axis\"/>", LEFT + PLOT));
        for at in (0..=until_s).step_by(usize::try_from(step).unwrap_or(3600)) {
            let x = self.x(at * 1_000_000_000);
            self.shape(format_args!("<path d=\"M{x} {y}v4\" class=\"axis\"/>"));
            self.text(x, y + 16, "small", &format!("{at} s"));
        }
    }

    pub(super) fn finish(self) -> String {
        let Self { height, title, body, .. } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
             height=\"{height}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n{body}</svg>\n"
        )
    }
}

/// Returns a page that is also XML. The body is markup.
pub(super) fn page(title: &str, style: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\" xmlns=\"http://www.w3.org/1999/xhtml\">\n<head><meta charset=\"utf-8\"/>\
         <title>{title}</title>\n<style>body{{font:14px sans-serif;color:#222;margin:20px}}\
         td,th{{padding:3px 10px;text-align:left;vertical-align:top;border-bottom:1px solid #ddd}}\
         .valid{{color:#186a3b}}.invalid{{color:#b71c1c;font-weight:bold}}.unknown{{color:#9c6500}}\
         {style}</style></head>\n\
         <body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}
