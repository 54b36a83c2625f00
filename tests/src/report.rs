//! What a run found, for a person: counts, broken rules, and the smallest history that shows one.

use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use tern_proto::v1::{self, entry::Body};

use crate::event::{Reply, Request, What};
use crate::history::History;
use crate::model::{Findings, INVARIANTS, Violation};

/// Events of a smallest history that are printed; the file has the rest.
const SHOWN: usize = 40;
/// Broken rules of which the smallest history is printed.
const HISTORIES: usize = 3;
/// Entries of a page that are printed when none of them is meant.
const ENTRIES: usize = 2;
/// Bytes of a text that are printed.
const TEXT: usize = 40;

/// What a run found. Its `Display` is the whole report.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What every random choice came from.
    pub seed: u64,
    /// Whether everything held (with planted faults: whether every one was caught).
    pub passed: bool,
    /// The broken rules; the number in front is the invariant.
    pub broken: Vec<&'static str>,
    /// The file with the whole history, if it was written; the server's log is beside it.
    pub history: Option<PathBuf>,
    report: String,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report)
    }
}

impl Verdict {
    /// The verdict over a history; `counts` are of what the nemesis did. Writes the history into the directory if it did not pass, or if `keep`.
    ///
    /// # Errors
    /// The history cannot be written.
    pub(crate) fn over(
        seed: u64,
        history: &History,
        findings: &Findings,
        counts: &[(&str, u64)],
        directory: &Path,
        keep: bool,
    ) -> std::io::Result<Verdict> {
        let broken: Vec<&'static str> = findings.broken.keys().copied().collect();
        let unchecked = findings.unchecked(history);
        let passed = broken.is_empty() && unchecked.is_empty();
        let path = (keep || !passed).then(|| directory.join("history.jsonl"));
        if let Some(path) = &path {
            history.write(path)?;
        }
        let mut report = counted(history, findings, counts);
        let smallest = findings.smallest();
        for Violation { rule, what, .. } in &smallest {
            line(&mut report, &format!("BROKEN rule {rule}, {} times: {what}", findings.broken[rule]));
        }
        for violation in smallest.into_iter().take(HISTORIES) {
            line(&mut report, &smallest_history(history, violation));
        }
        for what in &unchecked {
            line(&mut report, &format!("UNCHECKED {what}: the run had no occasion for it"));
        }
        if let Some(path) = &path {
            line(&mut report, &format!("history: {}", path.display()));
        }
        line(&mut report, &format!("seed {seed}: {}", if passed { "everything held" } else { "FAILED" }));
        Ok(Verdict { seed, passed, broken, history: path, report })
    }

    /// A verdict over rules that were judged as the run went.
    pub(crate) fn of_rules(seed: u64, passed: bool, broken: Vec<&'static str>, report: String) -> Verdict {
        Verdict { seed, passed, broken, history: None, report }
    }

    /// A verdict without a history of its own.
    pub(crate) fn of_several(seed: u64, passed: bool, report: String) -> Verdict {
        Verdict { seed, passed, broken: Vec::new(), history: None, report }
    }
}

fn line(report: &mut String, text: &str) {
    report.push_str(text);
    report.push('\n');
}

fn counted(history: &History, findings: &Findings, counts: &[(&str, u64)]) -> String {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let mut count = |kind: String| *kinds.entry(kind).or_default() += 1;
    for event in &history.events {
        match &event.what {
            What::Ask { request, .. } => count(format!("{:?}", request.command()).to_lowercase()),
            What::Answer { reply, .. } => {
                count("answers".into());
                if let Reply::Sync(page) = reply {
                    page.entries.iter().filter_map(hole_kind).for_each(|kind| count(kind.into()));
                }
            }
            What::Push { .. } => count("deltas".into()),
            What::Notify { .. } => count("notifies".into()),
            What::Displaced { .. } => count("links displaced".into()),
            What::Waited { .. } => count("hints waited for".into()),
            What::Applied { .. } => count("applied".into()),
            What::Replaced { .. } => count("keys replaced".into()),
            What::Twin { .. } => count("script steps".into()),
        }
    }
    let list = |pairs: Vec<String>| pairs.join(", ");
    let mut report = String::new();
    line(
        &mut report,
        &format!("clients: {}", list(kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect())),
    );
    line(
        &mut report,
        &format!("nemesis: {}", list(counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect())),
    );
    let checks = INVARIANTS.iter().map(|number| format!("{number}: {}", findings.checks_of(*number))).collect();
    line(&mut report, &format!("checks by invariant: {}", list(checks)));
    report
}

