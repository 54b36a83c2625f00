//! The handles that an application holds.

mod conversations;
mod groups;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tern_proto::{ConversationId, UserId, v1};
use tokio::sync::{Notify, broadcast, watch};

use crate::driver::Driver;
use crate::message::{Event, InboxEntry, MessageState, Outgoing};
use crate::options::{ClientOptions, Receive};
use crate::queries::Queries;
use crate::recipient::Recipient;
use crate::shared::Shared;
use crate::status::{LinkState, Status};
use crate::store::worker::Worker;
use crate::store::{OpenError, Store, StoreError};
use crate::upload::{Uploads, digest};

/// Events that a subscriber may fall behind before it loses the oldest.
const EVENTS: usize = 1_024;
/// Entries that are read from the store at once.
const READ_AHEAD: usize = 256;

/// The client could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Its store could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// Its store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system gave no thread.
    #[error("no thread for the local store: {0}")]
    Thread(#[from] std::io::Error),
}

/// One device, connected or connecting. Clones are the same device; it disconnects when the last one is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    user: UserId,
    shared: Arc<Shared>,
    stop: Arc<watch::Sender<bool>>,
    uploads: Uploads,
}

impl Client {
    /// Opens the data directory and starts to connect. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`OpenError::InUse`] if another client has the directory; otherwise what is wrong with it.
    pub async fn open(mut options: ClientOptions) -> Result<(Client, Inbox), ClientError> {
        options.ask_every = options.ask_every.clamp(Duration::from_secs(1), Duration::from_secs(90));
        options.poll_wait = options.poll_wait.min(tern_proto::limits::CHECK_WAIT);
        let (path, user, peek) = (options.data_dir.clone(), options.user.clone(), options.receive == Receive::Peek);
        let owner = user.clone();
        let opened = tokio::task::spawn_blocking(move || Store::open(&path, &owner, peek)).await;
        let mut store = opened.map_err(std::io::Error::other)??;
        if options.resend_failed {
            store.resend_all(None)?;
        }
        let device = store.device().to_owned();
        let (sending, failed) = store.open_messages()?;
        let status = Status {
            link: LinkState::Connecting,
            caught_up: false,
            sending,
            failed,
            refused: 0,
            unreadable: 0,
            missing: 0,
            unconfirmed: store.backlog()?,
        };
        let shared = Arc::new(Shared {
            store: Worker::start(store)?,
            queries: Queries::default(),
            wake: Notify::new(),
            arrived: Notify::new(),
            status: watch::Sender::new(status),
            events: broadcast::Sender::new(EVENTS),
        });
        let stop = Arc::new(watch::Sender::new(false));
        let uploads = Uploads::of(&options, &device);
        // Ends with `close` or with the last `Client`.
        tokio::spawn(Driver::new(options, device, Arc::clone(&shared), stop.subscribe()).run());
        let inbox = Inbox { shared: Arc::clone(&shared), above: 0, ahead: VecDeque::new() };
        Ok((Client { user, shared, stop, uploads }, inbox))
    }

    /// Puts a message to a user or a group into the outbox and gives its `client_msg_id`. It is on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError::BadText`], [`StoreError::OutboxFull`], or that of a failed store; nothing is sent then.
    pub async fn send(&self, to: impl Into<Recipient>, text: impl Into<String>) -> Result<u64, StoreError> {
        let ids = self.enqueue(texts(&to.into(), vec![text.into()]), None).await?;
        ids.first().copied().ok_or(StoreError::NoIdsLeft)
    }

    /// Puts a message about media, which is uploaded, into the outbox; `text` may be empty. Else as [`Client::send`].
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_media(
        &self,
        to: impl Into<Recipient>,
        media: &str,
        text: impl Into<String>,
    ) -> Result<u64, StoreError> {
        self.enqueue(about(&to.into(), media, text.into()), None).await?.first().copied().ok_or(StoreError::NoIdsLeft)
    }

    /// [`Client::send_media`] with a note, as in [`Client::send_noted`].
    ///
    /// # Errors
    /// As [`Client::send_noted`].
    pub async fn send_media_noted(
        &self,
        to: impl Into<Recipient>,
        media: &str,
        text: impl Into<String>,
        place: usize,
        note: String,
    ) -> Result<u64, StoreError> {
        let ids = self.enqueue(about(&to.into(), media, text.into()), Some((place, note))).await?;
        ids.first().copied().ok_or(StoreError::NoIdsLeft)
    }

    /// Puts a message about a clip into the outbox, the clip too; `text` may be empty. It goes over the link of messages, and after an interruption from where it has come. Else as [`Client::send`].
    ///
    /// # Errors
    /// As [`Client::send`], and [`StoreError::BadClip`].
    pub async fn speak(
        &self,
        to: impl Into<Recipient>,
        clip: Clip,
        text: impl Into<String>,
    ) -> Result<u64, StoreError> {
        let ids = self.enqueue(spoken(&to.into(), clip, text.into()), None).await?;
        ids.first().copied().ok_or(StoreError::NoIdsLeft)
    }

