//! What each error code does. One table for the packet's error body, HTTP and, later, gRPC.

use crate::v1::Code;

impl Code {
    /// Whether the link is closed after the error packet.
    pub fn closes_link(self) -> bool {
        matches!(
            self,
            Code::BadHeader
                | Code::PacketTooLarge
                | Code::HelloRequired
                | Code::HelloTimeout
                | Code::UnsupportedProtocol
                | Code::BadToken
                | Code::TokenExpired
                | Code::BadDevice
                | Code::TooManyRequests
        )
    }

    /// Whether the same request may succeed later; such an answer carries a retry-after and is never stored.
    pub fn is_retryable(self) -> bool {
        matches!(self, Code::Unavailable | Code::OutcomeUnknown | Code::Busy)
    }

    /// The HTTP status that carries it on the short link.
    pub fn http_status(self) -> u16 {
        match self {
            Code::Ok => 200,
            Code::BadToken | Code::TokenExpired => 401,
            Code::NotAMember | Code::NotAllowed => 403,
            Code::UnknownCommand | Code::NoSuchMedia => 404,
            Code::HelloTimeout => 408,
            Code::Conflict | Code::SecondHello | Code::PartConflict | Code::UploadIncomplete => 409,
            Code::MediaExpired => 410,
            Code::PacketTooLarge => 413,
            Code::BadDigest | Code::BadMedia => 422,
            Code::TooManyRequests | Code::Busy | Code::MediaQuota => 429,
            Code::Unavailable | Code::OutcomeUnknown => 503,
            Code::BadHeader
            | Code::HelloRequired
            | Code::UnsupportedProtocol
            | Code::BadDevice
            | Code::BadBody
            | Code::BeyondHead
            | Code::TooOld
            | Code::BadMessageId
            | Code::BadRecipient
            | Code::EmptyText
            | Code::TextTooLong
            | Code::GroupFull
            | Code::BadChange
            | Code::BadPart => 400,
        }
    }
}