fn hole_kind(entry: &v1::Entry) -> Option<&'static str> {
    match &entry.body {
        Some(Body::Hole(hole)) if hole.reason() == v1::HoleReason::Cap => Some("holes of the cap"),
        Some(Body::Hole(_)) => Some("holes of the window"),
        _ => None,
    }
}

/// The events that prove a violation, in the order of time, with what the nemesis did between them.
fn smallest_history(history: &History, violation: &Violation) -> String {
    let mut lines: Vec<(u64, String)> = Vec::new();
    for index in violation.evidence.iter().take(SHOWN) {
        let Some(event) = history.events.get(*index) else { continue };
        let member = &history.roster[event.device];
        let what = described(&event.what, &violation.versions);
        lines.push((event.at, format!("{}/{}: {what}", member.user, member.device)));
    }
    let first = lines.iter().map(|(at, _)| *at).min().unwrap_or(0);
    let last = lines.iter().map(|(at, _)| *at).max().unwrap_or(0);
    let acts = history.acts.iter().filter(|(at, _)| (first..=last).contains(at));
    lines.extend(acts.map(|(at, act)| (*at, format!("-- {act}"))));
    lines.sort_by_key(|(at, _)| *at);
    let mut report = format!("smallest history, rule {}: {}\n", violation.rule, violation.what);
    for (at, text) in lines {
        // Writing to a string does not fail.
        let _ = writeln!(report, "  {:>10.3} s  {text}", at as f64 / 1e6);
    }
    if violation.evidence.len() > SHOWN {
        let _ = writeln!(report, "  … and {} more events", violation.evidence.len() - SHOWN);
    }
    report
}

fn described(what: &What, versions: &[u64]) -> String {
    match what {
        What::Ask { n, via, request } => format!("asks #{n} via {via:?}: {}", request_text(request)),
        What::Answer { n, reply } => format!("gets #{n}: {}", reply_text(reply, versions)),
        What::Push { link, delta, .. } => format!(
            "gets a delta on link {link} from {} to {}: {}",
            key_text(delta.before.as_ref()),
            key_text(delta.after.as_ref()),
            entries_text(&delta.entries, versions)
        ),
        What::Notify { link } => format!("gets a notify on link {link}"),
        What::Displaced { link } => format!("is told that link {link} is displaced"),
        What::Waited { link, hinted } => {
            format!("has waited on link {link} for a hint, and {}", if *hinted { "got one" } else { "got none" })
        }
        What::Applied { from, key } => format!("has applied #{from}, key {}", key_text(Some(key))),
        What::Replaced { key } => format!("has replaced its key by {}", key_text(Some(key))),
        What::Twin { step, outcome } => format!("{step}: {outcome}"),
    }
}

fn request_text(request: &Request) -> String {
    match request {
        Request::Send(send) => {
            let messages = send
                .messages
                .iter()
                .map(|message| format!("{} to {:?} {}", message.client_msg_id, message.to, content_text(message)));
            format!("send {}", messages.collect::<Vec<_>>().join(", "))
        }
        Request::Sync(sync) => {
            let (key, peek) = (key_text(sync.key.as_ref()), if sync.peek { ", peek" } else { "" });
            format!("sync above {key}{peek}, limit {}", sync.limit)
        }
        Request::Read(read) => format!("read {} up to {}", read.conversation, read.seq),
        Request::Conversations(list) => format!("conversations after {:?}, limit {}", list.after, list.limit),
        Request::History(page) => {
            format!("history of {} before {}, limit {}", page.conversation, page.before_seq, page.limit)
        }
        Request::Members(members) => format!("members of {}", members.conversation),
        other => {
            let peek = if other.acknowledges() { "" } else { ", peek" };
            format!("{:?} with {}{peek}", other.command(), key_text(other.key())).to_lowercase()
        }
    }
}

