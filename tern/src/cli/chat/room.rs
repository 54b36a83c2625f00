//! What is known of a conversation while it is on the screen.

use std::collections::{BTreeSet, VecDeque};

use tern_client::{EntryBody, InboxEntry, MessageState, Recipient};
use tern_proto::{UserId, v1};

use crate::cli::line::{in_words, line_of, no_longer_kept, with_media};

/// Members of a group who are named as readers of a message; more are counted.
const NAMED: usize = 3;

/// Lines that are kept; older ones scroll away for good.
pub(super) const LINES: usize = 2_000;

/// One line of the conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Sent from here.
    Own {
        /// Its `client_msg_id`.
        id: u64,
        text: String,
        state: MessageState,
        /// Members of the group who have read it.
        readers: BTreeSet<String>,
    },
    /// From somebody else, or from another device of this user.
    From { who: String, text: String },
    /// About the conversation.
    Notice(String),
}

/// A conversation of two, or a group.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) me: UserId,
    to: Recipient,
    /// Of a group, once it is known.
    pub(super) title: String,
    lines: VecDeque<Line>,
    /// How many lines have scrolled away, so that line numbers stay true.
    gone: usize,
    /// Numbers of lines that are new or changed since they were asked for.
    changed: BTreeSet<usize>,
}

impl Room {
    pub(super) fn new(me: &UserId, to: &Recipient) -> Room {
        let (me, to) = (me.clone(), to.clone());
        Room { me, to, title: String::new(), lines: VecDeque::new(), gone: 0, changed: BTreeSet::new() }
    }

    /// Whom one talks to here.
    pub(super) fn name(&self) -> String {
        if self.title.is_empty() { self.to.to_string() } else { format!("{} ({})", self.title, self.to) }
    }

    /// The lines, oldest first.
    pub(super) fn lines(&self) -> impl DoubleEndedIterator<Item = &Line> {
        self.lines.iter()
    }

    /// The lines that are new or changed since the last call.
    pub(super) fn take_changed(&mut self) -> Vec<Line> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().filter_map(|number| self.lines.get(number.checked_sub(self.gone)?).cloned()).collect()
    }

    pub(super) fn notice(&mut self, text: String) {
        self.push(Line::Notice(text));
    }

    /// An own message was entered, or found in the outbox.
    pub(super) fn own(&mut self, id: u64, text: String, state: MessageState) {
        self.push(Line::Own { id, text, state, readers: BTreeSet::new() });
    }

    /// An entry of this conversation came. Receipts come as events.
    pub(super) fn take(&mut self, entry: &InboxEntry) {
        match &entry.body {
            EntryBody::Message(message) => self.message(message),
            EntryBody::Damaged(_) => self.notice("a message is damaged and cannot be shown".to_owned()),
            EntryBody::Hole(hole) => self.notice(no_longer_kept(hole.count)),
            EntryBody::Receipt(_) => {}
        }
    }

    fn message(&mut self, message: &v1::Message) {
        let Some(change) = &message.change else {
            return self.push(Line::From {
                who: message.from.clone(),
                text: with_media(line_of(&message.text), message.media.as_ref()),
            });
        };
        if let Some(title) = &change.title {
            self.title.clone_from(title);
        }
        self.notice(in_words(&message.from, message.seq, change));
    }

    /// An own message has a new state.
    pub(super) fn state(&mut self, id: u64, new: MessageState) {
        self.change(|line| match line {
            Line::Own { id: own, state, .. } if *own == id => set(state, new.clone()),
            _ => false,
        });
    }

    /// The other, or a member of the group, has received or read own messages.
    pub(super) fn receipt(&mut self, receipt: &v1::Receipt) {
        if receipt.member == self.me.as_str() {
            return;
        }
        let names = matches!(self.to, Recipient::Group(_)) && receipt.kind() == v1::ReceiptKind::Read;
        self.change(|line| match line {
            Line::Own { state, readers, .. } if concerns(receipt, state) => {
                let raised = raised(state, receipt).is_some_and(|new| set(state, new));
                names && readers.insert(receipt.member.clone()) || raised
            }
            _ => false,
        });
    }

    /// Whether this own message has failed.
    pub(super) fn has_failed(&self, id: u64) -> bool {
        let failed =
            |line: &Line| matches!(line, Line::Own { id: own, state: MessageState::Failed(_), .. } if *own == id);
        self.lines.iter().any(failed)
    }

    fn push(&mut self, line: Line) {
        self.lines.push_back(line);
        self.changed.insert(self.gone + self.lines.len() - 1);
        if self.lines.len() > LINES {
            self.lines.pop_front();
            self.gone += 1;
            self.changed.retain(|number| *number >= self.gone);
        }
    }

    fn change(&mut self, mut change: impl FnMut(&mut Line) -> bool) {
        for (index, line) in self.lines.iter_mut().enumerate() {
            let number = self.gone + index;
            if change(line) {
                self.changed.insert(number);
            }
        }
    }
}

/// Whether a receipt is about a message.
fn concerns(receipt: &v1::Receipt, state: &MessageState) -> bool {
    match state {
        MessageState::Sent(sent) | MessageState::Delivered(sent) | MessageState::Read(sent) => {
            sent.conversation == receipt.conversation && sent.seq <= receipt.seq
        }
        _ => false,
    }
}

/// The state that a receipt gives a message that it concerns, if it says more than is known.
fn raised(state: &MessageState, receipt: &v1::Receipt) -> Option<MessageState> {
    let (MessageState::Sent(sent) | MessageState::Delivered(sent)) = state else {
        return None;
    };
    match receipt.kind() {
        v1::ReceiptKind::Read => Some(MessageState::Read(sent.clone())),
        v1::ReceiptKind::Delivered => Some(MessageState::Delivered(sent.clone())),
        v1::ReceiptKind::Unspecified => None,
    }
}

