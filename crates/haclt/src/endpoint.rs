//! Where agents listen: `HOST:PORT`, one or several.

use std::fmt;
use std::net::Ipv6Addr;

/// The agent on this machine, which is asked if no endpoint is named.
pub const DEFAULT_ENDPOINT: &str = "127.0.0.1:7400";

/// One agent's address for gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name, an IPv4 address, or an IPv6 address in brackets; in lower case.
    host: String,
    port: u16,
}

impl Endpoint {
    /// Returns the address as the URI that gRPC connects to.
    #[must_use]
    pub fn uri(&self) -> String {
        format!("http://{self}")
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A list of endpoints that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseEndpointsError {
    /// One is not an address.
    #[error("invalid endpoint {text:?}: {fault}")]
    Invalid {
        /// The endpoint as it was given.
        text: String,
        /// What is wrong with it.
        fault: Fault,
    },
    /// One is named twice.
    #[error("endpoint {endpoint} is named twice")]
    Duplicate {
        /// The endpoint in question.
        endpoint: Endpoint,
    },
}

/// What is wrong with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing stands there.
    #[error("it is empty")]
    Empty,
    /// It begins like a URL.
    #[error("expected HOST:PORT, not a URL")]
    Url,
    /// The port is missing.
    #[error("it has no port")]
    NoPort,
    /// The port is not a number from 1 to 65535.
    #[error("its port is not a number from 1 to 65535")]
    Port,
    /// The host is missing.
    #[error("it has no host")]
    NoHost,
    /// The host has characters that no host has.
    #[error("its host is neither a name nor an address")]
    Host,
    /// An IPv6 address without brackets: where the port begins is anybody's guess.
    #[error("an IPv6 address is written in brackets, such as [::1]:7400")]
    Brackets,
    /// What stands in brackets is not an IPv6 address.
    #[error("what stands in brackets is not an IPv6 address")]
    Ipv6,
}

/// Returns the endpoints named in `lists`, each of which may hold several, separated by commas.
///
/// # Errors
/// [`ParseEndpointsError`], naming the first endpoint that is invalid or named before.
pub fn parse_endpoints<'a>(
    lists: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Endpoint>, ParseEndpointsError> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for text in lists.into_iter().flat_map(|list| list.split(',')).map(str::trim) {
        let endpoint = parse_endpoint(text)
            .map_err(|fault| ParseEndpointsError::Invalid { text: text.to_owned(), fault })?;
        if endpoints.contains(&endpoint) {
            return Err(ParseEndpointsError::Duplicate { endpoint });
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

fn parse_endpoint(text: &str) -> Result<Endpoint, Fault> {
    if text.is_empty() {
        return Err(Fault::Empty);
    }
    if text.contains("://") {
        return Err(Fault::Url);
    }
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(Fault::Ipv6)?;
        let address: Ipv6Addr = address.parse().map_err(|_| Fault::Ipv6)?;
        (format!("[{address}]"), rest.strip_prefix(':').ok_or(Fault::NoPort)?)
    } else {
        let (host, port) = text.rsplit_once(':').ok_or(Fault::NoPort)?;
        (parse_host(host)?, port)
    };
    Ok(Endpoint { host, port: parse_port(port)? })
}

fn parse_host(host: &str) -> Result<String, Fault> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    if host.is_empty() {
        Err(Fault::NoHost)
    } else if host.contains(':') {
        Err(Fault::Brackets)
    } else if host.len() > 253 || !host.bytes().all(plain) || host.starts_with(['.', '-']) {
        Err(Fault::Host)
    } else {
        Ok(host.to_ascii_lowercase())
    }
}

fn parse_port(port: &str) -> Result<u16, Fault> {
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(Fault::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_and_a_port() {
        #[rustfmt::skip]
        let table = [
            ("127.0.0.1:7400",      Ok("127.0.0.1:7400")),
            ("db-1.example.org:1",  Ok("db-1.example.org:1")),
            ("DB1:65535",           Ok("db1:65535")),
            ("ha_agent:7400",       Ok("ha_agent:7400")),
            (" db1:7400 ",          Ok("db1:7400")),
            ("[::1]:7400",          Ok("[::1]:7400")),
            ("[2001:DB8:0::1]:80",  Ok("[2001:db8::1]:80")),
            ("",                    Err(Fault::Empty)),
            ("  ",                  Err(Fault::Empty)),
            ("http://db1:7400",     Err(Fault::Url)),
            ("db1",                 Err(Fault::NoPort)),
            ("[::1]",               Err(Fault::NoPort)),
            ("[::1]7400",           Err(Fault::NoPort)),
            ("db1:",                Err(Fault::Port)),
            ("db1:0",               Err(Fault::Port)),
            ("db1:+1",              Err(Fault::Port)),
            ("db1:65536",           Err(Fault::Port)),
            ("db1:http",            Err(Fault::Port)),
            ("[::1]:x",             Err(Fault::Port)),
            (":7400",               Err(Fault::NoHost)),
            ("db 1:7400",           Err(Fault::Host)),
            ("user@db1:7400",       Err(Fault::Host)),
            ("db1/x:7400",          Err(Fault::Host)),
            ("-db1:7400",           Err(Fault::Host)),
            ("dü:7400",             Err(Fault::Host)),
            ("\u{1b}[2J:7400",      Err(Fault::Host)),
            ("::1:7400",            Err(Fault::Brackets)),
            ("[db1]:7400",          Err(Fault::Ipv6)),
            ("[::1",                Err(Fault::Ipv6)),
            ("[fe80::1%eth0]:7400", Err(Fault::Ipv6)),
        ];
        for (text, expected) in table {
            let got = parse_endpoints([text]);
            let expected = match expected {
                Ok(shown) => Ok(vec![shown.to_owned()]),
                Err(fault) => {
                    Err(ParseEndpointsError::Invalid { text: text.trim().to_owned(), fault })
                }
            };
            let got = got.map(|all| all.iter().map(ToString::to_string).collect());
            assert_eq!(got, expected, "{text:?}");
        }
    }

    #[test]
    fn a_list_keeps_its_order_and_names_what_is_wrong() {
        let all = parse_endpoints(["b:1, a:1", "[::1]:1"]).unwrap();
        assert_eq!(
            all.iter().map(Endpoint::uri).collect::<Vec<_>>(),
            ["http://b:1", "http://a:1", "http://[::1]:1"]
        );

        #[rustfmt::skip]
        let table = [
            ("a:1,a:1",          "endpoint a:1 is named twice"),
            ("a:1,b:1,A:01",     "endpoint a:1 is named twice"),
            ("[::1]:1,[0::1]:1", "endpoint [::1]:1 is named twice"),
            ("a:1,",             "invalid endpoint \"\": it is empty"),
            ("a:1,b",            "invalid endpoint \"b\": it has no port"),
        ];
        for (list, expected) in table {
            let got = parse_endpoints([list]).unwrap_err();
            assert_eq!(got.to_string(), expected, "{list}");
        }
        assert!(parse_endpoints(["a:1", "a:1"]).is_err());
    }
}
