//! An entry of a timeline or a message of a history as a line: JSON, or for people.

use indicatif::HumanBytes;
use serde::Serialize;
use tern_client::{EntryBody, InboxEntry};
use tern_proto::{ConversationId, v1};

/// What is printed; serialises to the object that `--json` prints.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum Line<'a> {
    /// A text, or a change of a group.
    Message {
        from: &'a str,
        conversation: &'a str,
        seq: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
        server_msg_id: u64,
        client_msg_id: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        text: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        change: Option<&'a v1::GroupChange>,
        #[serde(skip_serializing_if = "Option::is_none")]
        media: Option<&'a v1::Media>,
        time: i64,
    },
    Receipt {
        receipt: &'static str,
        member: &'a str,
        conversation: &'a str,
        seq: u64,
        version: u64,
        time: i64,
    },
    Damaged {
        damaged: bool,
        conversation: &'a str,
        seq: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
    },
    Hole {
        hole: &'static str,
        count: u64,
        version: u64,
    },
}

impl<'a> Line<'a> {
    /// The line of an entry.
    pub(super) fn of_entry(entry: &'a InboxEntry) -> Line<'a> {
        let version = entry.version;
        match &entry.body {
            EntryBody::Message(message) => Line::of_message(message, Some(version)),
            EntryBody::Receipt(receipt) => Line::Receipt {
                receipt: kind(receipt.kind()),
                member: &receipt.member,
                conversation: &receipt.conversation,
                seq: receipt.seq,
                version,
                time: receipt.time_ms,
            },
            EntryBody::Damaged(damaged) => Line::damaged(&damaged.conversation, damaged.seq, Some(version)),
            EntryBody::Hole(hole) => Line::Hole { hole: reason(hole.reason()), count: hole.count, version },
        }
    }

    /// The line of a message that came by an entry, with its version, or as history. A message without content is one that the
    /// server cannot read any more.
    pub(super) fn of_message(message: &'a v1::Message, version: Option<u64>) -> Line<'a> {
        let change = message.change.as_ref();
        if message.text.is_empty() && change.is_none() && message.media.is_none() {
            return Line::damaged(&message.conversation, message.seq, version);
        }
        Line::Message {
            from: &message.from,
            conversation: &message.conversation,
            seq: message.seq,
            version,
            server_msg_id: message.server_msg_id,
            client_msg_id: message.client_msg_id,
            text: change.is_none().then(|| line_of(&message.text)),
            change,
            media: message.media.as_ref(),
            time: message.time_ms,
        }
    }

    fn damaged(conversation: &'a str, seq: u64, version: Option<u64>) -> Line<'a> {
        Line::Damaged { damaged: true, conversation, seq, version }
    }

    /// The line for people: of a conversation of two the text alone.
    pub(super) fn plain(&self) -> String {
        match self {
            Line::Message { from, conversation, seq, change: Some(change), .. } => {
                format!("[{conversation}: {}]", in_words(from, *seq, change))
            }
            Line::Message { from, conversation, text, media, .. } if is_group(conversation) => {
                format!("[{conversation}] {from}: {}", with_media(text.unwrap_or_default(), *media))
            }
            Line::Message { text, media, .. } => with_media(text.unwrap_or_default(), *media),
            Line::Receipt { receipt, member, conversation, seq, .. } => {
                format!("[{conversation}: {member}: {receipt} up to {seq}]")
            }
            Line::Damaged { conversation, seq, .. } => format!("[{conversation}: message {seq} is damaged]"),
            Line::Hole { count, .. } => format!("[{}]", no_longer_kept(*count)),
        }
    }
}

/// A text, and what it is about.
pub(super) fn with_media(text: &str, media: Option<&v1::Media>) -> String {
    let Some(media) = media else { return text.to_owned() };
    let what = format!("[{} {}, {}: {}]", media.r#type, extent(media), HumanBytes(media.bytes), media.id);
    if text.is_empty() { what } else { format!("{what} {text}") }
}

/// How large it is to who sees it, or how long to who hears it.
pub(super) fn extent(media: &v1::Media) -> String {
    match media.duration_ms {
        0 => format!("{}x{}", media.width, media.height),
        millis => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
    }
}

/// What a message has changed in a group: who did what.
pub(super) fn in_words(from: &str, seq: u64, change: &v1::GroupChange) -> String {
    let mut did = Vec::new();
    if seq == 1 {
        did.push("made the group".to_owned());
    }
    match change.title.as_deref() {
        Some("") => did.push("took its title away".to_owned()),
        Some(title) => did.push(format!("named it {title:?}")),
        None => {}
    }
    if !change.add.is_empty() {
        did.push(format!("added {}", change.add.join(", ")));
    }
    let (left, removed): (Vec<&str>, Vec<&str>) =
        change.remove.iter().map(String::as_str).partition(|user| *user == from);
    if !removed.is_empty() {
        did.push(format!("removed {}", removed.join(", ")));
    }
    if !left.is_empty() {
        did.push("left".to_owned());
    }
    if did.is_empty() {
        did.push("changed nothing".to_owned());
    }
    format!("{from} {}", did.join(" and "))
}

/// What a hole means.
pub(super) fn no_longer_kept(count: u64) -> String {
    match count {
        1 => "1 message is no longer kept".to_owned(),
        _ => format!("up to {count} messages are no longer kept"),
    }
}

/// The line that a text stands for: the reverse of what `tern send` does with an empty one.
pub(super) fn line_of(text: &str) -> &str {
    if text == "\n" { "" } else { text }
}

/// A text without what could steer a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { char::REPLACEMENT_CHARACTER } else { c })
        .collect()
}

fn is_group(conversation: &str) -> bool {
    ConversationId::new(conversation).is_ok_and(|conversation| conversation.is_group())
}

fn kind(kind: v1::ReceiptKind) -> &'static str {
    match kind {
        v1::ReceiptKind::Delivered => "delivered",
        v1::ReceiptKind::Read => "read",
        v1::ReceiptKind::Unspecified => "unknown",
    }
}

fn reason(reason: v1::HoleReason) -> &'static str {
    match reason {
        v1::HoleReason::Window => "window",
        v1::HoleReason::Cap => "cap",
        v1::HoleReason::Unspecified => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(title: Option<&str>, add: &[&str], remove: &[&str]) -> v1::GroupChange {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        v1::GroupChange { title: title.map(str::to_owned), add: names(add), remove: names(remove) }
    }

    #[test]
    fn changes_are_told_in_words() {
        let cases = [
            (
                1,
                change(Some("Trip"), &["bob", "carol"], &[]),
                "alice made the group and named it \"Trip\" and added bob, carol",
            ),
            (2, change(None, &["dave"], &["bob"]), "alice added dave and removed bob"),
            (3, change(Some(""), &[], &["alice"]), "alice took its title away and left"),
            (4, change(None, &[], &[]), "alice changed nothing"),
        ];
        for (seq, change, words) in cases {
            assert_eq!(in_words("alice", seq, &change), words);
        }
    }

    #[test]
    fn each_message_has_its_line() {
        let text = v1::Message {
            from: "alice".into(),
            conversation: "alice:bob".into(),
            seq: 2,
            text: "hi".into(),
            ..Default::default()
        };
        let to_group = v1::Message { conversation: "g/7".into(), ..text.clone() };
        let changed =
            v1::Message { text: String::new(), change: Some(change(None, &["bob"], &[])), ..to_group.clone() };
        let damaged = v1::Message { text: String::new(), ..to_group.clone() };
        let plain = |message| Line::of_message(message, None).plain();
        assert_eq!(plain(&text), "hi");
        assert_eq!(plain(&to_group), "[g/7] alice: hi");
        assert_eq!(plain(&changed), "[g/7: alice added bob]");
        assert_eq!(plain(&damaged), "[g/7: message 2 is damaged]");
        let json = |message, version| serde_json::to_string(&Line::of_message(message, version)).unwrap();
        assert_eq!(
            json(&changed, Some(9)),
            r#"{"from":"alice","conversation":"g/7","seq":2,"version":9,"server_msg_id":0,"client_msg_id":0,"change":{"add":["bob"]},"time":0}"#
        );
        assert_eq!(json(&damaged, None), r#"{"damaged":true,"conversation":"g/7","seq":2}"#);
    }

    #[test]
    fn a_hole_is_told() {
        assert_eq!(
            (no_longer_kept(1).as_str(), no_longer_kept(12).as_str()),
            ("1 message is no longer kept", "up to 12 messages are no longer kept")
        );
        let hole = Line::Hole { hole: reason(v1::HoleReason::Cap), count: 12, version: 4 };
        assert_eq!(serde_json::to_string(&hole).unwrap(), r#"{"hole":"cap","count":12,"version":4}"#);
        assert_eq!(hole.plain(), "[up to 12 messages are no longer kept]");
    }
}
