//! Consent to what may lose data: the cluster's name, typed, or `--yes`.

use std::io::Write;

use crate::reply::plain;
use crate::{CliError, Streams};

/// That the user means it: an order that may lose data is not given without one.
#[derive(Debug)]
pub struct Confirmed {
    cluster: Option<String>,
}

impl Confirmed {
    /// Consent given beforehand, by `--yes`, for whichever cluster the agents belong to.
    #[must_use]
    pub fn beforehand() -> Self {
        Self { cluster: None }
    }

    /// Asks for the cluster's name, after saying what may be lost.
    ///
    /// # Errors
    /// [`CliError::NobodyToAsk`] if there is no terminal; [`CliError::NotConfirmed`] if another
    /// name was typed; [`CliError::Input`] if nothing could be read.
    pub fn typed(
        cluster: &str,
        what_may_be_lost: &str,
        streams: &mut Streams<impl Write, impl Write>,
    ) -> Result<Self, CliError> {
        let read = streams.ask.ok_or(CliError::NobodyToAsk)?;
        streams.note(what_may_be_lost);
        streams.prompt(&format!("Type the name of the cluster ({cluster}) to go on: "));
        let typed = read().map_err(CliError::Input)?;
        let typed = plain(&typed);
        if typed == cluster {
            Ok(Self { cluster: Some(typed) })
        } else {
            Err(CliError::NotConfirmed { cluster: cluster.to_owned(), typed })
        }
    }

    /// Returns the cluster that was confirmed; none if any was.
    pub(crate) fn into_cluster(self) -> Option<String> {
        self.cluster
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::ExitCode;

    fn ask(answer: Option<fn() -> io::Result<String>>) -> (Result<Confirmed, CliError>, String) {
        let mut streams = Streams { out: vec![], notes: vec![], terminal: false, ask: answer };
        let outcome = Confirmed::typed("orders", "All of it may be lost.", &mut streams);
        assert!(streams.out.is_empty(), "data only goes there");
        (outcome, String::from_utf8(streams.notes).unwrap())
    }

    #[test]
    fn the_clusters_name_is_consent_to_what_was_said() {
        let (outcome, notes) = ask(Some(|| Ok(" orders\r\n".to_owned())));
        assert_eq!(outcome.unwrap().into_cluster().as_deref(), Some("orders"));
        let expected = "All of it may be lost.\nType the name of the cluster (orders) to go on: ";
        assert_eq!(notes, expected);
        assert_eq!(Confirmed::beforehand().into_cluster(), None);
    }

    #[test]
    fn anything_else_is_none() {
        let answers: [fn() -> io::Result<String>; 5] = [
            || Ok(String::new()),
            || Ok("\n".to_owned()),
            || Ok("yes\n".to_owned()),
            || Ok("Orders\n".to_owned()),
            || Ok("orders payments\n".to_owned()),
        ];
        for answer in answers {
            let error = ask(Some(answer)).0.unwrap_err();
            assert!(matches!(error, CliError::NotConfirmed { .. }), "{error}");
            assert_eq!(error.exit_code(), ExitCode::Failed);
        }
        let error = ask(Some(|| Err(io::ErrorKind::InvalidData.into()))).0.unwrap_err();
        assert!(matches!(error, CliError::Input(_)), "{error}");
        let (outcome, notes) = ask(None);
        let error = outcome.unwrap_err();
        assert!(matches!(error, CliError::NobodyToAsk), "{error}");
        assert_eq!((error.exit_code(), notes.as_str()), (ExitCode::Usage, ""));
    }
}
