//! A refusal on its way between services.

use std::time::Duration;

use tern_proto::Refusal;

use crate::v1 as rpc;

impl From<Refusal> for rpc::Refusal {
    fn from(Refusal { code, message, retry_after }: Refusal) -> rpc::Refusal {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        rpc::Refusal { code: code.into(), message, retry_after_ms }
    }
}

impl From<rpc::Refusal> for Refusal {
    fn from(refusal: rpc::Refusal) -> Refusal {
        let (code, retry_after) = (refusal.code(), Duration::from_millis(refusal.retry_after_ms.into()));
        Refusal { code, message: refusal.message, retry_after }
    }
}
