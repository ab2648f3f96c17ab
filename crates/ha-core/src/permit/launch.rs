//! What a guard in a container starts: its entrypoint is fixed, so the agent tells it by a file.

use std::time::Duration;

use super::{Fields, ParseError, Text, invalid};
use crate::boot::BootId;
use crate::clock::millis;

/// Name of the launch file inside the shared directory.
pub const LAUNCH_FILE: &str = "launch";

const LAUNCH_HEADER: &str = "haclt launch 1";
/// More arguments than that are damage.
const COMMAND_MAX: usize = 1024;

/// How the next run of `PostgreSQL` is started and guarded.
///
/// It is read at the start of a run and holds to its end: what is written later concerns the next
/// run only, so the margin of a running primary never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The boot it is meant for.
    pub boot: BootId,
    /// How long before the deadline of a right the killing starts. Whole milliseconds.
    pub margin: Duration,
    /// How long a fast stop may take before an immediate one. Whole milliseconds.
    pub fast_stop: Duration,
    /// How long an immediate stop may take before SIGKILL. Whole milliseconds.
    pub immediate_stop: Duration,
    /// The program and its arguments; never empty.
    pub command: Vec<String>,
}

impl Launch {
    /// Returns the file's text: one line an argument.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = Text::new(LAUNCH_HEADER);
        text.field("boot", self.boot);
        text.field("margin_ms", millis(self.margin));
        text.field("fast_stop_ms", millis(self.fast_stop));
        text.field("immediate_stop_ms", millis(self.immediate_stop));
        text.field("words", self.command.len());
        for (number, word) in self.command.iter().enumerate() {
            text.field(&format!("word.{number}"), escaped(word));
        }
        text.seal()
    }

    /// Reads a launch file. Whether it is of this boot is for the caller to check.
    ///
    /// # Errors
    /// [`ParseError`] if the text is not a whole, undamaged launch file of this version.
    pub fn decode(text: &str) -> Result<Self, ParseError> {
        let fields = Fields::open(text, LAUNCH_HEADER)?;
        let span = |name| fields.parsed(name).map(Duration::from_millis);
        let words: usize = fields.parsed("words")?;
        if !(1..=COMMAND_MAX).contains(&words) {
            return Err(invalid("words", &words.to_string()));
        }
        let word = |number: usize| {
            let word = fields.0.get(format!("word.{number}").as_str());
            let word = word.ok_or(ParseError::Missing { name: "word" })?;
            unescaped(word).ok_or_else(|| invalid("word", word))
        };
        Ok(Self {
            boot: fields.parsed("boot")?,
            margin: span("margin_ms")?,
            fast_stop: span("fast_stop_ms")?,
            immediate_stop: span("immediate_stop_ms")?,
            command: (0..words).map(word).collect::<Result<_, _>>()?,
        })
    }
}

/// Keeps a word on its line.
fn escaped(word: &str) -> String {
    word.replace('\\', "\\\\").replace('\n', "\\n").replace('\r', "\\r")
}

fn unescaped(word: &str) -> Option<String> {
    let mut text = String::with_capacity(word.len());
    let mut chars = word.chars();
    while let Some(c) = chars.next() {
        text.push(match c {
            '\\' => match chars.next()? {
                '\\' => '\\',
                'n' => '\n',
                'r' => '\r',
                _ => return None,
            },
            other => other,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_launch() -> impl Strategy<Value = Launch> {
        let word = "(\\PC|[\\n\\r\\\\ ]){0,20}";
        let spans = (any::<u32>(), any::<u32>(), any::<u32>());
        (any::<u128>(), spans, prop::collection::vec(word, 1..40)).prop_map(
            |(boot, (margin, fast, immediate), command)| {
                let [margin, fast_stop, immediate_stop] =
                    [margin, fast, immediate].map(|ms| Duration::from_millis(ms.into()));
                Launch { boot: BootId(boot), margin, fast_stop, immediate_stop, command }
            },
        )
    }

    proptest! {
        #[test]
        fn a_launch_file_survives_being_written_and_read(launch in any_launch()) {
            prop_assert_eq!(Launch::decode(&launch.encode()), Ok(launch));
        }

        #[test]
        fn a_launch_file_that_is_cut_or_changed_is_refused(
            launch in any_launch(),
            at in any::<prop::sample::Index>(),
            bit in 0_u8..7,
        ) {
            let text = launch.encode();
            let mut bytes = text.clone().into_bytes();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(String::from_utf8(bytes).map_or(true, |t| Launch::decode(&t).is_err()));
            prop_assert!(text.get(..at).is_none_or(|short| Launch::decode(short).is_err()));
        }

        #[test]
        fn input_never_panics(text in "(haclt launch 1\n)?(words [0-9]{1,30}\n)?(.|\n){0,200}") {
            drop(Launch::decode(&text));
        }
    }

    #[test]
    fn a_command_has_a_program() {
        let launch = Launch {
            boot: BootId(1),
            margin: Duration::ZERO,
            fast_stop: Duration::ZERO,
            immediate_stop: Duration::ZERO,
            command: Vec::new(),
        };
        let refused = Launch::decode(&launch.encode());
        assert_eq!(refused, Err(invalid("words", "0")));
    }
}
