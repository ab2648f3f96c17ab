//! Where the value of something secret begins and ends.

/// How far the end of a value in quotes is looked for.
const BYTES_MAX: usize = 16 << 10;
/// How many comments between a name and its value are skipped: each may hold a name for which the ones behind it
/// would be skipped again.
const COMMENTS_MAX: usize = 64;
/// How far the end of one is looked for: one that is never closed is looked through for each name in it.
const COMMENT_BYTES_MAX: usize = 4 << 10;

/// Finds the value of `name`, which ends at `end`.
pub(super) fn after(text: &str, name: &str, end: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = end;
    // The name itself may be quoted, and the quote be escaped.
    let closing = at + count(text, at, |b| b == b'\\');
    let quoted_name = matches!(bytes.get(closing), Some(b'"' | b'\''));
    if quoted_name {
        at = closing + 1;
    }
    let before = skip(text, at);
    let separator = separator(text, before, quoted_name);
    let start = skip(text, before + separator);
    let is_option = name.starts_with('-') && start > before.min(end);
    let listed = text.get(before..).is_some_and(|rest| rest.starts_with(','));
    // Looked at first: it is cheap, and finding the end of what does not count need not be.
    if is_path_of(name, text.get(start..)?) {
        return None;
    }
    match literal(text, start) {
        Some((start, end)) => Some((start, joined(text, end))),
        // The next item of a list, which is no value.
        None if listed => None,
        // A scheme and what it takes.
        None if separator > 0 && name.to_ascii_lowercase().ends_with("authorization") => {
            Some((start, text.get(start..)?.find('\n').map_or(text.len(), |line| start + line)))
        }
        None if separator > 0 || (is_option && start > end) => Some((start, bare(text, start))),
        None => None,
    }
}

/// The name of a file with a secret is none.
fn is_path_of(name: &str, value: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let ends = name.ends_with("file") && !name.ends_with("passfile");
    let value = value.trim_start_matches('\\');
    ends && ["/", "\"/", "'/", "Some(", "None"].iter().any(|begin| value.starts_with(begin))
}

/// Returns the length of what separates a name from its value.
fn separator(text: &str, at: usize, quoted_name: bool) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    for mark in ["=>", ":=", "==", "=", ":"] {
        if rest.starts_with(mark) {
            return mark.len();
        }
    }
    if quoted_name && rest.starts_with(',') {
        return 1;
    }
    let word = rest.get(..2).unwrap_or_default();
    let ends = rest.get(2..).is_some_and(|rest| rest.starts_with(char::is_whitespace));
    if word.eq_ignore_ascii_case("to") && ends { 2 } else { 0 }
}

/// Skips what may stand between words: white space, also escaped, and comments of SQL.
fn skip(text: &str, mut at: usize) -> usize {
    let bytes = text.as_bytes();
    let end = limit(text, at);
    let mut comments = 0;
    loop {
        if at >= end || comments > COMMENTS_MAX {
            return at;
        }
        let rest = bytes.get(at..).unwrap_or_default();
        at += match rest {
            [b' ' | b'\t' | b'\n' | b'\r', ..] => 1,
            [b'\\', b'n' | b't' | b'r', ..] => 2,
            [b'/', b'*', ..] => match comment_end(text, at + 2, "*/") {
                Some(end) => {
                    comments += 1;
                    end + 2 - at
                }
                None => return at,
            },
            [b'-', b'-', ..] => match comment_end(text, at + 2, "\n") {
                Some(end) => {
                    comments += 1;
                    end + 1 - at
                }
                None => return at,
            },
            _ => return at,
        };
    }
}

/// Finds what stands in quotes, of whatever kind, or in brackets.
fn literal(text: &str, start: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    let mut at = start;
    for prefix in ["u&'", "e'", "b'", "n'"] {
        if text.get(at..at + prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix)) {
            at += prefix.len() - 1;
            break;
        }
    }
    let escapes = count(text, at, |b| b == b'\\');
    match bytes.get(at + escapes)? {
        quote @ (b'\'' | b'"' | b'`') => {
            if let Some(end) = doubled(text, at + escapes, *quote) {
                return Some((start, end));
            }
            let mut end = closed(text, at + escapes + 1, *quote, escapes);
            // SQL joins strings that follow each other.
            while *quote == b'\'' && end < text.len() {
                let next = skip(text, end);
                if next == end || bytes.get(next) != Some(&b'\'') {
                    break;
                }
                end = closed(text, next + 1, b'\'', 0);
            }
            Some((start, end))
        }
        b'$' if escapes == 0 => {
            let tag = 1 + count(text, at + 1, |b| b.is_ascii_alphanumeric() || b == b'_');
            if bytes.get(at + tag) != Some(&b'$') {
                return None;
            }
            let mark = text.get(at..=at + tag)?;
            let end = find(text, at + mark.len(), mark).map(|end| end + mark.len());
            Some((start, end.unwrap_or_else(|| limit(text, at))))
        }
        b'{' | b'[' | b'(' if escapes == 0 => Some((start, bracketed(text, at))),
        b'S' if text.get(at..).is_some_and(|rest| rest.starts_with("Some(")) => {
            Some((start, bracketed(text, at + 4)))
        }
        _ => None,
    }
}