    /// [`Client::speak`] with a note, as in [`Client::send_noted`].
    ///
    /// # Errors
    /// As [`Client::speak`] and [`Client::send_noted`].
    pub async fn speak_noted(
        &self,
        to: impl Into<Recipient>,
        clip: Clip,
        text: impl Into<String>,
        place: usize,
        note: String,
    ) -> Result<u64, StoreError> {
        let ids = self.enqueue(spoken(&to.into(), clip, text.into()), Some((place, note))).await?;
        ids.first().copied().ok_or(StoreError::NoIdsLeft)
    }

    /// Uploads of this device, and fetching.
    pub fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    /// [`Client::send`] for many messages at once, all or none of them.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_all(&self, to: impl Into<Recipient>, all: Vec<String>) -> Result<Vec<u64>, StoreError> {
        self.enqueue(texts(&to.into(), all), None).await
    }

    /// [`Client::send_all`] with a note, stored in the same transaction, from which the application can tell after a crash how
    /// far it has come. The note takes the given place among the [`Client::notes`]; those behind it are forgotten. What is
    /// noted keeps one order from end to end: it is refused while failed messages are in the outbox.
    ///
    /// # Errors
    /// As [`Client::send`], and [`StoreError::BehindFailed`].
    pub async fn send_noted(
        &self,
        to: impl Into<Recipient>,
        all: Vec<String>,
        place: usize,
        note: String,
    ) -> Result<Vec<u64>, StoreError> {
        self.enqueue(texts(&to.into(), all), Some((place, note))).await
    }

    /// The notes of [`Client::send_noted`], oldest first.
    ///
    /// # Errors
    /// Those of a failed store.
    pub async fn notes(&self) -> Result<Vec<String>, StoreError> {
        self.shared.store.call(|store| store.notes()).await
    }

    /// Forgets the notes.
    ///
    /// # Errors
    /// Those of a failed store.
    pub async fn clear_notes(&self) -> Result<(), StoreError> {
        self.shared.store.call(Store::clear_notes).await
    }

    /// What became of a message; `None` if it never was or is forgotten. The latest 10,000 are remembered, and all that wait.
    ///
    /// # Errors
    /// Those of a failed store.
    pub async fn outcome(&self, id: u64) -> Result<Option<MessageState>, StoreError> {
        Ok(self.shared.store.call(move |store| store.outgoing(id)).await?.map(|message| message.state))
    }

    /// Waits until a message is sent, refused or failed, or the client stops; then as [`Client::outcome`]. May be cancelled.
    ///
    /// # Errors
    /// Those of a failed or closed store.
    pub async fn settled(&self, id: u64) -> Result<Option<MessageState>, StoreError> {
        let mut status = self.status();
        loop {
            // Marked as seen before the store is asked, so that no change falls between the two.
            let stopped = status.borrow_and_update().stopped().is_some();
            let outcome = self.outcome(id).await?;
            if stopped || outcome != Some(MessageState::Sending) {
                return Ok(outcome);
            }
            // The sender is held by `self`.
            let _ = status.changed().await;
        }
    }

    /// The latest messages of this device that are remembered, oldest first, at most `limit`.
    ///
    /// # Errors
    /// Those of a failed store.
    pub async fn outbox(&self, limit: usize) -> Result<Vec<Outgoing>, StoreError> {
        self.shared.store.call(move |store| store.latest_outgoing(limit)).await
    }

    /// Starts again with a failed message, under its id; `false` if it is not a failed one.
    ///
    /// # Errors
    /// Those of a failed store.
    pub async fn resend(&self, id: u64) -> Result<bool, StoreError> {
        let resent = self.shared.change(move |store| store.resend(id)).await?;
        if resent {
            self.shared.tell(Event::Message { id, state: MessageState::Sending });
            self.shared.wake.notify_one();
        }
        Ok(resent)
    }

    /// Starts again with all failed messages to `to`, in their order, before anything is sent behind them; gives their ids,
    /// ascending.
    ///
    /// # Errors
    /// Those of a failed store.
    pub async fn resend_all(&self, to: impl Into<Recipient>) -> Result<Vec<u64>, StoreError> {
        let to = to.into();
        let ids = self.shared.change(move |store| store.resend_all(Some(&to))).await?;
        ids.iter().for_each(|id| self.shared.tell(Event::Message { id: *id, state: MessageState::Sending }));
        self.shared.wake.notify_one();
        Ok(ids)
    }

    /// Marks a conversation as read up to `seq`. The mark is on disk when this returns and goes to the server as soon as
    /// there is a link. A smaller `seq` than before changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Peeking`], or those of a failed store.
    pub async fn mark_read(&self, conversation: &ConversationId, seq: u64) -> Result<(), StoreError> {
        let conversation = conversation.clone();
        self.shared.store.call(move |store| store.want_read(conversation.as_str(), seq)).await?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// The connection and the counts, now and at each change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.shared.status.subscribe()
    }

    /// What happens to this device's messages from now on. A subscriber that falls 1,024 events behind is told so and loses
    /// the oldest; it then asks [`Client::outcome`] or [`Client::outbox`].
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Disconnects, closes the store and unlocks the directory. What is in the outbox stays there for the next time.
    pub async fn close(self) {
        self.stop.send_replace(true);
        let mut status = self.shared.status.subscribe();
        // The sender is held by `self`, so there is no other way out.
        let _ = status.wait_for(|status| status.stopped().is_some()).await;
        self.shared.store.close().await;
    }

    async fn enqueue(
        &self,
        messages: Vec<v1::OutMessage>,
        note: Option<(usize, String)>,
    ) -> Result<Vec<u64>, StoreError> {
        let enqueue = move |store: &mut Store| {
            let note = note.as_ref().map(|(place, text)| (*place, text.as_str()));
            store.enqueue(&messages, note)
        };
        let ids = self.shared.change(enqueue).await?;
        self.shared.wake.notify_one();
        Ok(ids)
    }
}

