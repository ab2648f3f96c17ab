//! The part of EDN (github.com/edn-format/edn) that histories need, so that Jepsen's own tools, such
//! as elle-cli, can read them.

use std::fmt::{self, Write as _};

use super::form::{Form, FormError};

/// How deep forms may be nested; a history needs five levels.
const DEPTH_MAX: u32 = 32;

impl Form {
    /// Writes it as EDN on one line.
    #[must_use]
    pub fn edn(&self) -> Edn<'_> {
        Edn(self)
    }

    /// Reads one form of EDN.
    ///
    /// # Errors
    /// If it is none, if more follows, or if it has what no history has, such as a fraction.
    pub fn from_edn(text: &str) -> Result<Self, FormError> {
        let mut reader = Reader { text, at: 0 };
        let form = reader.form(0)?;
        reader.blank();
        if reader.at == text.len() { Ok(form) } else { Err(reader.wrong("one form")) }
    }
}

/// Shows data as EDN.
#[derive(Debug, Clone, Copy)]
pub struct Edn<'a>(&'a Form);

impl fmt::Display for Edn<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Form::Nil => f.write_str("nil"),
            Form::Bool(bool) => write!(f, "{bool}"),
            // What does not fit a long must say that it is a big number.
            Form::Int(number) if i64::try_from(*number).is_err() => write!(f, "{number}N"),
            Form::Int(number) => write!(f, "{number}"),
            Form::Text(text) => quote(f, text),
            Form::Word(word) => write!(f, ":{word}"),
            Form::List(list) => {
                f.write_str("[")?;
                for (place, item) in list.iter().enumerate() {
                    write!(f, "{}{}", if place == 0 { "" } else { " " }, Edn(item))?;
                }
                f.write_str("]")
            }
            Form::Map(entries) => {
                f.write_str("{")?;
                for (place, (key, value)) in entries.iter().enumerate() {
                    let comma = if place == 0 { "" } else { ", " };
                    write!(f, "{comma}{} {}", Edn(key), Edn(value))?;
                }
                f.write_str("}")
            }
        }
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_str("\"")
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn wrong(&self, wanted: &str) -> FormError {
        FormError(format!("expected {wanted} at byte {} of the EDN", self.at))
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    /// Passes over what separates forms: a comma is blank in EDN.
    fn blank(&mut self) {
        while self.peek().is_some_and(|c| c.is_whitespace() || c == ',') {
            self.take();
        }
    }

    fn form(&mut self, depth: u32) -> Result<Form, FormError> {
        if depth > DEPTH_MAX {
            return Err(self.wrong("less nesting"));
        }
        self.blank();
        match self.peek().ok_or_else(|| self.wrong("a form"))? {
            '"' => self.quoted(),
            '[' => {
                self.take();
                Ok(Form::List(self.until(']', depth)?))
            }
            '(' => {
                self.take();
                Ok(Form::List(self.until(')', depth)?))
            }
            '{' => {
                self.take();
                self.map(depth)
            }
            _ => self.bare(),
        }
    }

    fn until(&mut self, close: char, depth: u32) -> Result<Vec<Form>, FormError> {
        let mut forms = Vec::new();
        loop {
            self.blank();
            if self.peek() == Some(close) {
                self.take();
                return Ok(forms);
            }
            forms.push(self.form(depth + 1)?);
        }
    }

    fn map(&mut self, depth: u32) -> Result<Form, FormError> {
        let flat = self.until('}', depth)?;
        if flat.len() % 2 == 1 {
            return Err(self.wrong("a value for each key"));
        }
        let mut entries = Vec::with_capacity(flat.len() / 2);
        let mut flat = flat.into_iter();
        while let (Some(key), Some(value)) = (flat.next(), flat.next()) {
            entries.push((key, value));
        }
        Ok(Form::Map(entries))
    }

    fn quoted(&mut self) -> Result<Form, FormError> {
        self.take();
        let mut text = String::new();
        loop {
            let c = match self.take().ok_or_else(|| self.wrong("the end of a text"))? {
                '"' => return Ok(Form::Text(text)),
                '\\' => match self.take() {
                    Some('n') => '\n',
                    Some('r') => '\r',
                    Some('t') => '\t',
                    Some(c @ ('"' | '\\')) => c,
                    Some('u') => self.code()?,
                    _ => return Err(self.wrong("an escape")),
                },
                c => c,
            };
            text.push(c);
        }
    }

    fn code(&mut self) -> Result<char, FormError> {
        let digits = self.text.get(self.at..self.at + 4).unwrap_or_default();
        let code = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32);
        let code = code.ok_or_else(|| self.wrong("four hexadecimal digits"))?;
        self.at += 4;
        Ok(code)
    }

    fn bare(&mut self) -> Result<Form, FormError> {
        let start = self.at;
        while self.peek().is_some_and(|c| !c.is_whitespace() && !"[](){}\",".contains(c)) {
            self.take();
        }
        let word = &self.text[start..self.at];
        if let Some(name) = word.strip_prefix(':').filter(|name| !name.is_empty()) {
            return Ok(Form::word(name));
        }
        match word {
            "nil" => Ok(Form::Nil),
            "true" => Ok(Form::Bool(true)),
            "false" => Ok(Form::Bool(false)),
            number => (number.strip_suffix('N').unwrap_or(number).parse().map(Form::Int))
                .map_err(|_| self.wrong("nil, a bool, a keyword or a whole number")),
        }
    }
}
