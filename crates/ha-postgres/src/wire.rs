//! A small client of PostgreSQL's wire protocol: one connection, simple queries, a deadline on
//! every step.
//!
//! It is our own for two reasons. A standby says which timeline it replays only to a replication
//! connection (`IDENTIFY_SYSTEM`), which `tokio-postgres` cannot open; and a probe must be a new
//! connection with no task in the background, so that dropping it drops everything.
//!
//! # Sources
//! PostgreSQL manual, "Frontend/Backend Protocol": message formats, SASL authentication, streaming
//! replication protocol.

use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use crate::Secret;

/// No answer of ours is longer: history files and lists of standbys are small.
const ANSWER_BYTES_MAX: usize = 16 << 20;
const PROTOCOL_3_0: i32 = 196_608;

/// Why a connection or a query failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WireError {
    /// Nothing listens.
    #[error("connection refused")]
    Refused,
    /// The deadline passed.
    #[error("no answer while {0}")]
    TimedOut(&'static str),
    /// The network or the other side broke the connection.
    #[error("connection lost: {0}")]
    Lost(String),
    /// Its answer made no sense, or it wanted something we do not give (a password in clear).
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// An error message of the server.
    #[error("{message} (SQLSTATE {code})")]
    Server {
        /// SQLSTATE.
        code: String,
        /// The primary message, one line.
        message: String,
    },
}

impl WireError {
    /// Returns the SQLSTATE, if the server answered with an error.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Server { code, .. } => Some(code),
            Self::Refused | Self::TimedOut(_) | Self::Lost(_) | Self::Protocol(_) => None,
        }
    }
}

/// Where to connect, as whom, and with which settings.
#[derive(Debug, Clone)]
pub(crate) struct Login<'a> {
    /// A name, an address, or the directory of a socket, which begins with a slash.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    pub(crate) user: &'a str,
    pub(crate) password: &'a Secret,
    pub(crate) database: &'a str,
    /// Whether an MD5 hash of the password may be sent, beside SCRAM.
    pub(crate) md5: bool,
    /// Further parameters of the startup packet: `replication`, or any setting of the session.
    pub(crate) parameters: Vec<(&'static str, String)>,
}

/// A row of a result: text values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row(Vec<Option<String>>);

impl Row {
    /// Returns a value that may be null.
    pub(crate) fn optional<T: FromStr>(&self, at: usize) -> Result<Option<T>, WireError> {
        let wrong = || WireError::Protocol(format!("column {at} of the answer is unreadable"));
        let value = self.0.get(at).ok_or_else(wrong)?;
        value.as_deref().map(|text| text.parse().map_err(|_| wrong())).transpose()
    }

    /// Returns a value that must not be null.
    pub(crate) fn value<T: FromStr>(&self, at: usize) -> Result<T, WireError> {
        let null = || WireError::Protocol(format!("column {at} of the answer is null"));
        self.optional(at)?.ok_or_else(null)
    }

    /// Returns a boolean; null counts as false.
    pub(crate) fn flag(&self, at: usize) -> Result<bool, WireError> {
        Ok(self.optional::<String>(at)?.is_some_and(|text| text == "t"))
    }
}

/// Returns the socket of a server in a directory.
///
/// # Sources
/// PostgreSQL manual, "Connections and Authentication", `unix_socket_directories`.
pub(crate) fn socket(directory: &Path, port: u16) -> PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

/// What a connection goes over.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    async fn open(host: &str, port: u16) -> io::Result<Self> {
        if host.starts_with('/') {
            return Ok(Self::Unix(UnixStream::connect(socket(Path::new(host), port)).await?));
        }
        let stream = TcpStream::connect((host, port)).await?;
        // Without this a small second message may wait 40 ms for the acknowledgement of the first.
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).await,
            Self::Unix(stream) => stream.write_all(bytes).await,
        }
    }

    async fn read_buf(&mut self, inbox: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read_buf(inbox).await,
            Self::Unix(stream) => stream.read_buf(inbox).await,
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }
}

/// A connection that is authenticated and ready for queries.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream,
    inbox: Vec<u8>,
    during: &'static str,
    /// Whether the server wanted a password.
    asked: bool,
}

