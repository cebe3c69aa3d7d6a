//! Certificates, keys and addresses that cannot be used.

use std::path::PathBuf;

use lobbyd::Config;
use lobbyd::apps::Verbatim;
use lobbyd::config::ByteSize;
use lobbyd::net::{Server, certificate_warning, check_files};

use super::{TlsClient, bind, file, newest, with_tls};
use crate::common::files::File;

#[track_caller]
fn check_rule(config: Config, expected: &[&str]) {
    let problems = config.check().expect_err("a rule is broken");
    let shown: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(shown, expected);
}

#[test]
fn an_address_with_tls_needs_a_certificate_a_key_and_room_for_a_record() {
    let missing = "must be set, since an address begins with tls:";
    check_rule(
        Config { tls_cert: None, tls_key: None, ..with_tls("first") },
        &[&format!("tls_cert: {missing}"), &format!("tls_key: {missing}")],
    );
    let admin = Some("tls:127.0.0.1:0".parse().expect("an address"));
    check_rule(
        Config { listen: "127.0.0.1:0".parse().expect("an address"), admin, tls_key: None, ..with_tls("first") },
        &[&format!("tls_key: {missing}")],
    );
    check_rule(
        Config { receive_buffer_bytes: ByteSize::kib(19), ..with_tls("first") },
        &["receive_buffer_bytes = 19KiB: must be at least 20KiB while an address begins with tls:, or no record fits"],
    );
    let unused = Config { listen: "127.0.0.1:0".parse().expect("an address"), ..with_tls("first") };
    let unused: Vec<String> = unused.without_effect().iter().map(ToString::to_string).collect();
    let why = "has no effect while listen and admin have no address with tls:";
    assert_eq!(unused, [format!("tls_cert: {why}"), format!("tls_key: {why}")]);
}

/// Checks that neither a start nor `lobbyd check` accepts the files, and that both say why.
#[track_caller]
fn check_refused(tls_cert: PathBuf, tls_key: PathBuf, expected: &str) {
    let config = Config { tls_cert: Some(tls_cert), tls_key: Some(tls_key), ..with_tls("first") };
    let shown: Vec<String> = check_files(&config).iter().map(ToString::to_string).collect();
    assert_eq!(shown, [expected]);
    assert_eq!(certificate_warning(&config), None);
    let error = Server::bind(config, Verbatim::default()).err().expect("it does not start");
    assert_eq!(error.to_string(), expected);
}

#[test]
fn files_that_cannot_be_used_are_named_before_the_start() {
    let (cert, key) = (|| file("first.pem"), || file("first.key"));
    let shown = |path: PathBuf| path.display().to_string();
    let absent = PathBuf::from("/no/such/file.pem");
    check_refused(absent.clone(), key(), "tls_cert = /no/such/file.pem: no such file or directory");
    check_refused(cert(), absent, "tls_key = /no/such/file.pem: no such file or directory");
    check_refused(
        cert(),
        file("second.key"),
        &format!("tls_key = {}: it is not the key of the certificate in tls_cert", shown(file("second.key"))),
    );
    check_refused(
        key(),
        key(),
        &format!("tls_cert = {}: it has no certificate in PEM (-----BEGIN CERTIFICATE-----)", shown(key())),
    );
    check_refused(
        cert(),
        cert(),
        &format!("tls_key = {}: it has no private key in PEM (-----BEGIN PRIVATE KEY-----)", shown(cert())),
    );
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let encrypted = File::new("encrypted.key", encrypted);
    check_refused(
        cert(),
        encrypted.path().into(),
        &format!(
            "tls_key = {}: the key is encrypted; store it without a passphrase, readable by the server only",
            encrypted.path()
        ),
    );
    let broken = File::new("broken.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let config = Config { tls_cert: Some(broken.path().into()), ..with_tls("first") };
    let problem = check_files(&config)[0].to_string();
    assert!(problem.starts_with(&format!("tls_cert = {}: ", broken.path())), "{problem}");
    let cut = File::new("cut.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n");
    check_refused(cut.path().into(), key(), &format!("tls_cert = {}: it is not valid PEM", cut.path()));
}

/// Clients refuse it, but an operator can still start the server and replace it then.
#[test]
fn an_expired_certificate_is_a_warning() {
    let config = Config { tls_cert: Some(file("expired.pem")), ..with_tls("first") };
    assert!(check_files(&config).is_empty());
    let warning = "tls_cert: the certificate has expired on 2020-01-02 00:00:00 UTC; clients refuse it";
    assert_eq!(certificate_warning(&config).as_deref(), Some(warning));
    assert_eq!(certificate_warning(&with_tls("first")), None);
    let mut server = bind(config);
    let mut client = TlsClient::connect(&server, &newest(), "ann");
    let error = (0..1000).find_map(|_| {
        server.turn(crate::common::sockets::SHORT).expect("the turn succeeds");
        client.pump().err()
    });
    assert!(matches!(error, Some(rustls::Error::InvalidCertificate(_))), "{error:?}");
}
