//! The history, indexed: exchanges, handouts, the truth of each user, and what became of each message.

use std::collections::{BTreeMap, HashMap};

use tern_proto::key::Key;
use tern_proto::v1::{self, Code, entry::Body};

use super::content::{is_of_two, is_what_became_of};
use super::groups::{self, Group};
use super::timeline::{self, Truth};
use crate::device::is_group;
use crate::event::{Reply, Request, Via, What};
use crate::history::{History, Role};

/// A request and what came back.
#[derive(Clone, Copy)]
pub(crate) struct Exchange<'a> {
    /// Index of the device.
    pub(crate) device: usize,
    /// Index of the event that asked.
    pub(crate) ask: usize,
    /// The link.
    pub(crate) via: Via,
    /// What was asked.
    pub(crate) request: &'a Request,
    /// Index of the event that answered, and the reply.
    pub(crate) answer: Option<(usize, &'a Reply)>,
}

impl Exchange<'_> {
    /// The events of it.
    pub(crate) fn events(&self) -> Vec<usize> {
        std::iter::once(self.ask).chain(self.answer.map(|(at, _)| at)).collect()
    }
}

/// Entries between two keys: a page or a delta.
pub(crate) struct Handout<'a> {
    /// Index of the device that was given it.
    pub(crate) device: usize,
    /// The events that show it; the last is the one that brought it.
    pub(crate) events: Vec<usize>,
    /// The key that the entries lie above.
    pub(crate) before: Key,
    /// The key after them.
    pub(crate) after: Key,
    /// In the order of the page.
    pub(crate) entries: &'a [v1::Entry],
    /// How it came.
    pub(crate) kind: HandoutKind<'a>,
}

/// How a handout came.
pub(crate) enum HandoutKind<'a> {
    /// As the reply to a sync: the request and the classes that have more.
    Page(&'a v1::SyncRequest, &'a [u32]),
    /// By itself.
    Delta,
}

/// One attempt to send one message.
#[derive(Clone, Copy)]
pub(crate) struct Try<'a> {
    /// Index of the exchange.
    pub(crate) exchange: usize,
    /// Place in its request.
    pub(crate) place: usize,
    /// What was sent.
    pub(crate) content: &'a v1::OutMessage,
    /// What was answered.
    pub(crate) result: Option<&'a v1::SendResult>,
}

impl Accepted<'_> {
    /// Whether the message may be in a timeline of the user.
    pub(crate) fn may_concern(&self, from: &str, user: &str) -> bool {
        from == user || self.content.to == user || is_group(&self.result.conversation)
    }
}

impl<'a> Try<'a> {
    /// The result if it says what became of the message: it is not retryable, no conflict, and not too old to tell.
    pub(crate) fn settled(&self) -> Option<&'a v1::SendResult> {
        let tells = |code: Code| !code.is_retryable() && !matches!(code, Code::Conflict | Code::TooOld);
        self.result.filter(|result| tells(result.code()))
    }
}

/// A message that was accepted.
pub(crate) struct Accepted<'a> {
    /// Index of the sending device.
    pub(crate) device: usize,
    /// The answer that said so first.
    pub(crate) answer: usize,
    /// Its ask and answer.
    pub(crate) events: Vec<usize>,
    /// The first ask of the id with this content, and the place in its request.
    pub(crate) first_ask: (usize, usize),
    /// What was sent.
    pub(crate) content: &'a v1::OutMessage,
    /// What was answered.
    pub(crate) result: &'a v1::SendResult,
}

/// A history with its indices.
pub(crate) struct Case<'a> {
    /// The history.
    pub(crate) history: &'a History,
    /// In the order of their asks.
    pub(crate) exchanges: Vec<Exchange<'a>>,
    /// Answers to nothing, and second answers.
    pub(crate) strays: Vec<usize>,
    /// In the order of their coming.
    pub(crate) handouts: Vec<Handout<'a>>,
    /// By user; users without a reader have none.
    pub(crate) truths: BTreeMap<&'a str, Truth<'a>>,
    /// By device and client_msg_id: the attempts in order.
    pub(crate) tries: BTreeMap<(usize, u64), Vec<Try<'a>>>,
    /// Each accepted message once, in the order of the acceptances.
    pub(crate) accepted: Vec<Accepted<'a>>,
    /// By name.
    pub(crate) groups: BTreeMap<&'a str, Group<'a>>,
}

