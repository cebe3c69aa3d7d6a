//! One TLS connection without I/O, and the state that all of them share. The only file of the server's TLS that uses rustls: a
//! later version of it has another interface than that of its `unbuffered` module.
//!
//! [`Session::decrypt`], [`Session::encrypt`] and [`Session::close`] are all that a stream needs.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{
    NoServerSessionStorage, ProducesTickets, ServerConfig, ServerConnectionData, UnbufferedServerConnection,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{Error, HandshakeKind, InconsistentKeys, version};

/// The only protocol that a client may name (RFC 7301): its upgrade and its requests are HTTP/1.1.
const PROTOCOL: &[u8] = b"http/1.1";
/// Bytes that a record has more than its contents: at most 37 with the cipher suites of rustls.
const RECORD_OVERHEAD: usize = 64;

/// The certificate and its key, and the key of the tickets with which clients resume sessions.
pub(super) struct Identity {
    config: Arc<ServerConfig>,
    /// The first certificate of the file.
    pub(super) certificate: Vec<u8>,
}

/// Which file cannot be used, and why.
pub(super) enum Refused {
    Certificate(String),
    Key(String),
}

impl Identity {
    /// Reads a certificate with its chain, and its key, both in PEM. Sessions of `previous` can still be resumed.
    pub(super) fn read(certificates: &[u8], key: &[u8], previous: Option<&Identity>) -> Result<Identity, Refused> {
        let refused = |error: &dyn fmt::Display| Refused::Certificate(format!("{error}"));
        let provider = aws_lc_rs::default_provider();
        let chain = read_chain(certificates).map_err(Refused::Certificate)?;
        let key = read_key(key, &provider).map_err(Refused::Key)?;
        let certificate = chain[0].to_vec();
        let certified = CertifiedKey::new(chain, key);
        match certified.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
            Err(Error::InconsistentKeys(_)) => {
                return Err(Refused::Key("it is not the key of the certificate in tls_cert".into()));
            }
            Err(error) => return Err(refused(&error)),
        }
        let config = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])
            .map_err(|error| refused(&error))?;
        let mut config = config.with_no_client_auth().with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Clients keep their sessions themselves, in tickets. Early data could be repeated by an attacker.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.max_early_data_size = 0;
        let kept: Option<Arc<dyn ProducesTickets>> = previous.map(|previous| previous.config.ticketer.clone());
        config.ticketer = match kept {
            Some(ticketer) => ticketer,
            None => aws_lc_rs::Ticketer::new().map_err(|error| refused(&error))?,
        };
        Ok(Identity { config: Arc::new(config), certificate })
    }
}

fn read_chain(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    let chain = chain.map_err(|_| "it is not valid PEM")?;
    if chain.is_empty() {
        return Err("it has no certificate in PEM (-----BEGIN CERTIFICATE-----)".into());
    }
    Ok(chain)
}

fn read_key(text: &[u8], provider: &CryptoProvider) -> Result<Arc<dyn rustls::sign::SigningKey>, String> {
    let key = match PrivateKeyDer::from_pem_slice(text) {
        Ok(key) => key,
        Err(pem::Error::NoItemsFound) if is_encrypted(text) => {
            return Err("the key is encrypted; store it without a passphrase, readable by the server only".into());
        }
        Err(pem::Error::NoItemsFound) => {
            return Err("it has no private key in PEM (-----BEGIN PRIVATE KEY-----)".into());
        }
        // The texts of these errors may quote a part of the file.
        Err(_) => return Err("it is not valid PEM".into()),
    };
    let key = provider.key_provider.load_private_key(key);
    key.map_err(|_| "the key must be of ECDSA (P-256, P-384 or P-521), RSA (2048 to 8192 bits) or Ed25519".into())
}

fn is_encrypted(text: &[u8]) -> bool {
    str::from_utf8(text).is_ok_and(|text| text.contains("ENCRYPTED"))
}

/// One TLS connection.
pub(super) struct Session(UnbufferedServerConnection);

/// Result of [`Session::decrypt`].
pub(super) struct Decrypted {
    /// Bytes of the records that are done with.
    pub(super) consumed: usize,
    /// Bytes of plaintext.
    pub(super) plaintext: usize,
    /// Records with plaintext.
    pub(super) data_records: usize,
    pub(super) end: Option<End>,
}

/// Why nothing more is decrypted.
pub(super) enum End {
    /// The peer has said that it sends nothing more (`close_notify`).
    Closed,
    /// The peer has broken the protocol. An alert is to be sent.
    Failed(String),
}

/// The connection cannot be written to any more.
pub(super) struct Broken;

/// What [`next_step`] has found.
enum Step {
    /// Nothing more can be done with these records.
    Idle,
    Again,
    End(End),
}

