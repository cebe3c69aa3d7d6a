//! Files that the members' port serves: the browser client, and the playground, a page to try a server out.
//!
//! The client is in `src/client/browser`. All files are compiled into the program. Knows their paths, types, cache times and policies; no
//! connection and no lobby.

use crate::base::checksum::Checksum;
use crate::http::file::FileResponse;

/// Which files are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    Client,
    /// The client, too: the page is made with it.
    Playground,
}

/// A request for a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileRequest<'a> {
    /// Percent-decoded.
    pub(crate) path: &'a str,
    /// The query parameter `v`: the version that the client wants to keep.
    pub(crate) version: Option<&'a str>,
    /// The header `If-None-Match`: the versions that the client has.
    pub(crate) known: Option<&'a str>,
}

struct File {
    path: &'static str,
    media_type: &'static str,
    contents: &'static str,
    served: Served,
    /// Additional header lines, each with its line end.
    lines: &'static str,
}

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
/// Any page may load the client: it contains nothing secret, and what the page may do is decided when it connects.
const OPEN: &str = "Access-Control-Allow-Origin: *\r\nCross-Origin-Resource-Policy: cross-origin\r\n";
/// The page loads its own files and connects to lobby servers; it cannot be shown in a frame of another page. The
/// referrer would name the lobby and the user.
const CLOSED: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self' ws: wss:; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; \
                      form-action 'none'\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Opener-Policy: same-origin\r\n\
                      Cross-Origin-Resource-Policy: same-origin\r\n";

const FILES: [File; 6] = [
    File {
        path: "/lobby.js",
        media_type: JAVASCRIPT,
        contents: include_str!("../client/browser/lobby.js"),
        served: Served::Client,
        // Deno reads the types of a module that it loads from a server.
        lines: "X-TypeScript-Types: ./lobby.d.ts\r\n",
    },
    File {
        path: "/lobby.d.ts",
        media_type: "application/typescript; charset=utf-8",
        contents: include_str!("../client/browser/lobby.d.ts"),
        served: Served::Client,
        lines: "",
    },
    File {
        path: "/react.js",
        media_type: JAVASCRIPT,
        contents: include_str!("../client/browser/react.js"),
        served: Served::Client,
        lines: "",
    },
    File {
        path: "/",
        media_type: "text/html; charset=utf-8",
        contents: include_str!("playground/playground.html"),
        served: Served::Playground,
        lines: "",
    },
    File {
        path: "/playground.css",
        media_type: "text/css; charset=utf-8",
        contents: include_str!("playground/playground.css"),
        served: Served::Playground,
        lines: "",
    },
    File {
        path: "/playground.js",
        media_type: JAVASCRIPT,
        contents: include_str!("playground/playground.js"),
        served: Served::Playground,
        lines: "",
    },
];

/// Returns the response to a request for a file, or `None` if there is no such file.
pub(crate) fn respond(served: Served, request: &FileRequest<'_>) -> Option<FileResponse> {
    let is_served = |file: &File| served == Served::Playground || file.served == Served::Client;
    let file = FILES.iter().find(|file| file.path == request.path && is_served(file))?;
    let version = version_of(file.contents);
    let (cache, policy) = match file.served {
        // The name of the version never means other contents, so it never has to be asked for again (RFC 8246).
        Served::Client if request.version == Some(&*version) => ("public, max-age=31536000, immutable", OPEN),
        Served::Client => ("public, max-age=300", OPEN),
        Served::Playground => ("no-cache", CLOSED),
    };
    let lines = format!(
        "Cache-Control: {cache}\r\nETag: \"{version}\"\r\nX-Content-Type-Options: nosniff\r\n{policy}{}",
        file.lines
    );
    Some(if request.known.is_some_and(|known| is_among(&version, known)) {
        FileResponse::not_modified(&lines)
    } else {
        FileResponse::found(file.media_type, &lines, file.contents)
    })
}

/// Returns the name of a version: a checksum of the contents.
fn version_of(contents: &str) -> String {
    let mut checksum = Checksum::new(0);
    checksum.write(contents.as_bytes());
    format!("{:016x}", checksum.finish())
}

/// Returns whether `If-None-Match` names the version, by the weak comparison (RFC 9110 section 13.1.2).
fn is_among(version: &str, known: &str) -> bool {
    let is_same = |tag: &str| {
        tag.strip_prefix("W/").unwrap_or(tag).strip_prefix('"').and_then(|tag| tag.strip_suffix('"')) == Some(version)
    };
    known.trim() == "*" || known.split(',').any(|tag| is_same(tag.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::limit::MAX_FILE_BYTES;

    fn status(served: Served, request: FileRequest<'_>) -> Option<u16> {
        respond(served, &request).map(|response| response.status())
    }

    #[test]
    fn files_are_served_as_configured() {
        for (path, client, playground) in [
            ("/lobby.js", Some(200), Some(200)),
            ("/lobby.d.ts", Some(200), Some(200)),
            ("/react.js", Some(200), Some(200)),
            ("/", None, Some(200)),
            ("/playground.js", None, Some(200)),
            ("/playground.css", None, Some(200)),
            ("/lobby.js/", None, None),
            ("/LOBBY.JS", None, None),
            ("/../lobby.js", None, None),
            ("/index.html", None, None),
            ("", None, None),
        ] {
            let request = FileRequest { path, version: None, known: None };
            assert_eq!(status(Served::Client, request), client, "{path}");
            assert_eq!(status(Served::Playground, request), playground, "{path}");
        }
    }

    #[test]
    fn a_known_version_is_not_sent_again() {
        let version = version_of(FILES[0].contents);
        let check = |known: &str, expected| {
            let request = FileRequest { path: "/lobby.js", version: None, known: Some(known) };
            assert_eq!(status(Served::Client, request), Some(expected), "{known}");
        };
        check(&format!("\"{version}\""), 304);
        check(&format!("W/\"{version}\""), 304);
        check(&format!("\"other\", \"{version}\" "), 304);
        check("*", 304);
        check(&version, 200);
        check(&format!("w/\"{version}\""), 200);
        check("\"other\"", 200);
        check("", 200);
        check("\"", 200);
    }

    #[test]
    fn files_are_within_their_bounds() {
        let size = |is_counted: fn(&File) -> bool| {
            FILES.iter().filter(|file| is_counted(file)).map(|file| file.contents.len()).sum::<usize>()
        };
        let playground = size(|file| file.served == Served::Playground);
        assert!(playground <= 40 << 10, "the playground has {playground} bytes");
        for file in &FILES {
            assert!(file.contents.len() <= MAX_FILE_BYTES, "{}", file.path);
        }
    }
}