impl<'a> Case<'a> {
    /// Indexes a history.
    pub(crate) fn new(history: &'a History) -> Case<'a> {
        let (exchanges, strays) = exchanges(history);
        let handouts = handouts(history, &exchanges);
        let truths = timeline::truths(history, &handouts);
        let tries = tries(&exchanges);
        let accepted = accepted(&exchanges, &tries);
        let groups = BTreeMap::new();
        let mut case = Case { history, exchanges, strays, handouts, truths, tries, accepted, groups };
        case.groups = groups::groups(&case);
        case
    }

    /// A group whose log can be relied on.
    pub(crate) fn group(&self, name: &str) -> Option<&Group<'a>> {
        self.groups.get(name).filter(|group| group.is_whole())
    }

    /// Whether a user may see a seq of a conversation; who is in a group is not known if its log is not whole.
    pub(crate) fn sees(&self, user: &str, conversation: &str, seq: u64) -> bool {
        match self.groups.get(conversation) {
            Some(group) => !group.is_whole() || group.sees(user, seq),
            None => self.is_unknown(user, conversation) || is_of_two(user, conversation),
        }
    }

    /// Whether nothing is known of a group because its users have no readers, as those of the script.
    pub(crate) fn is_unknown(&self, user: &str, conversation: &str) -> bool {
        is_group(conversation) && !self.truths.contains_key(user)
    }

    /// Whether a user may have been in a conversation at some moment of an exchange.
    pub(crate) fn may_be_in(&self, user: &str, conversation: &str, exchange: &Exchange) -> bool {
        let until = exchange.answer.map_or(u64::MAX, |(answer, _)| self.at(answer));
        match self.groups.get(conversation) {
            Some(group) => !group.is_whole() || group.may_be_in(user, self.at(exchange.ask), until),
            None => self.is_unknown(user, conversation) || is_of_two(user, conversation),
        }
    }

    /// Whether a user was in a conversation during the whole of an exchange.
    pub(crate) fn is_surely_in(&self, user: &str, conversation: &str, exchange: &Exchange) -> bool {
        let until = exchange.answer.map_or(u64::MAX, |(answer, _)| self.at(answer));
        match self.group(conversation) {
            Some(group) => group.is_surely_in(user, self.at(exchange.ask), until),
            None => is_of_two(user, conversation),
        }
    }

    /// The user of a device.
    pub(crate) fn user(&self, device: usize) -> &'a str {
        &self.history.roster[device].user
    }

    /// `user/device`.
    pub(crate) fn name(&self, device: usize) -> String {
        let member = &self.history.roster[device];
        format!("{}/{}", member.user, member.device)
    }

    /// What a device is for.
    pub(crate) fn role(&self, device: usize) -> Role {
        self.history.roster[device].role
    }

    /// The truth of the device's user.
    pub(crate) fn truth(&self, device: usize) -> Option<&Truth<'a>> {
        self.truths.get(self.user(device))
    }

    /// When an event was recorded.
    pub(crate) fn at(&self, event: usize) -> u64 {
        self.history.events[event].at
    }

    /// Whether the first event is over before the second begins; they are an answer and an ask.
    pub(crate) fn before(&self, answer: usize, ask: usize) -> bool {
        let (a, b) = (&self.history.events[answer], &self.history.events[ask]);
        if a.device == b.device { answer < ask } else { a.at < b.at }
    }

    /// The events of every attempt under an id.
    pub(crate) fn events_of_id(&self, device: usize, id: u64) -> Vec<usize> {
        let tries = self.tries.get(&(device, id)).into_iter().flatten();
        tries.flat_map(|attempt| self.exchanges[attempt.exchange].events()).collect()
    }

    /// The device that sent a message with this id and content; if several may have, the one that was told its server_msg_id.
    pub(crate) fn sender(&self, message: &v1::Message) -> Option<usize> {
        let of_user = (0..self.history.roster.len()).filter(|device| self.user(*device) == message.from);
        let mut found = None;
        for device in of_user {
            let tries = self.tries.get(&(device, message.client_msg_id)).into_iter().flatten();
            for attempt in tries.filter(|attempt| is_what_became_of(attempt.content, message)) {
                if attempt.result.is_some_and(|result| result.server_msg_id == message.server_msg_id) {
                    return Some(device);
                }
                found = found.or(Some(device));
            }
        }
        found
    }
}

/// The message of an entry.
pub(crate) fn message(entry: &v1::Entry) -> Option<&v1::Message> {
    match &entry.body {
        Some(Body::Message(message)) => Some(message),
        _ => None,
    }
}

