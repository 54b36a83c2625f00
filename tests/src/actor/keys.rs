//! Steps about keys: acknowledging, looking back, peeking on, and keys that must be replaced.

use tern_proto::key::{CLASSES, Key};
use tern_proto::v1::{self, KeyOrder};

use super::Actor;
use crate::event::{Request, What};
use crate::long_link::Lost;
use crate::wire::Path;

/// How far ahead of any head a key is that must be replaced.
const AHEAD: u64 = 1 << 40;

impl Actor {
    /// Acknowledges the key, or now and then an earlier one, which must change nothing.
    pub(crate) async fn ack(&mut self) -> Result<(), Lost> {
        let Some(mut key) = self.wire.state.key.clone() else { return Ok(()) };
        if self.chance(0.2) {
            key = self.earlier_key(&key);
        }
        let path = self.path();
        self.wire.ask(path, Request::Ack(v1::AckRequest { key: Some(key) })).await?;
        Ok(())
    }

    /// Acknowledges the key.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn ack_now(&mut self) -> Result<(), Lost> {
        let Some(key) = self.wire.state.key.clone() else { return Ok(()) };
        let path = self.path();
        self.wire.ask(path, Request::Ack(v1::AckRequest { key: Some(key) })).await?;
        Ok(())
    }

    /// Asks an older key twice, and perhaps for one class only. Nothing is applied.
    pub(crate) async fn look_back(&mut self) -> Result<(), Lost> {
        let Some(key) = self.wire.state.key.clone() else { return Ok(()) };
        let mut key = self.earlier_key(&key);
        if self.chance(0.3) {
            key.classes.remove(self.rng.usize(0..key.classes.len().max(1)));
        }
        let limit = [0, 1, 3, 20][self.rng.usize(0..4)];
        let peek = self.chance(0.5);
        for _ in 0..2 {
            let request = v1::SyncRequest { key: Some(key.clone()), peek, limit };
            let path = self.path();
            self.wire.ask(path, Request::Sync(request)).await?;
        }
        Ok(())
    }

    /// Walks on with peek, without applying, and then asks what is acknowledged: nothing new must be.
    pub(crate) async fn peek_on(&mut self) -> Result<(), Lost> {
        let mut key = self.wire.state.key.clone();
        for _ in 0..3 {
            let request = v1::SyncRequest { key: key.clone(), peek: true, limit: self.rng.u32(1..4) };
            let path = self.path();
            match self.wire.ask(path, Request::Sync(request)).await? {
                (_, crate::event::Reply::Sync(reply)) if reply.key_order() == KeyOrder::None => key = reply.key,
                _ => break,
            }
        }
        let path = self.path();
        self.probe(path).await
    }

    /// Asks, with a peeked key ahead of the head, what this device has acknowledged; changes nothing.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn probe(&mut self, path: Path) -> Result<(), Lost> {
        let Some(key) = self.wire.state.key.as_ref().map(|key| ahead(key, self.rng.usize(0..CLASSES))) else {
            return Ok(());
        };
        self.wire.ask(path, Request::Check(v1::CheckRequest { key: Some(key), peek: true, wait_ms: 0 })).await?;
        Ok(())
    }

    /// Presents a key that must be replaced, in any request, and perhaps carries out the order.
    pub(crate) async fn present_wrong_key(&mut self) -> Result<(), Lost> {
        let Some(key) = self.wire.state.key.clone() else { return Ok(()) };
        let wrong = if self.chance(0.7) {
            ahead(&key, self.rng.usize(0..CLASSES))
        } else {
            v1::SyncKey { epoch: key.epoch ^ self.rng.u64(1..4), ..key }
        };
        let (key, peek) = (Some(wrong), self.chance(0.5));
        let path = self.path();
        let request = match self.rng.u32(0..4) {
            0 => Request::Sync(v1::SyncRequest { key, peek, limit: 1 }),
            1 => Request::Check(v1::CheckRequest { key, peek, wait_ms: 0 }),
            2 if path != Path::Long => {
                Request::Hello(v1::HelloRequest { protocol: 1, key, peek, ..Default::default() })
            }
            _ => Request::Ack(v1::AckRequest { key }),
        };
        let (_, reply) = self.wire.ask(path, request).await?;
        if let Some((KeyOrder::ReplaceEpoch | KeyOrder::ReplaceAhead, Some(key))) = reply.order()
            && self.chance(0.3)
        {
            self.wire.record(What::Replaced { key: key.clone() });
        }
        Ok(())
    }

    /// A key that the device had, or the one before everything.
    fn earlier_key(&mut self, key: &v1::SyncKey) -> v1::SyncKey {
        let earlier = self.wire.state.earlier.clone();
        match self.rng.choice(earlier) {
            Some(earlier) if self.chance(0.8) => earlier,
            _ => v1::SyncKey::from(&Key::oldest(key.epoch)),
        }
    }
}

/// The key with one class far above any head.
fn ahead(key: &v1::SyncKey, class: usize) -> v1::SyncKey {
    let mut key = Key::from(key);
    key.versions[class] = Some(key.versions[class].unwrap_or(0) + AHEAD);
    v1::SyncKey::from(&key)
}
