//! The certificates that the system trusts.

use std::path::Path;

use crate::base::certificates::SYSTEM_FILES;

/// Returns the file with the certificates that this system trusts, in PEM. `None` if no usual place has one.
///
/// ```
/// if let Some(path) = lobbyd::net::system_certificates() {
///     assert!(path.is_file());
/// }
/// ```
pub fn system_certificates() -> Option<&'static Path> {
    SYSTEM_FILES.iter().map(Path::new).find(|path| path.is_file())
}
