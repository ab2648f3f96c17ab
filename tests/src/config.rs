//! An agent's configuration as a test writes it: dotted keys and TOML values.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Keys and values of one `agent.toml`.
#[derive(Debug, Clone, Default)]
pub struct Config(BTreeMap<String, String>);

impl Config {
    /// Sets a key to a TOML value, such as `true`, `5` or `"a text"`.
    pub fn set(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.0.insert(key.to_owned(), value.into());
        self
    }

    /// Sets a key to a text.
    pub fn text(&mut self, key: &str, text: impl std::fmt::Display) -> &mut Self {
        self.set(key, format!("\"{text}\""))
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &str) -> &mut Self {
        self.0.remove(key);
        self
    }

    /// Takes out every key that begins so.
    pub fn remove_all(&mut self, prefix: &str) -> &mut Self {
        self.0.retain(|key, _| !key.starts_with(prefix));
        self
    }

    /// Returns a text without its quotes.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| value.trim_matches('"'))
    }

    /// Returns the file's text.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.0 {
            writeln!(text, "{key} = {value}").expect("writing to a String cannot fail");
        }
        text
    }
}
