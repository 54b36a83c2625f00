//! A device that does what its test says, on a long link.

use tern_client::link::LongLink;
use tern_proto::{Command, v1};

use crate::place::Place;

/// Messages of one request.
const BATCH: usize = 256;

pub(crate) struct Device {
    pub(crate) link: LongLink,
    pub(crate) welcome: v1::HelloReply,
}

impl Device {
    /// Connects and says hello with this key.
    pub(crate) async fn enter(place: &Place, user: &str, id: &str, key: Option<v1::SyncKey>) -> Device {
        let mut link = place.connect().await;
        let hello =
            v1::HelloRequest { protocol: 1, token: place.token(user), device_id: id.into(), key, ..Default::default() };
        let welcome = link.request(Command::Hello, &hello).await.unwrap();
        Device { link, welcome }
    }

    /// Sends the texts to bob, numbered from `first` on; every one is accepted.
    pub(crate) async fn send(&mut self, first: u64, texts: impl IntoIterator<Item = String>) {
        let message =
            |(client_msg_id, text)| v1::OutMessage { client_msg_id, to: "bob".into(), text, ..Default::default() };
        let messages: Vec<_> = (first..).zip(texts).map(message).collect();
        for batch in messages.chunks(BATCH) {
            self.send_batch(batch.to_vec()).await;
        }
    }

    pub(crate) async fn send_batch(&mut self, messages: Vec<v1::OutMessage>) {
        let reply = self.try_send(messages).await;
        assert!(reply.iter().all(|result| result.code() == v1::Code::Ok), "{reply:?}");
    }

    pub(crate) async fn try_send(&mut self, messages: Vec<v1::OutMessage>) -> Vec<v1::SendResult> {
        let reply: v1::SendReply =
            self.link.request(Command::Send, &v1::SendRequest { messages, ..Default::default() }).await.unwrap();
        reply.results
    }

    /// One page above the key.
    pub(crate) async fn page(&mut self, key: Option<v1::SyncKey>, limit: u32) -> v1::SyncReply {
        self.link.request(Command::Sync, &v1::SyncRequest { key, limit, peek: false }).await.unwrap()
    }

    /// Everything above the key, page by page, and the key after it.
    pub(crate) async fn drain(&mut self, mut key: Option<v1::SyncKey>) -> (Vec<v1::Entry>, Option<v1::SyncKey>) {
        let mut entries = Vec::new();
        loop {
            let page = self.page(key, 0).await;
            assert_eq!(page.key_order(), v1::KeyOrder::None);
            entries.extend(page.entries);
            key = page.key;
            if page.more.is_empty() {
                return (entries, key);
            }
        }
    }
}

/// The messages among the entries.
pub(crate) fn messages(entries: &[v1::Entry]) -> impl Iterator<Item = &v1::Message> {
    entries.iter().filter_map(|entry| match &entry.body {
        Some(v1::entry::Body::Message(message)) => Some(message),
        _ => None,
    })
}

/// The positions of the messages in their conversation.
pub(crate) fn numbers(entries: &[v1::Entry]) -> Vec<u64> {
    messages(entries).map(|message| message.seq).collect()
}
