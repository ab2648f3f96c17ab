//! The name server that an engine asks for what it does not know itself.
//!
//! The name of a container that is down is such a name. Most machines have a server that answers at once that there
//! is none; in a network of a run's own there would be nobody, and whoever asks waits for ten seconds.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::{Harness, Trying as _};

const PORT: u16 = 53;
/// How often it is looked whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The length of what every message begins with.
const HEAD: usize = 12;

/// Whether names that the engine does not know are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Names {
    /// At once: there is no such name.
    Answered,
    /// Never, as on a machine whose name server is out of reach.
    Unanswered,
}

/// The server. It ends when dropped.
#[derive(Debug)]
pub struct Resolver {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    /// Starts it, in the network of this thread.
    ///
    /// # Errors
    /// If somebody has the port.
    pub fn start() -> Result<Self, Harness> {
        let socket = UdpSocket::bind(("0.0.0.0", PORT)).trying(|| "answer for names".to_owned())?;
        let limited = socket.set_read_timeout(Some(LOOK_EVERY));
        limited.trying(|| "answer for names".to_owned())?;
        let ended = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !seen.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut buffer)
                    && let Some(answer) = buffer.get(..length).and_then(no_such_name)
                {
                    // Whoever asked and is gone needs no answer.
                    drop(socket.send_to(&answer, from));
                }
            }
        });
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // One that panicked has ended, too.
            drop(thread.join());
        }
    }
}

/// Returns the answer to a question: it, with the bits of an answer and the code for a name that is not there.
///
/// # Sources
/// RFC 1035, 4.1.1.
fn no_such_name(question: &[u8]) -> Option<Vec<u8>> {
    let is_question = question.len() > HEAD && question.get(2)? & 0x80 == 0;
    let mut answer = is_question.then(|| question.to_vec())?;
    *answer.get_mut(2)? |= 0x80;
    *answer.get_mut(3)? = 0x83;
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_is_answered_by_that_there_is_no_such_name() {
        let question = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2, b'n', b'1', 0, 0, 1, 0, 1];
        let answer = no_such_name(&question).unwrap();
        assert_eq!(answer.get(..4).unwrap(), [7, 9, 0x81, 0x83]);
        assert_eq!(answer.get(4..), question.get(4..));
        assert_eq!(no_such_name(&answer), None, "an answer is no question");
        assert_eq!(no_such_name(&question[..5]), None);
    }
}
