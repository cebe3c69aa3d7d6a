//! The certificates that members trust, for `wss://`.

use std::fs;
use std::path::Path;

use lobbyd::client::Trust;
use lobbyd::net::system_certificates;

/// Reads the certificates of a file in PEM, or those that the system trusts.
///
/// # Errors
///
/// A sentence about the file, or about this build.
pub(super) fn read_trust(file: Option<&str>) -> Result<Trust, String> {
    if !cfg!(feature = "tls") {
        return Err("this build has no TLS for wss://; build it with --features tls".into());
    }
    let path = match file {
        Some(file) => Path::new(file),
        None => system_certificates().ok_or("the system has no file of certificates: name one with --ca-file")?,
    };
    let shown = path.display();
    let contents = fs::read(path).map_err(|error| format!("--ca-file: {shown}: {error}"))?;
    let trust = Trust::from_pem(&contents).map_err(|why| format!("--ca-file: {shown}: {why}"))?;
    // Each member is a client of its own, and pays for a whole handshake.
    Ok(trust.without_resumption())
}
