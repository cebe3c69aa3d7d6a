//! Where systems keep the certificates that they trust.

use std::path::Path;

/// In one file each: Debian, Alpine and Arch; Fedora; openSUSE; macOS and BSD.
const FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Returns the file with the certificates that this system trusts, in PEM. `None` if no usual place has one.
///
/// ```
/// if let Some(path) = lobbyd::net::system_certificates() {
///     assert!(path.is_file());
/// }
/// ```
pub fn system_certificates() -> Option<&'static Path> {
    FILES.iter().map(Path::new).find(|path| path.is_file())
}