impl Connection {
    /// Opens a new connection.
    pub(crate) async fn open(login: &Login<'_>, deadline: Instant) -> Result<Self, WireError> {
        let stream = match timeout_at(deadline, Stream::open(login.host, login.port)).await {
            Err(_) => return Err(WireError::TimedOut("connecting")),
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(WireError::Refused);
            }
            Ok(Err(error)) => return Err(WireError::Lost(error.to_string())),
            Ok(Ok(stream)) => stream,
        };
        let mut connection = Self { stream, inbox: Vec::new(), during: "connecting", asked: false };
        connection.send(&startup(login), deadline).await?;
        connection.authenticate(login, deadline).await?;
        connection.collect(deadline).await?;
        Ok(connection)
    }

    /// Returns whether the server wanted a password before it let us in.
    pub(crate) const fn asked(&self) -> bool {
        self.asked
    }

    /// Runs statements and returns the rows of all of them, in order.
    ///
    /// `during` names the step for the error if there is no answer in time.
    pub(crate) async fn query(
        &mut self,
        sql: &str,
        during: &'static str,
        deadline: Instant,
    ) -> Result<Vec<Row>, WireError> {
        self.during = during;
        self.send(&message(b'Q', &terminated(sql)), deadline).await?;
        self.collect(deadline).await
    }

    /// Runs two commands in one round trip; each is a transaction of its own.
    pub(crate) async fn query_both(
        &mut self,
        first: &str,
        second: &str,
        during: &'static str,
        deadline: Instant,
    ) -> Result<(Vec<Row>, Vec<Row>), WireError> {
        self.during = during;
        let mut both = message(b'Q', &terminated(first));
        both.extend(message(b'Q', &terminated(second)));
        self.send(&both, deadline).await?;
        Ok((self.collect(deadline).await?, self.collect(deadline).await?))
    }

    async fn send(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), WireError> {
        match timeout_at(deadline, self.stream.write_all(bytes)).await {
            Err(_) => Err(WireError::TimedOut(self.during)),
            Ok(Err(error)) => Err(WireError::Lost(error.to_string())),
            Ok(Ok(())) => Ok(()),
        }
    }

    /// Returns the next message: its type and body.
    async fn receive(&mut self, deadline: Instant) -> Result<(u8, Vec<u8>), WireError> {
        loop {
            if let Some(message) = take_message(&mut self.inbox)? {
                return Ok(message);
            }
            match timeout_at(deadline, self.stream.read_buf(&mut self.inbox)).await {
                Err(_) => return Err(WireError::TimedOut(self.during)),
                Ok(Err(error)) => return Err(WireError::Lost(error.to_string())),
                Ok(Ok(0)) => return Err(WireError::Lost("closed by the server".to_owned())),
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Reads answers until the server is ready for the next query.
    async fn collect(&mut self, deadline: Instant) -> Result<Vec<Row>, WireError> {
        let mut rows = Vec::new();
        let mut refused = None;
        loop {
            let (kind, body) = match self.receive(deadline).await {
                Ok(message) => message,
                // After a fatal error the server closes: the error says more than that.
                Err(lost) => return Err(refused.unwrap_or(lost)),
            };
            match kind {
                b'D' => rows.push(data_row(&body)?),
                b'E' => refused = refused.or(Some(server_error(&body))),
                b'Z' => return refused.map_or(Ok(rows), Err),
                _ => {}
            }
        }
    }

    async fn authenticate(
        &mut self,
        login: &Login<'_>,
        deadline: Instant,
    ) -> Result<(), WireError> {
        let password = login.password;
        let protocol = |error: io::Error| WireError::Protocol(error.to_string());
        let mut scram: Option<ScramSha256> = None;
        loop {
            let (kind, body) = self.receive(deadline).await?;
            match (kind, body.first_chunk::<4>().map(|code| i32::from_be_bytes(*code))) {
                (b'E', _) => return Err(server_error(&body)),
                (b'R', Some(0)) => return Ok(()),
                (b'R', Some(5)) if login.md5 => {
                    self.asked = true;
                    let salt = body.get(4..).and_then(|salt| salt.first_chunk::<4>().copied());
                    let salt = salt.ok_or_else(|| {
                        WireError::Protocol("the salt of its MD5 is cut short".to_owned())
                    })?;
                    let (user, secret) = (login.user.as_bytes(), password.expose().as_bytes());
                    let hash = md5_hash(user, secret, salt);
                    self.send(&message(b'p', &terminated(&hash)), deadline).await?;
                }
                (b'R', Some(10)) => {
                    self.asked = true;
                    let offered = String::from_utf8_lossy(body.get(4..).unwrap_or_default());
                    if !offered.split('\0').any(|mechanism| mechanism == SCRAM_SHA_256) {
                        return Err(WireError::Protocol("no SCRAM-SHA-256 offered".to_owned()));
                    }
                    let secret = password.expose().as_bytes();
                    let first = ScramSha256::new(secret, ChannelBinding::unsupported());
                    let bytes = sasl_initial(first.message());
                    scram = Some(first);
                    self.send(&bytes, deadline).await?;
                }
                (b'R', Some(step @ (11 | 12))) => {
                    let said = body.get(4..).unwrap_or_default();
                    let exchange = scram.as_mut().ok_or_else(|| {
                        WireError::Protocol("authentication out of order".to_owned())
                    })?;
                    if step == 12 {
                        exchange.finish(said).map_err(protocol)?;
                        continue;
                    }
                    exchange.update(said).map_err(protocol)?;
                    let bytes = message(b'p', exchange.message());
                    self.send(&bytes, deadline).await?;
                }
                (b'R', _) => {
                    let what = "it asks for an authentication other than SCRAM-SHA-256";
                    return Err(WireError::Protocol(what.to_owned()));
                }
                (b'N' | b'v', _) => {}
                _ => return Err(WireError::Protocol("not a PostgreSQL server".to_owned())),
            }
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Best effort, never waiting: spares the server a "connection reset" in its log.
        let _sent = self.stream.try_write(&message(b'X', &[]));
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(length(body.len()));
    bytes.extend(body);
    bytes
}

/// The length field counts itself.
fn length(body: usize) -> [u8; 4] {
    u32::try_from(body + 4).unwrap_or(u32::MAX).to_be_bytes()
}

fn terminated(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    bytes
}

fn startup(login: &Login<'_>) -> Vec<u8> {
    let mut body = PROTOCOL_3_0.to_be_bytes().to_vec();
    let fixed = [
        ("user", login.user),
        ("database", login.database),
        ("application_name", super::sql::APPLICATION_NAME),
        ("client_encoding", "UTF8"),
    ];
    let more = login.parameters.iter().map(|(name, value)| (*name, value.as_str()));
    for (name, value) in fixed.into_iter().chain(more) {
        body.extend(terminated(name));
        body.extend(terminated(value));
    }
    body.push(0);
    [length(body.len()).to_vec(), body].concat()
}

fn sasl_initial(client_first: &[u8]) -> Vec<u8> {
    let mut body = terminated(SCRAM_SHA_256);
    body.extend(u32::try_from(client_first.len()).unwrap_or(u32::MAX).to_be_bytes());
    body.extend(client_first);
    message(b'p', &body)
}

/// Takes one whole message off the front, if it is there.
fn take_message(inbox: &mut Vec<u8>) -> Result<Option<(u8, Vec<u8>)>, WireError> {
    let Some(&[kind, a, b, c, d]) = inbox.first_chunk::<5>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if !(4..=ANSWER_BYTES_MAX).contains(&length) {
        return Err(WireError::Protocol("not a PostgreSQL server".to_owned()));
    }
    if inbox.len() <= length {
        return Ok(None);
    }
    let rest = inbox.split_off(length + 1);
    let whole = std::mem::replace(inbox, rest);
    Ok(Some((kind, whole.get(5..).unwrap_or_default().to_vec())))
}

fn data_row(body: &[u8]) -> Result<Row, WireError> {
    let cut = || WireError::Protocol("a row is cut short".to_owned());
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(cut)?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        // −1 stands for null.
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            values.push(None);
            rest = after;
            continue;
        };
        let (value, after) = after.split_at_checked(length).ok_or_else(cut)?;
        values.push(Some(String::from_utf8_lossy(value).into_owned()));
        rest = after;
    }
    Ok(Row(values))
}

fn server_error(body: &[u8]) -> WireError {
    let field = |wanted: u8| {
        let mut fields = body.split(|byte| *byte == 0);
        let found = fields.find_map(|field| field.strip_prefix(&[wanted]));
        crate::attempt::one_line(&String::from_utf8_lossy(found.unwrap_or_default()))
    };
    WireError::Server { code: field(b'C'), message: field(b'M') }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_taken_only_when_it_is_whole() {
        let mut inbox = message(b'Z', b"I");
        let last = inbox.pop().unwrap();
        assert_eq!(take_message(&mut inbox), Ok(None));
        inbox.push(last);
        inbox.push(b'E');
        assert_eq!(take_message(&mut inbox), Ok(Some((b'Z', b"I".to_vec()))));
        assert_eq!(inbox, b"E");
    }

    #[test]
    fn a_web_server_is_no_postgresql_server() {
        let mut inbox = b"HTTP/1.1 400 Bad Request\r\n".to_vec();
        assert!(matches!(take_message(&mut inbox), Err(WireError::Protocol(_))));
    }

    #[test]
    fn a_row_that_is_cut_short_is_an_error() {
        let row = [0, 2, 0, 0, 0, 1, b't', 0xff, 0xff, 0xff, 0xff];
        assert_eq!(data_row(&row), Ok(Row(vec![Some("t".to_owned()), None])));
        for cut in 0..row.len() {
            assert!(data_row(row.get(..cut).unwrap()).is_err(), "{cut}");
        }
    }

    #[test]
    fn an_error_of_the_server_is_read_by_its_fields() {
        let body = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0";
        let error = server_error(body);
        assert_eq!(error.code(), Some("57P03"));
        assert!(error.to_string().starts_with("the database system is starting up"), "{error}");
    }
}
