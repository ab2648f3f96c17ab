//! `summary.json`: a [`Diverged`] in the same JSON that its `serde` derive gives.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

use ha_core::{Lsn, TimelineId, WalPosition};

use crate::diverged::{Diverged, DivergedTransaction};

/// Nothing of ours is nested more deeply.
const DEPTH_MAX: u32 = 8;

/// Returns the JSON text.
pub(crate) fn to_json(kept: &Diverged) -> String {
    let Diverged { fork, end, bytes, copied_bytes, transactions_total, truncated, .. } = kept;
    let transactions: Vec<String> = kept.transactions.iter().map(transaction).collect();
    format!(
        "{{\"fork\":{},\"end\":{},\"bytes\":{bytes},\"copied_bytes\":{copied_bytes},\n\
         \"transactions\":[{}],\n\"transactions_total\":{transactions_total},\
         \"truncated\":{truncated},\"note\":{}}}\n",
        position(*fork),
        position(*end),
        transactions.join(",\n "),
        kept.note.as_deref().map_or_else(|| "null".to_owned(), quoted),
    )
}

fn transaction(one: &DivergedTransaction) -> String {
    let relations: Vec<String> = one.relations.iter().map(|name| quoted(name)).collect();
    format!(
        "{{\"xid\":{},\"commit_lsn\":{},\"committed_at\":{},\"relations\":[{}],\"records\":{}}}",
        one.xid,
        one.commit_lsn.0,
        quoted(&one.committed_at),
        relations.join(","),
        one.records
    )
}