/// Returns where the quote is closed that was opened before `from` behind so many backslashes. A quote behind
/// other ones, or a doubled one, does not close it.
fn closed(text: &str, from: usize, quote: u8, escapes: usize) -> usize {
    let end = limit(text, from);
    let mut at = from;
    while at < end {
        let before = count(text, at, |b| b == b'\\');
        at += before;
        let quotes = count(text, at, |b| b == quote);
        if quotes == 0 {
            at += 1;
        } else if before == escapes && quotes % 2 == 1 {
            return at + quotes;
        } else {
            at += quotes;
        }
    }
    end.max(at)
}

/// Returns where a value ends whose quotes are doubled, since it stands within other quotes; none if they are
/// not, such as those of an empty text.
fn doubled(text: &str, from: usize, quote: u8) -> Option<usize> {
    let run = |at: usize| count(text, at, |b| b == quote);
    if run(from) != 2 {
        return None;
    }
    let end = limit(text, from);
    let mut at = from + 2;
    while at < end && text.as_bytes().get(at) != Some(&b'\n') {
        let before = count(text, at, |b| b == b'\\');
        at += before;
        let quotes = run(at);
        at += quotes.max(1);
        // Four stand for one within the value, and more than two end what is around it too.
        if before == 0 && matches!(quotes % 4, 2 | 3) {
            return Some(at);
        }
    }
    None
}

/// Returns where what begins with a bracket ends: with as many closing ones, beside those in quotes.
fn bracketed(text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    let end = limit(text, from);
    let (mut at, mut depth) = (from, 0_usize);
    while at < end {
        let escapes = count(text, at, |b| b == b'\\');
        at += escapes;
        match bytes.get(at) {
            Some(b'{' | b'[' | b'(') => depth += 1,
            Some(b'}' | b']' | b')') => depth = depth.saturating_sub(1),
            Some(quote @ (b'\'' | b'"')) => {
                at = closed(text, at + 1, *quote, escapes);
                continue;
            }
            Some(_) => {}
            None => return end,
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
    at
}

/// Returns where a value ends whose quotes were closed at `end`: a shell joins what follows without a gap.
fn joined(text: &str, end: usize) -> usize {
    let rest = text.get(end..).unwrap_or_default();
    let goes_on = |c: char| c.is_alphanumeric() || "'\"`$_%\\".contains(c);
    let escaped = ["\\n", "\\t", "\\r"].iter().any(|space| rest.starts_with(space));
    if rest.starts_with(goes_on) && !escaped { bare(text, end) } else { end }
}

/// Returns where a value without quotes ends: at white space that is not escaped.
fn bare(text: &str, start: usize) -> usize {
    let mut escaped = false;
    for (offset, c) in text.get(start..).unwrap_or_default().char_indices() {
        if c.is_whitespace() && !escaped {
            return start + offset;
        }
        escaped = c == '\\';
    }
    text.len()
}

fn count(text: &str, at: usize, is: impl Fn(u8) -> bool) -> usize {
    text.as_bytes().iter().skip(at).take_while(|b| is(**b)).count()
}

fn comment_end(text: &str, from: usize, mark: &str) -> Option<usize> {
    let rest = text.get(from..)?;
    rest.get(..up_to(rest, COMMENT_BYTES_MAX))?.find(mark).map(|found| from + found)
}

fn find(text: &str, from: usize, what: &str) -> Option<usize> {
    text.get(from..limit(text, from))?.find(what).map(|found| from + found)
}

/// Returns the end of what is looked through.
fn limit(text: &str, from: usize) -> usize {
    from + text.get(from..).map_or(0, |rest| up_to(rest, BYTES_MAX))
}

/// Returns how much of a text is at most `bytes` long, in whole characters, rounded up.
pub(super) fn up_to(text: &str, bytes: usize) -> usize {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    end
}