/// The receipt of an entry.
pub(crate) fn receipt(entry: &v1::Entry) -> Option<&v1::Receipt> {
    match &entry.body {
        Some(Body::Receipt(receipt)) => Some(receipt),
        _ => None,
    }
}

/// Whether two receipts are of the same (conversation, member, kind).
pub(crate) fn same_receipt(a: &v1::Receipt, b: &v1::Receipt) -> bool {
    a.kind == b.kind && a.conversation == b.conversation && a.member == b.member
}

/// The exchanges, and the answers that belong to none.
fn exchanges(history: &History) -> (Vec<Exchange<'_>>, Vec<usize>) {
    let mut strays = Vec::new();
    let mut exchanges: Vec<Exchange> = Vec::new();
    let mut open: HashMap<(usize, u64), usize> = HashMap::new();
    for (at, event) in history.events.iter().enumerate() {
        match &event.what {
            What::Ask { n, via, request } => {
                open.insert((event.device, *n), exchanges.len());
                exchanges.push(Exchange { device: event.device, ask: at, via: *via, request, answer: None });
            }
            What::Answer { n, reply } => {
                // Taken out, so that a second answer finds nothing.
                match open.remove(&(event.device, *n)) {
                    Some(exchange) => exchanges[exchange].answer = Some((at, reply)),
                    None => strays.push(at),
                }
            }
            _ => {}
        }
    }
    (exchanges, strays)
}

fn handouts<'a>(history: &'a History, exchanges: &[Exchange<'a>]) -> Vec<Handout<'a>> {
    let pages = exchanges.iter().filter_map(|exchange| {
        let (Request::Sync(request), Some((_, Reply::Sync(reply)))) = (exchange.request, exchange.answer) else {
            return None;
        };
        let after = Key::from(reply.key.as_ref()?);
        let before = request.key.as_ref().map_or(Key::oldest(after.epoch), Key::from);
        let kind = HandoutKind::Page(request, &reply.more);
        let ordered = reply.key_order() != v1::KeyOrder::None;
        (!ordered).then(|| Handout {
            device: exchange.device,
            events: exchange.events(),
            before,
            after,
            entries: &reply.entries,
            kind,
        })
    });
    let deltas = history.events.iter().enumerate().filter_map(|(at, event)| {
        let What::Push { delta, .. } = &event.what else { return None };
        let (before, after) = (Key::from(delta.before.as_ref()?), Key::from(delta.after.as_ref()?));
        let kind = HandoutKind::Delta;
        Some(Handout { device: event.device, events: vec![at], before, after, entries: &delta.entries, kind })
    });
    let mut handouts: Vec<Handout> = pages.chain(deltas).collect();
    handouts.sort_by_key(|handout| handout.events.last().copied());
    handouts
}

fn tries<'a>(exchanges: &[Exchange<'a>]) -> BTreeMap<(usize, u64), Vec<Try<'a>>> {
    let mut tries: BTreeMap<(usize, u64), Vec<Try>> = BTreeMap::new();
    for (index, exchange) in exchanges.iter().enumerate() {
        let Request::Send(request) = exchange.request else { continue };
        let results = match exchange.answer {
            Some((_, Reply::Send(reply))) => reply.results.as_slice(),
            _ => &[],
        };
        for (place, content) in request.messages.iter().enumerate() {
            let attempt = Try { exchange: index, place, content, result: results.get(place) };
            tries.entry((exchange.device, content.client_msg_id)).or_default().push(attempt);
        }
    }
    tries
}

fn accepted<'a>(exchanges: &[Exchange<'a>], tries: &BTreeMap<(usize, u64), Vec<Try<'a>>>) -> Vec<Accepted<'a>> {
    let mut all: Vec<Accepted> = Vec::new();
    for ((device, _), tries) in tries {
        let answered = tries.iter().filter_map(|attempt| {
            let answer = exchanges[attempt.exchange].answer?.0;
            attempt.result.filter(|result| result.code == 0).map(|result| (answer, attempt, result))
        });
        let Some((answer, attempt, result)) = answered.min_by_key(|(answer, _, _)| *answer) else { continue };
        let first = tries.iter().find(|first| first.content == attempt.content).unwrap_or(attempt);
        all.push(Accepted {
            device: *device,
            answer,
            events: exchanges[attempt.exchange].events(),
            first_ask: (exchanges[first.exchange].ask, first.place),
            content: attempt.content,
            result,
        });
    }
    all.sort_by_key(|accepted| accepted.answer);
    all
}
