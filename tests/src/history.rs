//! A whole history, and the log that it is collected in.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tern_proto::v1::Code;

use crate::device::State;
use crate::event::{Event, Reply, What};

/// What a device is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Takes part in the run.
    Actor,
    /// New at the end; reads the truth. The number is its rank among the readers of its user.
    Reader(usize),
    /// Carries out the script that compares the links.
    Twin,
}

/// A device of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Member {
    /// Its user.
    pub(crate) user: String,
    /// Its device id.
    pub(crate) device: String,
    /// What it is for.
    pub(crate) role: Role,
}

/// What the server was told to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Keeps {
    /// Microseconds that an entry is kept at least, unless there are too many.
    pub(crate) window: u64,
    /// Entries that are kept for one user, about.
    pub(crate) cap: usize,
    /// Microseconds that the result of a message is kept at least.
    pub(crate) results: u64,
    /// From here on it was told to keep everything, in microseconds of the run.
    pub(crate) until: Option<u64>,
}

/// A time in which the disk refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outage {
    /// What was wrong, for a person.
    pub(crate) what: String,
    /// From here on, in microseconds of the run,
    pub(crate) since: u64,
    /// up to here;
    pub(crate) healed: u64,
    /// and here the server was restarted.
    pub(crate) until: u64,
}

/// Who took part and what happened.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// What the server kept; `None` for everything.
    pub(crate) keeps: Option<Keeps>,
    /// A check may miss what was accepted no longer ago than this, in microseconds; 0 but in a cluster.
    pub(crate) late: u64,
    /// Every device; events name them by index.
    pub(crate) roster: Vec<Member>,
    /// In the order of recording; that of one device is the order in which it happened.
    pub(crate) events: Vec<Event>,
    /// When the disk refused.
    pub(crate) outages: Vec<Outage>,
    /// What the nemesis did, with the time in microseconds.
    pub(crate) acts: Vec<(u64, String)>,
}

impl History {
    /// Writes one JSON value a line: the roster, what is kept, the outages, the acts, the events.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        serde_json::to_writer(&mut file, &self.roster)?;
        file.write_all(b"\n")?;
        serde_json::to_writer(&mut file, &self.keeps)?;
        for outage in &self.outages {
            file.write_all(b"\n")?;
            serde_json::to_writer(&mut file, outage)?;
        }
        for act in &self.acts {
            file.write_all(b"\n")?;
            serde_json::to_writer(&mut file, act)?;
        }
        for event in &self.events {
            file.write_all(b"\n")?;
            serde_json::to_writer(&mut file, event)?;
        }
        file.write_all(b"\n")?;
        file.flush()
    }
}

/// The time of the run, the same in every process: a process that starts later is given the run's age.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
    age: u64,
}

impl Clock {
    /// A clock that shows `age` microseconds now.
    pub(crate) fn at(age: u64) -> Clock {
        Clock { origin: Instant::now(), age }
    }

    /// Microseconds of the run. In a process that was given the run's age this is never ahead of its parent's.
    pub(crate) fn now(&self) -> u64 {
        self.age + u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// Collects the history from all tasks. Bounded by the pace of the clients: see `Pace`.
#[derive(Clone)]
pub(crate) struct Log {
    /// The run's clock.
    pub(crate) clock: Clock,
    history: Arc<Mutex<History>>,
}

impl Log {
    /// An empty log of a server that keeps so much and whose checks may be so late, whose time starts now.
    pub(crate) fn start(keeps: Option<Keeps>, late: u64) -> Log {
        let history = History { keeps, late, ..History::default() };
        Log { clock: Clock::at(0), history: Arc::new(Mutex::new(history)) }
    }

    /// Adds a device and returns its index.
    pub(crate) fn enrol(&self, member: Member) -> usize {
        self.with(|history| {
            history.roster.push(member);
            history.roster.len() - 1
        })
    }

    /// Records an event that happened now, in this process.
    pub(crate) fn record(&self, device: usize, what: What) {
        self.with(|history| history.events.push(Event { at: self.clock.now(), device, what }));
    }

    /// Records an event of another process. Its clock is never ahead: good for an ask; anything else happened not later than now.
    pub(crate) fn relay(&self, device: usize, stamped: u64, what: What) {
        let now = self.clock.now();
        let at = if matches!(what, What::Ask { .. }) { stamped.min(now) } else { now };
        self.with(|history| history.events.push(Event { at, device, what }));
    }

    /// Records what the nemesis does.
    pub(crate) fn act(&self, act: String) {
        self.with(|history| history.acts.push((self.clock.now(), act)));
    }

    /// Whether a message was answered so since a time.
    pub(crate) fn has_answered_since(&self, since: u64, so: impl Fn(Code) -> bool) -> bool {
        self.with(|history| {
            let mut recent = history.events.iter().rev().take_while(|event| event.at >= since);
            recent.any(|event| match &event.what {
                What::Answer { reply: Reply::Send(reply), .. } => reply.results.iter().any(|result| so(result.code())),
                _ => false,
            })
        })
    }

    /// From now on the server keeps everything.
    pub(crate) fn keeps_everything(&self) {
        let now = self.clock.now();
        self.with(|history| {
            if let Some(keeps) = &mut history.keeps {
                keeps.until = Some(now);
            }
        });
    }

    /// Records when the disk refused.
    pub(crate) fn outage(&self, outage: Outage) {
        self.with(|history| history.outages.push(outage));
    }

    /// How many events there are.
    pub(crate) fn events(&self) -> usize {
        self.with(|history| history.events.len())
    }

    /// What a device knows by its own events so far.
    pub(crate) fn state_of(&self, device: usize) -> State {
        self.with(|history| {
            let own = history.events.iter().filter(|event| event.device == device);
            State::after(own.map(|event| &event.what))
        })
    }

    /// Takes the history out, leaving an empty one.
    pub(crate) fn take(&self) -> History {
        self.with(std::mem::take)
    }

    fn with<T>(&self, body: impl FnOnce(&mut History) -> T) -> T {
        body(&mut self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
