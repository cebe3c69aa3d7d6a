//! Facts about a request: those that are known before the application is asked, and what follows from them alone.

use std::borrow::Cow;

use super::core::Core;
use super::member::Protocol;
use super::posts::refusal_of;
use crate::base::close::CloseReason;
use crate::base::entry::{self, Entry, RequestedLobby};
use crate::base::session::{BadClaim, Claim};
use crate::http::PlainResponse;
use crate::http::file::FileResponse;
use crate::http::probe::Probe;
use crate::pages::{self, FileRequest, Served};
use crate::ws::handshake::{Acceptance, Facts, Request};

impl Core {
    /// The facts about a request that are known before the application is asked.
    pub(super) fn facts(&self, request: &Request<'_>, form: Result<Acceptance, PlainResponse>) -> Facts {
        let rules = &self.config.allowed_origin;
        let is_origin_allowed = request.is_from_allowed_page(rules);
        // An event stream begins even so, and names the reason.
        let is_forbidden = request.is_for_events && !is_origin_allowed && !matches!(form, Ok(Acceptance::Events));
        let file = if form.is_err() && !request.is_for_list { self.file_response(request) } else { None };
        let list = request.is_for_list.then(|| match &form {
            Err(answer) if answer.status() == 204 => Err(answer.clone()),
            _ => request.list_query().map_err(|why| PlainResponse::new(400, why)),
        });
        let form = form.and_then(|form| self.check_hook_headers(request).map(|()| form));
        let is_cross_origin = request.is_for_events || request.is_for_list;
        Facts {
            probe: request.probe,
            is_head_request: request.is_head_request,
            address: request.address(),
            is_origin_allowed,
            claim: request.claim,
            entry: request.entry,
            cors: if is_cross_origin { request.cors(rules) } else { None },
            form: if is_forbidden { Err(refusal_of(CloseReason::ForbiddenOrigin)) } else { form },
            file: file.map(Box::new),
            list: list.map(Box::new),
        }
    }

    /// Checks that a header of a question occurs once. Proxies may append a line to that of the client, and it is not known
    /// which of them the backend means. Several `Cookie` lines are one (RFC 9113 section 8.2.3).
    fn check_hook_headers(&self, request: &Request<'_>) -> Result<(), PlainResponse> {
        let mut headers = self.config.hook_headers.listed.iter().filter(|_| self.config.hook.is_some());
        match headers.find(|name| !name.eq_ignore_ascii_case("cookie") && request.repeats_header(name)) {
            Some(name) => Err(PlainResponse::new(400, format!("the header {name} occurs more than once"))),
            None => Ok(()),
        }
    }

    /// Checks what a request says about its lobby, in this order: whether its page may connect, the lobby's code, the
    /// session, and how the client enters.
    pub(super) fn check_facts(
        &self,
        requested: Result<RequestedLobby, CloseReason>,
        facts: &Facts,
    ) -> Result<(RequestedLobby, Option<Claim>, Entry), CloseReason> {
        if !facts.is_origin_allowed {
            return Err(CloseReason::ForbiddenOrigin);
        }
        let (requested, has_sessions) = (requested?, !self.config.seat_grace.is_zero());
        let claim = facts.claim.map_err(|BadClaim| CloseReason::BadMessage)?.filter(|_| has_sessions);
        let entry = facts.entry.map_err(|entry::BadEntry| CloseReason::BadMessage)?;
        if entry.suits(&requested, self.config.max_per_lobby) {
            Ok((requested, claim, entry))
        } else {
            Err(CloseReason::BadMessage)
        }
    }

    /// The response to a request for a file of the program, if the configuration serves it. The client speaks JSON. An
    /// upgrade request for the same path goes to the application.
    fn file_response(&self, request: &Request<'_>) -> Option<FileResponse> {
        let served = match (self.config.serve_client, self.config.playground) {
            _ if self.protocol != Protocol::Json => return None,
            (_, true) => Served::Playground,
            (true, false) => Served::Client,
            (false, false) => return None,
        };
        let version = request.query("v");
        let (version, known) = (version.as_deref(), request.header("if-none-match"));
        pages::respond(served, &FileRequest { path: request.path(), version, known })
    }

    /// The response to a health check on the members' port. An upgrade request for the same path goes to the
    /// application.
    pub(super) fn health_response(&self, facts: &Facts) -> Option<PlainResponse> {
        match facts.probe? {
            _ if facts.is_upgrade() => None,
            Probe::Live => Some(PlainResponse::new(200, "live")),
            Probe::Ready => {
                let readiness = self.readiness();
                let sentence = match readiness.message() {
                    Some(message) => format!("{}: {message}", readiness.word()).into(),
                    None => Cow::Borrowed(readiness.word()),
                };
                Some(PlainResponse::new(readiness.status(), sentence))
            }
        }
    }
}