fn set(state: &mut MessageState, new: MessageState) -> bool {
    let changed = *state != new;
    *state = new;
    changed
}

/// Who has read a message of a group, to stand behind its state; empty while nobody is known to.
pub(super) fn by(readers: &BTreeSet<String>) -> String {
    match readers.len() {
        0 => String::new(),
        1..=NAMED => format!(" by {}", readers.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
        many => format!(" by {many}"),
    }
}

/// The mark of a state, as a phone shows it.
pub(super) fn mark(state: &MessageState) -> &'static str {
    match state {
        MessageState::Sending => "◷",
        MessageState::Sent(_) => "✓",
        MessageState::Delivered(_) | MessageState::Read(_) => "✓✓",
        MessageState::Failed(_) => "!",
        MessageState::Refused(_) => "✗",
    }
}

/// The name of a state.
pub(super) fn name(state: &MessageState) -> String {
    match state {
        MessageState::Sending => "sending".to_owned(),
        MessageState::Sent(_) => "sent".to_owned(),
        MessageState::Delivered(_) => "delivered".to_owned(),
        MessageState::Read(_) => "read".to_owned(),
        MessageState::Failed(reason) => format!("failed: {reason}"),
        MessageState::Refused(code) => format!("refused: {}", code.as_str_name()),
    }
}

#[cfg(test)]
mod tests {
    use tern_client::Sent;

    use super::*;

    fn sent(seq: u64) -> MessageState {
        MessageState::Sent(Sent { server_msg_id: seq, conversation: "alice:bob".into(), seq, time_ms: 0 })
    }

    fn receipt(member: &str, kind: v1::ReceiptKind, seq: u64) -> v1::Receipt {
        let (conversation, member) = ("alice:bob".to_owned(), member.to_owned());
        v1::Receipt { conversation, member, kind: kind.into(), seq, time_ms: 0 }
    }

    fn room(to: &str) -> Room {
        Room::new(&UserId::new("alice").unwrap(), &to.parse().unwrap())
    }

    fn marks(room: &Room) -> Vec<String> {
        let state = |line: &Line| match line {
            Line::Own { state, readers, .. } => Some(name(state) + &by(readers)),
            _ => None,
        };
        room.lines().filter_map(state).collect()
    }

    #[test]
    fn receipts_raise_the_messages_up_to_theirs() {
        let mut room = room("bob");
        for id in 1..=3 {
            room.own(id, "hi".to_owned(), MessageState::Sending);
        }
        room.state(1, sent(1));
        room.state(2, sent(2));
        assert_eq!(marks(&room), ["sent", "sent", "sending"]);
        room.receipt(&receipt("bob", v1::ReceiptKind::Delivered, 2));
        room.receipt(&receipt("alice", v1::ReceiptKind::Read, 2));
        assert_eq!(marks(&room), ["delivered", "delivered", "sending"]);
        room.receipt(&receipt("bob", v1::ReceiptKind::Read, 1));
        room.receipt(&receipt("bob", v1::ReceiptKind::Delivered, 2));
        assert_eq!(marks(&room), ["read", "delivered", "sending"]);
        assert_eq!(room.take_changed().len(), 3);
        assert!(room.take_changed().is_empty());
    }

    #[test]
    fn a_group_tells_who_has_read() {
        let mut room = room("g/7");
        room.own(1, "hi".to_owned(), MessageState::Sending);
        let sent = Sent { server_msg_id: 1, conversation: "g/7".into(), seq: 5, time_ms: 0 };
        room.state(1, MessageState::Sent(sent));
        let read =
            |member, seq| v1::Receipt { conversation: "g/7".into(), ..receipt(member, v1::ReceiptKind::Read, seq) };
        room.receipt(&read("bob", 4));
        assert_eq!(marks(&room), ["sent"], "not so far");
        for (member, mark) in [
            ("alice", "sent"),
            ("bob", "read by bob"),
            ("carol", "read by bob, carol"),
            ("bob", "read by bob, carol"),
            ("dave", "read by bob, carol, dave"),
            ("erin", "read by 4"),
        ] {
            room.receipt(&read(member, 5));
            assert_eq!(marks(&room), [mark]);
        }
    }

    #[test]
    fn a_change_is_a_notice_and_gives_the_title() {
        let mut room = room("g/7");
        assert_eq!(room.name(), "g/7");
        let change = v1::GroupChange { title: Some("Trip".into()), add: vec!["bob".into()], remove: Vec::new() };
        room.message(&v1::Message { from: "carol".into(), seq: 4, change: Some(change), ..Default::default() });
        assert_eq!(room.name(), "Trip (g/7)");
        let told = room.take_changed();
        assert_eq!(told, [Line::Notice("carol named it \"Trip\" and added bob".to_owned())]);
    }

    #[test]
    fn old_lines_scroll_away() {
        let mut room = room("bob");
        for id in 0..LINES as u64 + 10 {
            room.own(id, String::new(), MessageState::Sending);
        }
        assert_eq!(room.lines().count(), LINES);
        assert_eq!(room.take_changed().len(), LINES);
        room.state(LINES as u64 + 9, MessageState::Failed("no link".to_owned()));
        assert!(room.has_failed(LINES as u64 + 9) && !room.has_failed(LINES as u64 + 8));
        assert_eq!(room.take_changed().len(), 1);
    }
}
