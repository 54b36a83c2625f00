//! What each member acknowledged and marked as read, over time.

use std::collections::{BTreeMap, HashMap};

use tern_proto::key::{Class, Key, Version};
use tern_proto::v1::KeyOrder;

use super::case::Case;
use super::keys::{is_within, starts_at_heads};
use super::rising::Rising;
use super::timeline::Truth;
use crate::event::{Reply, Request};

/// What a member acknowledged and marked as read, over time.
pub(super) struct Doings<'a> {
    /// By device: where it started, and when it presented which version.
    pub(super) presented: HashMap<usize, (Version, Rising)>,
    /// By device: the highest version of class 1 whose ack was answered, and the event.
    pub(super) proven: HashMap<usize, (Version, usize)>,
    /// By conversation: the messages, version and seq and sender.
    pub(super) messages: HashMap<&'a str, BTreeMap<Version, (u64, &'a str)>>,
    /// By conversation: when which seq was asked to be marked.
    asked: HashMap<&'a str, Rising>,
    /// By conversation: the highest seq that was answered as done, and the event.
    pub(super) done: HashMap<&'a str, (u64, usize)>,
    /// By conversation: the highest seq of all, of messages that were dropped unseen as well.
    lasts: HashMap<&'a str, u64>,
    /// Whether messages may have been dropped unseen.
    is_lossy: bool,
}

impl<'a> Doings<'a> {
    /// Of one user.
    pub(super) fn of(case: &Case<'a>, user: &str, truth: &Truth<'a>) -> Doings<'a> {
        let mut doings = Doings {
            presented: HashMap::new(),
            proven: HashMap::new(),
            messages: HashMap::new(),
            asked: HashMap::new(),
            done: HashMap::new(),
            lasts: HashMap::new(),
            is_lossy: truth.floor > 0,
        };
        for (version, message) in truth.messages() {
            let messages = doings.messages.entry(&message.conversation).or_default();
            messages.insert(version, (message.seq, &message.from));
            doings.reached(&message.conversation, message.seq);
        }
        for accepted in &case.accepted {
            doings.reached(&accepted.result.conversation, accepted.result.seq);
        }
        for exchange in case.exchanges.iter().filter(|exchange| case.user(exchange.device) == user) {
            doings.note_key(case, truth, exchange);
            if let Request::Read(read) = exchange.request {
                let asked = doings.asked.entry(&read.conversation).or_default();
                asked.note(case.at(exchange.ask), read.seq);
                if let Some((answer, Reply::Read(_))) = exchange.answer {
                    let done = doings.done.entry(&read.conversation).or_default();
                    *done = (read.seq, answer).max(*done);
                }
            }
        }
        doings
    }

    fn reached(&mut self, conversation: &'a str, seq: u64) {
        let last = self.lasts.entry(conversation).or_default();
        *last = seq.max(*last);
    }

    fn note_key(&mut self, case: &Case, truth: &Truth, exchange: &super::case::Exchange) {
        let (start, presented) = self.presented.entry(exchange.device).or_default();
        if let (true, Some((_, reply))) = (starts_at_heads(exchange.request), exchange.answer) {
            let at = reply.order().and_then(|(_, key)| Key::from(key?).version(Class::Messages)).unwrap_or(0);
            // A start that was repeated because its reply was lost: the lowest allows the most.
            *start = if *start == 0 { at } else { at.min(*start) };
        }
        let Some(key) = exchange.request.key().map(Key::from) else { return };
        let Some(version) = key.version(Class::Messages).filter(|_| is_within(&key, truth)) else { return };
        if exchange.request.acknowledges() {
            presented.note(case.at(exchange.ask), version);
        }
        if let (Request::Ack(_), Some((answer, Reply::Ack(reply)))) = (exchange.request, exchange.answer)
            && reply.key_order() == KeyOrder::None
        {
            let proven = self.proven.entry(exchange.device).or_default();
            *proven = (version, answer).max(*proven);
        }
    }

    /// The highest seq of a conversation that a device had acknowledged by a time.
    pub(super) fn acknowledged(&self, conversation: &str, by: u64) -> u64 {
        let Some(messages) = self.messages.get(conversation) else { return 0 };
        let of_device = self.presented.values().filter_map(|(start, presented)| {
            let reached = presented.by(by);
            let (_, (seq, _)) = messages.range(..=reached).next_back().filter(|(version, _)| *version > start)?;
            let above = messages.range(reached + 1..).next().map(|(_, (seq, _))| seq - 1);
            // What lies between the two was dropped unseen, and may have been acknowledged.
            Some(if self.is_lossy { above.unwrap_or_else(|| self.last(conversation)) } else { *seq })
        });
        of_device.max().unwrap_or(0)
    }

    /// The highest seq of a conversation that was asked to be marked as read by a time.
    pub(super) fn marked(&self, conversation: &str, by: u64) -> u64 {
        self.asked.get(conversation).map_or(0, |asked| asked.by(by))
    }

    /// The highest seq of a conversation.
    pub(super) fn last(&self, conversation: &str) -> u64 {
        self.lasts.get(conversation).copied().unwrap_or(0)
    }

    /// The last message of another that a device has acknowledged for certain, among those from a seq on, and the event.
    pub(super) fn delivered_for_certain(
        &self,
        conversation: &str,
        from_seq: u64,
        is_other: impl Fn(&str) -> bool,
    ) -> (u64, Option<usize>) {
        let Some(messages) = self.messages.get(conversation) else { return (0, None) };
        let mut least = (0, None);
        for (device, (reached, answer)) in &self.proven {
            let start = self.presented.get(device).map_or(0, |(start, _)| *start);
            let above = messages.range(..=*reached).rev().take_while(|(version, _)| **version > start);
            let last = above.map(|(_, message)| message).find(|(seq, from)| *seq >= from_seq && is_other(from));
            least = least.max((last.map_or(0, |(seq, _)| *seq), Some(*answer)));
        }
        least
    }
}
