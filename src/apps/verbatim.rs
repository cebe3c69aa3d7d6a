use crate::{App, Authorization, Context, Frame, Member, Message, Request, Speech};

/// Passes every message on to the rest of the lobby, unchanged and unread. Says nothing of its own.
///
/// For payloads that are nobody's business but the members'. The token is the user's id.
#[derive(Debug, Default)]
pub struct Verbatim;

impl App for Verbatim {
    const SPEECH: Speech = Speech::Opaque;

    fn authorize(&mut self, _: &mut Context<'_>, request: &Request<'_>) -> Authorization {
        Authorization::token_is_user(request)
    }

    fn on_message(&mut self, cx: &mut Context<'_>, from: &Member, message: Message<'_>) {
        let frame = match message {
            Message::Text(text) | Message::Json { text, .. } => Frame::text(text),
            Message::Binary(bytes) => Frame::binary(bytes),
        };
        cx.broadcast_from(from, &frame);
    }
}
