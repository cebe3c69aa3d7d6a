//! The operators' page: constant files of the program. Knows their paths, types and policy; no client and no engine.
//!
//! They contain no secret, so they are served without the token: a browser could not send it with its first request. The
//! page asks for the token, keeps it in memory, and sends it with each request to the API.

use crate::config::memory::ADMIN_PAGE_BYTES;
use crate::http::response::JsonResponse;

/// A file of the page.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PageFile {
    path: &'static str,
    media_type: &'static str,
    contents: &'static str,
}

/// One script for the browser, in files by topic. They share their names, in this order.
const SCRIPT: &str = concat!(
    include_str!("page/page.js"),
    "\n",
    include_str!("page/charts.js"),
    "\n",
    include_str!("page/lobbies.js"),
    "\n",
    include_str!("page/commands.js"),
    "\n",
    include_str!("page/server.js"),
);

const FILES: [PageFile; 3] = [
    PageFile { path: "/", media_type: "text/html; charset=utf-8", contents: include_str!("page/page.html") },
    PageFile { path: "/page.css", media_type: "text/css; charset=utf-8", contents: include_str!("page/page.css") },
    PageFile { path: "/page.js", media_type: "text/javascript; charset=utf-8", contents: SCRIPT },
];

const _: () = assert!(
    FILES[0].contents.len() + FILES[1].contents.len() + FILES[2].contents.len() <= ADMIN_PAGE_BYTES,
    "the memory of a connection without the token is computed with this bound"
);

/// The page loads its own files, and asks its own server. No other page can show it in a frame and let a visitor click on
/// it. Trusted types refuse to parse text as HTML: everything that users have chosen, such as a name, is inserted as text.
const POLICY: &str = "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'; \
                      require-trusted-types-for 'script'; trusted-types 'none'\r\nX-Frame-Options: DENY\r\n\
                      Referrer-Policy: no-referrer\r\nCross-Origin-Opener-Policy: same-origin\r\n\
                      Cross-Origin-Resource-Policy: same-origin\r\n";

impl PageFile {
    /// Returns the file at `path`.
    pub(super) fn at(path: &str) -> Option<&'static PageFile> {
        FILES.iter().find(|file| file.path == path)
    }

    pub(super) fn response(&self) -> JsonResponse {
        // The response adds the last line feed.
        JsonResponse::text(self.media_type, self.contents.trim_end().to_owned()).with_line(POLICY)
    }
}
