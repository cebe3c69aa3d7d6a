//! Paths of the certificates that systems trust.

/// In one file each: Debian, Alpine and Arch; Fedora; openSUSE; macOS and BSD.
pub(crate) const SYSTEM_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
