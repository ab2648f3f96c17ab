//! The way to another machine's engine: mutual TLS, and no authority but the one that is named.
//!
//! Not the library's own: that also believes every authority of the system, and whoever answers for an
//! engine here can make two primaries.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::engine::LIBRARY_LIMIT;

/// How long making the connection may take, before TLS.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// Where another machine's engine is, and how both sides prove who they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAddress {
    /// `host:port`; the engine's certificate must be for that host.
    pub address: String,
    /// PEM file with the authorities that the engine's certificate may be from.
    pub ca: PathBuf,
    /// PEM file with our certificate, and those that lead to its authority.
    pub cert: PathBuf,
    /// PEM file with its key.
    pub key: PathBuf,
}

impl PeerAddress {
    /// Reads the files and checks that they fit together. Reaches out to nobody.
    ///
    /// # Errors
    /// One line that names the file.
    pub fn check(&self) -> Result<(), String> {
        configuration(self).map(drop)
    }
}

/// Returns a client that connects when it is asked for something. The files are read anew each time.
pub(super) fn connect(peer: &PeerAddress) -> Result<Docker, String> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT_LIMIT));
    let tls = HttpsConnectorBuilder::new().with_tls_config(configuration(peer)?);
    let client = Client::builder(TokioExecutor::new())
        .build(tls.https_only().enable_http1().wrap_connector(tcp));
    let transport = move |request: BollardRequest| {
        let answer = client.request(request);
        async move { answer.await.map_err(bollard::errors::Error::from) }
    };
    let url = format!("https://{}", peer.address);
    Docker::connect_with_custom_transport(transport, Some(url), LIBRARY_LIMIT, API_DEFAULT_VERSION)
        .map_err(|error| error.to_string())
}

fn configuration(peer: &PeerAddress) -> Result<ClientConfig, String> {
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(&peer.ca)? {
        let fault = |error| unusable("authority", &peer.ca, error);
        authorities.add(certificate).map_err(fault)?;
    }
    let key = PrivateKeyDer::from_pem_file(&peer.key)
        .map_err(|error| unusable("key", &peer.key, error))?;
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(authorities)
        .with_client_auth_cert(certificates(&peer.cert)?, key)
        .map_err(|error| unusable("certificate", &peer.cert, error))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<_, _>>)
        .map_err(|error| unusable("certificate", path, error))?;
    if found.is_empty() {
        return Err(unusable("certificate", path, "there is none in it"));
    }
    Ok(found)
}

fn unusable(what: &str, path: &Path, why: impl std::fmt::Display) -> String {
    format!("cannot use {what} {}: {why}", path.display())
}