fn position(position: WalPosition) -> String {
    format!("{{\"timeline\":{},\"lsn\":{}}}", position.timeline, position.lsn.0)
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("writing to a String cannot fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Reads the JSON text; the error says what is wrong with it.
pub(crate) fn from_json(text: &str) -> Result<Diverged, String> {
    let mut text = Text(text.chars().peekable());
    let value = text.value(DEPTH_MAX)?;
    text.skip_space();
    if text.0.next().is_some() {
        return Err("there is something after the end".to_owned());
    }
    let fields = value.map()?;
    Ok(Diverged {
        fork: fields.get("fork").to_position()?,
        end: fields.get("end").to_position()?,
        bytes: fields.get("bytes").number()?,
        copied_bytes: fields.get("copied_bytes").number()?,
        transactions: fields
            .get("transactions")
            .list()?
            .iter()
            .map(Value::to_transaction)
            .collect::<Result<_, _>>()?,
        transactions_total: fields.get("transactions_total").number()?,
        truncated: matches!(fields.get("truncated"), Value::Flag(true)),
        note: match fields.get("note") {
            Value::Null => None,
            note => Some(note.text()?),
        },
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Value {
    Null,
    Flag(bool),
    Number(u64),
    Text(String),
    List(Vec<Self>),
    Map(Fields),
}

#[derive(Debug, PartialEq, Eq)]
struct Fields(BTreeMap<String, Value>);

impl Fields {
    /// Returns a field; one that is not there is null.
    fn get(&self, name: &str) -> &Value {
        self.0.get(name).unwrap_or(&Value::Null)
    }
}

impl Value {
    fn number(&self) -> Result<u64, String> {
        if let Self::Number(number) = self { Ok(*number) } else { Err("no number".to_owned()) }
    }

    fn text(&self) -> Result<String, String> {
        if let Self::Text(text) = self { Ok(text.clone()) } else { Err("no text".to_owned()) }
    }

    fn list(&self) -> Result<&[Self], String> {
        if let Self::List(list) = self { Ok(list) } else { Err("no list".to_owned()) }
    }

    fn map(&self) -> Result<&Fields, String> {
        if let Self::Map(fields) = self { Ok(fields) } else { Err("no object".to_owned()) }
    }

    fn to_position(&self) -> Result<WalPosition, String> {
        let fields = self.map()?;
        let timeline = u32::try_from(fields.get("timeline").number()?);
        let timeline = TimelineId(timeline.map_err(|_| "no timeline".to_owned())?);
        Ok(WalPosition { timeline, lsn: Lsn(fields.get("lsn").number()?) })
    }

    fn to_transaction(&self) -> Result<DivergedTransaction, String> {
        let fields = self.map()?;
        let relations = fields.get("relations").list()?.iter().map(Self::text);
        Ok(DivergedTransaction {
            xid: fields.get("xid").number()?,
            commit_lsn: Lsn(fields.get("commit_lsn").number()?),
            committed_at: fields.get("committed_at").text()?,
            relations: relations.collect::<Result<_, _>>()?,
            records: fields.get("records").number()?,
        })
    }
}

struct Text<'a>(Peekable<Chars<'a>>);

impl Text<'_> {
    fn skip_space(&mut self) {
        while self.0.next_if(|c| matches!(c, ' ' | '\t' | '\n' | '\r')).is_some() {}
    }

    /// Takes the character if it comes next, after white space.
    fn takes(&mut self, wanted: char) -> bool {
        self.skip_space();
        self.0.next_if_eq(&wanted).is_some()
    }

    fn expect(&mut self, wanted: char) -> Result<(), String> {
        if self.takes(wanted) { Ok(()) } else { Err(format!("expected {wanted:?}")) }
    }

    fn value(&mut self, depth: u32) -> Result<Value, String> {
        let depth = depth.checked_sub(1).ok_or("nested too deeply")?;
        self.skip_space();
        match self.0.peek() {
            Some('{') => self.fields(depth),
            Some('[') => self.list(depth),
            Some('"') => self.text().map(Value::Text),
            _ => self.word(),
        }
    }

    fn fields(&mut self, depth: u32) -> Result<Value, String> {
        self.expect('{')?;
        let mut fields = BTreeMap::new();
        if self.takes('}') {
            return Ok(Value::Map(Fields(fields)));
        }
        loop {
            self.skip_space();
            let name = self.text()?;
            self.expect(':')?;
            fields.insert(name, self.value(depth)?);
            if !self.takes(',') {
                self.expect('}')?;
                return Ok(Value::Map(Fields(fields)));
            }
        }
    }

    fn list(&mut self, depth: u32) -> Result<Value, String> {
        self.expect('[')?;
        let mut list = Vec::new();
        if self.takes(']') {
            return Ok(Value::List(list));
        }
        loop {
            list.push(self.value(depth)?);
            if !self.takes(',') {
                self.expect(']')?;
                return Ok(Value::List(list));
            }
        }
    }

    fn text(&mut self) -> Result<String, String> {
        let cut = || "a text that does not end".to_owned();
        self.expect('"')?;
        let mut out = String::new();
        loop {
            match self.0.next().ok_or_else(cut)? {
                '"' => return Ok(out),
                '\\' => out.push(match self.0.next().ok_or_else(cut)? {
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => {
                        let digits: String = self.0.by_ref().take(4).collect();
                        let code = u32::from_str_radix(&digits, 16).ok();
                        code.and_then(char::from_u32).ok_or("an unknown character")?
                    }
                    c => c,
                }),
                c => out.push(c),
            }
        }
    }

    fn word(&mut self) -> Result<Value, String> {
        let mut word = String::new();
        while let Some(c) = self.0.next_if(char::is_ascii_alphanumeric) {
            word.push(c);
        }
        match word.as_str() {
            "null" => Ok(Value::Null),
            "true" => Ok(Value::Flag(true)),
            "false" => Ok(Value::Flag(false)),
            word => word.parse().map(Value::Number).map_err(|_| format!("unknown word {word:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Diverged {
        let position =
            |timeline, lsn| WalPosition { timeline: TimelineId(timeline), lsn: Lsn(lsn) };
        let transaction = |xid| DivergedTransaction {
            xid,
            commit_lsn: Lsn(u64::MAX),
            committed_at: "2026-01-31 12:00:00.123456 UTC".to_owned(),
            relations: vec!["1663/5/16384".to_owned(), "catalog".to_owned()],
            records: 3,
        };
        Diverged {
            fork: position(1, 0x0500_0000),
            end: position(u32::MAX, 0x0500_0100),
            bytes: 0x100,
            copied_bytes: 16 << 20,
            transactions: vec![transaction(735), transaction(736)],
            transactions_total: 2,
            truncated: true,
            note: Some("a \"quoted\" \\ text\nof two lines é \u{1}".to_owned()),
        }
    }

    #[test]
    fn a_summary_survives_being_written_and_read() {
        let whole = kept();
        assert_eq!(from_json(&to_json(&whole)), Ok(whole.clone()));
        let empty = Diverged { transactions: Vec::new(), note: None, truncated: false, ..whole };
        assert_eq!(from_json(&to_json(&empty)), Ok(empty));
    }

    #[test]
    fn the_names_are_those_of_the_types() {
        let text = to_json(&kept());
        let begin = "{\"fork\":{\"timeline\":1,\"lsn\":83886080},\"end\":{\"timeline\":4294967295,";
        assert!(text.starts_with(begin), "{text}");
        assert!(text.contains("\"commit_lsn\":18446744073709551615,\"committed_at\":\"2026-01-31"));
    }

    #[test]
    fn a_summary_that_is_cut_short_or_changed_is_an_error_and_never_a_panic() {
        let text = to_json(&kept());
        for (at, _) in text.trim_end().char_indices() {
            assert!(from_json(&text[..at]).is_err(), "{at}");
            let mut other = text.clone().into_bytes();
            other[at] ^= 0x15;
            drop(from_json(&String::from_utf8_lossy(&other)));
        }
        let deep = "[".repeat(100_000);
        assert_eq!(from_json(&deep), Err("nested too deeply".to_owned()));
        assert!(from_json("{}").is_err());
    }
}