impl Session {
    pub(super) fn new(identity: &Identity) -> Result<Session, String> {
        UnbufferedServerConnection::new(identity.config.clone()).map(Session).map_err(|error| error.to_string())
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Whether the client has resumed an earlier session. False before the handshake is over.
    pub(super) fn is_resumed(&self) -> bool {
        self.0.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// Decrypts `records`, which must begin with the bytes that were not consumed before, and continues the handshake.
    /// `plaintext` is as long as `records`. What is to be sent to the peer is appended to `out`.
    pub(super) fn decrypt(&mut self, records: &mut [u8], plaintext: &mut [u8], out: &mut Vec<u8>) -> Decrypted {
        let mut result = Decrypted { consumed: 0, plaintext: 0, data_records: 0, end: None };
        loop {
            match self.decrypt_next(records, plaintext, out, &mut result) {
                Step::Again => {}
                Step::Idle => return result,
                Step::End(end) => {
                    if let End::Failed(_) = end {
                        self.append_alert(&mut records[result.consumed..], out);
                    }
                    result.end = Some(end);
                    return result;
                }
            }
        }
    }

    fn decrypt_next(
        &mut self,
        records: &mut [u8],
        plaintext: &mut [u8],
        out: &mut Vec<u8>,
        result: &mut Decrypted,
    ) -> Step {
        let UnbufferedStatus { mut discard, state, .. } = self.0.process_tls_records(&mut records[result.consumed..]);
        let step = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
                let record = match traffic.next_record() {
                    None => break Step::Again,
                    Some(Ok(record)) => record,
                    Some(Err(error)) => break Step::End(End::Failed(error.to_string())),
                };
                discard += record.discard;
                let end = result.plaintext + record.payload.len();
                // A record is longer than its contents, so there is room for them.
                let Some(room) = plaintext.get_mut(result.plaintext..end) else {
                    break Step::End(End::Failed("a record is longer than the buffer".into()));
                };
                room.copy_from_slice(record.payload);
                result.data_records += usize::from(!record.payload.is_empty());
                result.plaintext = end;
            },
            Ok(state) => next_step(state, out),
            Err(error) => Step::End(End::Failed(error.to_string())),
        };
        result.consumed += discard;
        step
    }

    /// Encrypts `plaintext` into records of at most 16 KiB, which are appended to `out`. `held` are the bytes of the peer that
    /// were not consumed.
    pub(super) fn encrypt(&mut self, plaintext: &[u8], held: &mut [u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        self.write(held, out, plaintext.len() + RECORD_OVERHEAD, |traffic, room| traffic.encrypt(plaintext, room))
    }

    /// Appends to `out` that nothing more is sent (`close_notify`).
    pub(super) fn close(&mut self, held: &mut [u8], out: &mut Vec<u8>) -> Result<(), Broken> {
        self.write(held, out, RECORD_OVERHEAD, |traffic, room| traffic.queue_close_notify(room))
    }

    fn write(
        &mut self,
        held: &mut [u8],
        out: &mut Vec<u8>,
        room: usize,
        mut encode: impl FnMut(&mut WriteTraffic<'_, ServerConnectionData>, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<(), Broken> {
        loop {
            // An empty slice would be wrong: rustls remembers where in these bytes a message begins.
            let UnbufferedStatus { state, .. } = self.0.process_tls_records(held);
            match state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return append(out, room, |room| encode(&mut traffic, room).map_err(|error| required(&error)));
                }
                // All records that have arrived whole are decrypted already.
                Ok(ConnectionState::ReadTraffic(_) | ConnectionState::Closed) | Err(_) => return Err(Broken),
                Ok(ConnectionState::PeerClosed) => {}
                Ok(state) => match next_step(state, out) {
                    Step::Again => {}
                    Step::Idle | Step::End(_) => return Err(Broken),
                },
            }
        }
    }

    /// Appends the alert that follows a failure. `rest` are the records that were not consumed.
    fn append_alert(&mut self, rest: &mut [u8], out: &mut Vec<u8>) {
        while self.0.wants_write() {
            match self.0.process_tls_records(rest).state {
                Ok(state @ ConnectionState::EncodeTlsData(_)) => drop(next_step(state, out)),
                _ => return,
            }
        }
    }
}

/// Handles a state in which there is no plaintext.
fn next_step(state: ConnectionState<'_, '_, ServerConnectionData>, out: &mut Vec<u8>) -> Step {
    match state {
        ConnectionState::EncodeTlsData(mut data) => {
            let required = |error| match error {
                EncodeError::InsufficientSize(error) => Some(error.required_size),
                EncodeError::AlreadyEncoded => None,
            };
            match append(out, 0, |room| data.encode(room).map_err(required)) {
                Ok(()) => Step::Again,
                Err(Broken) => Step::End(End::Failed("a record cannot be encoded".into())),
            }
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Step::Again
        }
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => Step::Idle,
        ConnectionState::PeerClosed | ConnectionState::Closed => Step::End(End::Closed),
        // Early data is off.
        _ => Step::End(End::Failed("the connection is in an unknown state".into())),
    }
}

/// Returns the bytes of room that a record needs, if that is why it was not written.
fn required(error: &EncryptError) -> Option<usize> {
    match error {
        EncryptError::InsufficientSize(error) => Some(error.required_size),
        EncryptError::EncryptExhausted => None,
    }
}

/// Appends what `encode` writes. It is given `room` bytes, or as many as it asks for then.
fn append(
    out: &mut Vec<u8>,
    mut room: usize,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Broken> {
    let start = out.len();
    for _ in 0..3 {
        out.resize(start + room, 0);
        match encode(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return Ok(());
            }
            Err(Some(required)) if required > room => room = required,
            Err(_) => break,
        }
    }
    out.truncate(start);
    Err(Broken)
}
