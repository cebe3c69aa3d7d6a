//! The headers in which proxies name the client's address.

/// The header in which trusted proxies name the client's address.
///
/// No example of its own: it is a field of [`Config`](crate::Config).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`: a list of addresses, to which each proxy appends one.
    XForwardedFor,
    /// `Forwarded` (RFC 7239): a list of elements with the parameter `for`, to which each proxy appends one.
    Forwarded,
    /// `X-Real-IP`: one address, which one proxy sets.
    XRealIp,
}

impl ForwardedHeader {
    /// Returns the name of the header, as it is usually written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            ForwardedHeader::XForwardedFor => "X-Forwarded-For",
            ForwardedHeader::Forwarded => "Forwarded",
            ForwardedHeader::XRealIp => "X-Real-IP",
        }
    }
}