fn about(to: &Recipient, media: &str, text: String) -> Vec<v1::OutMessage> {
    vec![v1::OutMessage { to: to.to_string(), text, media: media.to_owned(), ..Default::default() }]
}

/// The clip as a whole stands in the place of its last chunk; the outbox takes it apart.
fn spoken(to: &Recipient, clip: Clip, text: String) -> Vec<v1::OutMessage> {
    let begin = v1::MediaBegin {
        bytes: clip.bytes.len() as u64,
        sha256: clip.sha256(),
        r#type: clip.media_type,
        ..Default::default()
    };
    let whole = v1::Chunk { clip: Some(begin), index: 0, bytes: clip.bytes };
    vec![v1::OutMessage { to: to.to_string(), text, chunk: Some(whole), ..Default::default() }]
}

/// Audio, as it was recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clip {
    /// Such as `audio/amr`.
    pub media_type: String,
    /// 1 byte to 32 MiB.
    pub bytes: Vec<u8>,
}

impl Clip {
    /// The digest of its bytes, in hexadecimal digits.
    pub fn sha256(&self) -> String {
        digest(&self.bytes)
    }
}

fn texts(to: &Recipient, all: Vec<String>) -> Vec<v1::OutMessage> {
    let message = |text| v1::OutMessage { to: to.to_string(), text, ..Default::default() };
    all.into_iter().map(message).collect()
}

/// Hands out what the device received: everything that is not confirmed, in order, once per run of the application.
#[derive(Debug)]
pub struct Inbox {
    shared: Arc<Shared>,
    /// The last entry that was read from the store.
    above: i64,
    /// Read from the store and not handed out; at most [`READ_AHEAD`].
    ahead: VecDeque<InboxEntry>,
}

impl Inbox {
    /// The next entry, as soon as there is one; `None` once the client has stopped and everything is handed out. May be
    /// cancelled.
    ///
    /// # Errors
    /// Those of a failed or closed store.
    pub async fn next(&mut self) -> Result<Option<InboxEntry>, StoreError> {
        loop {
            if let Some(entry) = self.try_next().await? {
                return Ok(Some(entry));
            }
            if self.shared.status.borrow().stopped().is_some() {
                return Ok(None);
            }
            self.shared.arrived.notified().await;
        }
    }

    /// The next entry, if it has arrived. May be cancelled.
    ///
    /// # Errors
    /// Those of a failed or closed store.
    pub async fn try_next(&mut self) -> Result<Option<InboxEntry>, StoreError> {
        if self.ahead.is_empty() {
            let above = self.above;
            self.ahead = self.shared.store.call(move |store| store.take(above, READ_AHEAD)).await?.into();
            self.above = self.ahead.back().map_or(above, |entry| entry.number);
        }
        Ok(self.ahead.pop_front())
    }

    /// The application is done with these entries; they are not handed out again. On disk when this returns.
    ///
    /// # Errors
    /// Those of a failed or closed store.
    pub async fn confirm(&self, entries: &[InboxEntry]) -> Result<(), StoreError> {
        let numbers: Vec<i64> = entries.iter().map(|entry| entry.number).collect();
        self.shared.change(move |store| store.confirm(&numbers)).await?;
        self.shared.wake.notify_one();
        Ok(())
    }
}
