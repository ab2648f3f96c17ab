//! Signals that the agent cannot send itself: its server is in a container, in a process namespace of
//! its own. The guard is there, and sends them.

use super::{Fields, ParseError, Text, invalid};
use crate::boot::BootId;

/// Name of the request inside the shared directory.
pub const SIGNAL_FILE: &str = "signal";
/// Name of the guard's answer.
pub const SIGNALLED_FILE: &str = "signal.done";

const SIGNAL_HEADER: &str = "haclt signal 1";
const SIGNALLED_HEADER: &str = "haclt signalled 1";

/// A signal for a process of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerSignal {
    /// SIGHUP: read the configuration again.
    Hup,
    /// SIGTERM: end.
    Term,
    /// SIGCONT: go on if stopped.
    Cont,
    /// SIGKILL: what a crash looks like.
    Kill,
}

impl ServerSignal {
    const ALL: [(Self, &'static str); 4] =
        [(Self::Hup, "hup"), (Self::Term, "term"), (Self::Cont, "cont"), (Self::Kill, "kill")];

    fn name(self) -> &'static str {
        Self::ALL.iter().find(|(signal, _)| *signal == self).map_or("", |(_, name)| name)
    }
}

/// Asks the guard to signal one process. Each number is answered once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalRequest {
    /// The boot it is meant for.
    pub boot: BootId,
    /// Names the request.
    pub number: u64,
    /// The process, as the guard and the server count.
    pub pid: i32,
    /// What is sent, in this order.
    pub signals: Vec<ServerSignal>,
}

/// The guard's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signalled {
    /// The boot it was written in.
    pub boot: BootId,
    /// The request that it answers.
    pub number: u64,
    /// Whether the process was one of the server, and was signalled.
    pub done: bool,
}

impl SignalRequest {
    /// Returns the file's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = Text::new(SIGNAL_HEADER);
        text.field("boot", self.boot);
        text.field("number", self.number);
        text.field("pid", self.pid);
        let names: Vec<&str> = self.signals.iter().map(|signal| signal.name()).collect();
        text.field("signals", names.join(","));
        text.seal()
    }

    /// Reads a request. Whether it is of this boot is for the caller to check.
    ///
    /// # Errors
    /// [`ParseError`] if the text is not a whole, undamaged request of this version.
    pub fn decode(text: &str) -> Result<Self, ParseError> {
        let fields = Fields::open(text, SIGNAL_HEADER)?;
        let signal = |word: &str| {
            let known = ServerSignal::ALL.iter().find(|(_, name)| *name == word);
            known.map(|(signal, _)| *signal).ok_or_else(|| invalid("signals", word))
        };
        Ok(Self {
            boot: fields.parsed("boot")?,
            number: fields.parsed("number")?,
            pid: fields.parsed("pid")?,
            signals: fields.text("signals")?.split(',').map(signal).collect::<Result<_, _>>()?,
        })
    }
}

impl Signalled {
    /// Returns the file's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = Text::new(SIGNALLED_HEADER);
        text.field("boot", self.boot);
        text.field("number", self.number);
        text.field("done", self.done);
        text.seal()
    }

    /// Reads an answer. Whether it is of this boot is for the caller to check.
    ///
    /// # Errors
    /// [`ParseError`] if the text is not a whole, undamaged answer of this version.
    pub fn decode(text: &str) -> Result<Self, ParseError> {
        let fields = Fields::open(text, SIGNALLED_HEADER)?;
        Ok(Self {
            boot: fields.parsed("boot")?,
            number: fields.parsed("number")?,
            done: fields.parsed("done")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_survive_being_written_and_read_and_no_damage() {
        let signals = vec![ServerSignal::Term, ServerSignal::Cont, ServerSignal::Kill];
        let request = SignalRequest { boot: BootId(7), number: 9, pid: 12, signals };
        assert_eq!(SignalRequest::decode(&request.encode()), Ok(request.clone()));
        let answer = Signalled { boot: BootId(7), number: 9, done: true };
        assert_eq!(Signalled::decode(&answer.encode()), Ok(answer));
        assert!(Signalled::decode(&request.encode()).is_err());
        for text in [request.encode(), answer.encode()] {
            for at in 0..text.len() {
                let mut bytes = text.clone().into_bytes();
                bytes[at] ^= 1;
                let damaged = String::from_utf8_lossy(&bytes).into_owned();
                assert!(SignalRequest::decode(&damaged).is_err(), "{damaged}");
                assert!(Signalled::decode(&damaged).is_err(), "{damaged}");
                assert!(SignalRequest::decode(&text[..at]).is_err(), "{at}");
            }
        }
    }
}
