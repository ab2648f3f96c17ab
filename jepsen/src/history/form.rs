//! A tree of plain data that both JSON and EDN can be written from and read into.

use std::fmt;

/// A piece of data. What is a keyword in EDN is a text in JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Nothing.
    Nil,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i128),
    /// A text.
    Text(String),
    /// A word out of a closed set.
    Word(String),
    /// Several.
    List(Vec<Form>),
    /// Named ones, in the order in which they are written.
    Map(Vec<(Form, Form)>),
}

/// Why data is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FormError(pub String);

impl Form {
    /// Returns a word.
    #[must_use]
    pub fn word(text: &str) -> Self {
        Self::Word(text.to_owned())
    }

    /// Returns a number.
    pub fn int(number: impl Into<i128>) -> Self {
        Self::Int(number.into())
    }

    /// Returns what is under that word in a map; `Nil` if nothing is.
    #[must_use]
    pub fn get(&self, name: &str) -> &Self {
        let Self::Map(entries) = self else { return &Self::Nil };
        entries.iter().find(|(key, _)| key.as_text() == Some(name)).map_or(&Self::Nil, |(_, v)| v)
    }

    /// Returns the text of a text or word.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Word(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the text of a text or word.
    ///
    /// # Errors
    /// If it is none.
    pub fn text(&self) -> Result<&str, FormError> {
        self.as_text().ok_or_else(|| FormError(format!("not a text: {self:?}")))
    }

    /// Returns the number, in the range of the type that is asked for.
    ///
    /// # Errors
    /// If it is no number, or out of range.
    pub fn number<T: TryFrom<i128>>(&self) -> Result<T, FormError> {
        let wrong = || FormError(format!("not a number in range: {self:?}"));
        match self {
            Self::Int(number) => T::try_from(*number).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }

    /// Returns what is in a list.
    ///
    /// # Errors
    /// If it is none.
    pub fn list(&self) -> Result<&[Self], FormError> {
        match self {
            Self::List(list) => Ok(list),
            _ => Err(FormError(format!("not a list: {self:?}"))),
        }
    }

    /// Returns what the function makes of it; `None` for nil.
    ///
    /// # Errors
    /// Those of the function.
    pub fn optional<'a, T>(
        &'a self,
        read: impl FnOnce(&'a Self) -> Result<T, FormError>,
    ) -> Result<Option<T>, FormError> {
        if matches!(self, Self::Nil) { Ok(None) } else { read(self).map(Some) }
    }

    /// Reads one JSON value.
    ///
    /// # Errors
    /// If it is not JSON, or has a fraction or a number that no history has.
    pub fn from_json(text: &str) -> Result<Self, FormError> {
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|error| FormError(error.to_string()))?;
        Self::from_value(value)
    }

    fn from_value(value: serde_json::Value) -> Result<Self, FormError> {
        use serde_json::Value as Json;
        Ok(match value {
            Json::Null => Self::Nil,
            Json::Bool(bool) => Self::Bool(bool),
            Json::Number(number) => Self::Int(
                (number.as_u64().map(i128::from))
                    .or_else(|| number.as_i64().map(i128::from))
                    .ok_or_else(|| FormError(format!("not a whole number: {number}")))?,
            ),
            Json::String(text) => Self::Text(text),
            Json::Array(list) => {
                Self::List(list.into_iter().map(Self::from_value).collect::<Result<_, _>>()?)
            }
            Json::Object(map) => Self::Map(
                map.into_iter()
                    .map(|(key, value)| Ok((Self::Text(key), Self::from_value(value)?)))
                    .collect::<Result<_, FormError>>()?,
            ),
        })
    }

    /// Writes it as JSON on one line.
    #[must_use]
    pub fn json(&self) -> Json<'_> {
        Json(self)
    }
}

/// Shows data as JSON.
#[derive(Debug, Clone, Copy)]
pub struct Json<'a>(&'a Form);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Form::Nil => f.write_str("null"),
            Form::Bool(bool) => write!(f, "{bool}"),
            Form::Int(number) => write!(f, "{number}"),
            Form::Text(text) | Form::Word(text) => write!(f, "{}", quoted(text)),
            Form::List(list) => {
                f.write_str("[")?;
                for (place, item) in list.iter().enumerate() {
                    write!(f, "{}{}", if place == 0 { "" } else { "," }, Json(item))?;
                }
                f.write_str("]")
            }
            Form::Map(entries) => {
                f.write_str("{")?;
                for (place, (key, value)) in entries.iter().enumerate() {
                    let comma = if place == 0 { "" } else { "," };
                    match key {
                        // A name in JSON is always a text.
                        Form::Int(number) => write!(f, "{comma}\"{number}\":{}", Json(value))?,
                        _ => write!(f, "{comma}{}:{}", Json(key), Json(value))?,
                    }
                }
                f.write_str("}")
            }
        }
    }
}

fn quoted(text: &str) -> serde_json::Value {
    serde_json::Value::String(text.to_owned())
}