fn reply_text(reply: &Reply, versions: &[u64]) -> String {
    match reply {
        Reply::Sync(sync) => {
            let order = if sync.key_order == 0 { String::new() } else { format!("{:?} ", sync.key_order()) };
            let (key, entries) = (key_text(sync.key.as_ref()), entries_text(&sync.entries, versions));
            format!("{order}key {key}, more {:?}: {entries}", sync.more)
        }
        Reply::Send(send) => {
            let results = send.results.iter().map(|result| match result.code() {
                v1::Code::Ok => {
                    let v1::SendResult { client_msg_id, server_msg_id, conversation, seq, .. } = result;
                    format!("{client_msg_id} is {server_msg_id}, seq {seq} of {conversation}")
                }
                code => format!("{} {code:?}", result.client_msg_id),
            });
            results.collect::<Vec<_>>().join(", ")
        }
        Reply::Hello(hello) => format!(
            "pending {}, highest id {}, {:?} {}",
            hello.pending,
            hello.highest_client_msg_id,
            hello.key_order(),
            key_text(hello.key.as_ref())
        ),
        Reply::Check(check) => {
            format!("pending {}, {:?} {}", check.pending, check.key_order(), key_text(check.key.as_ref()))
        }
        Reply::Ack(ack) => format!("acknowledged, {:?} {}", ack.key_order(), key_text(ack.key.as_ref())),
        Reply::Read(_) => "read".into(),
        Reply::Conversations(list) => {
            let names = list.conversations.iter().map(|one| format!("{} ({} of {})", one.name, one.unread, one.seq));
            format!("{}, more {}", names.collect::<Vec<_>>().join(", "), list.more)
        }
        Reply::History(page) => {
            let seqs = page.messages.first().zip(page.messages.last()).map(|(a, b)| (a.seq, b.seq));
            format!("{} messages, seqs {seqs:?}, more {}", page.messages.len(), page.more)
        }
        Reply::Members(reply) => {
            let members = reply.members.iter().map(|one| {
                format!("{} from {}, delivered {}, read {}", one.user, one.joined_seq, one.delivered_seq, one.read_seq)
            });
            format!("head {}, owner {:?}: {}", reply.seq, reply.owner, members.collect::<Vec<_>>().join("; "))
        }
        Reply::Error(error) => format!("error {:?}: {}", error.code(), error.message),
    }
}

fn key_text(key: Option<&v1::SyncKey>) -> String {
    let Some(key) = key else { return "no key".into() };
    let classes = key.classes.iter().map(|position| format!("{}:{}", position.class, position.version));
    format!("[{} of {:x}]", classes.collect::<Vec<_>>().join(" "), key.epoch)
}

/// The entries that are meant; without any, the first ones.
fn entries_text(entries: &[v1::Entry], versions: &[u64]) -> String {
    let meant: Vec<&v1::Entry> = entries.iter().filter(|entry| versions.contains(&entry.version)).collect();
    let shown = if meant.is_empty() { entries.iter().take(ENTRIES).collect() } else { meant };
    let rest = entries.len() - shown.len();
    let mut texts: Vec<String> = shown.into_iter().map(entry_text).collect();
    if rest > 0 || entries.is_empty() {
        texts.push(format!("{rest} {}entries", if texts.is_empty() { "" } else { "other " }));
    }
    texts.join(", ")
}

fn entry_text(entry: &v1::Entry) -> String {
    let body = match &entry.body {
        Some(Body::Message(message)) => format!(
            "message {} of {}, seq {} of {}, {}",
            message.client_msg_id,
            message.from,
            message.seq,
            message.conversation,
            message.change.as_ref().map_or_else(|| format!("{:?}", shortened(&message.text)), change_text)
        ),
        Some(Body::Stub(stub)) => format!("stub of {}, seq {} of {}", stub.client_msg_id, stub.seq, stub.conversation),
        Some(Body::Receipt(receipt)) => {
            format!("{:?} by {} up to {} of {}", receipt.kind(), receipt.member, receipt.seq, receipt.conversation)
        }
        Some(Body::Damaged(_)) => "damaged".into(),
        Some(Body::Hole(hole)) => format!("hole of {} ({:?})", hole.count, hole.reason()),
        None => "nothing".into(),
    };
    format!("{}@{} {body}", entry.class, entry.version)
}

fn content_text(message: &v1::OutMessage) -> String {
    let text = format!("{:?}", shortened(&message.text));
    message.change.as_ref().map_or(text, change_text)
}

fn change_text(change: &v1::GroupChange) -> String {
    format!("title {:?}, add {:?}, remove {:?}", change.title, change.add, change.remove)
}

fn shortened(text: &str) -> &str {
    text.get(..TEXT).unwrap_or(text)
}
