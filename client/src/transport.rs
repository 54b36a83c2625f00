//! What a session's packets travel on: the long link, or short-link requests that look like one.

use std::time::Duration;

use tern_proto::{Command, Packet};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::link::{LinkError, LongLink, ShortLink};
use crate::options::Link;

/// Packets that wait for their turn: a session has at most one request of each kind under way, and the chunks of one window.
const LANE: usize = 64;
/// Bytes of packets that go in one HTTP request, but for a last one.
const BODY_BYTES: usize = 128 * 1024;

/// A link in use.
#[derive(Debug)]
pub(crate) enum Transport {
    Long(LongLink),
    Short(Lanes),
}

impl Transport {
    pub(crate) fn link(&self) -> Link {
        match self {
            Transport::Long(_) => Link::Tcp,
            Transport::Short(_) => Link::Http,
        }
    }

    pub(crate) async fn send(&mut self, packet: Packet) -> Result<(), LinkError> {
        match self {
            Transport::Long(link) => link.send(&packet).await,
            Transport::Short(lanes) => lanes.send(packet).await,
        }
    }

    /// The packets that came; may be cancelled.
    pub(crate) async fn receive(&mut self) -> Result<Vec<Packet>, LinkError> {
        match self {
            Transport::Long(link) => Ok(vec![link.receive().await?]),
            Transport::Short(lanes) => lanes.answers.recv().await.ok_or(LinkError::Closed)?,
        }
    }
}

/// Two HTTP connections: one for requests, in their order, and one for the waiting check, which must not hold them up.
#[derive(Debug)]
pub(crate) struct Lanes {
    requests: mpsc::Sender<Packet>,
    checks: mpsc::Sender<Packet>,
    answers: mpsc::Receiver<Result<Vec<Packet>, LinkError>>,
    /// One task per connection; they end with the lanes.
    _tasks: JoinSet<()>,
}

impl Lanes {
    /// `poll_wait` is how long a check may wait.
    pub(crate) fn new(address: &str, token: &str, device: &str, poll_wait: Duration) -> Lanes {
        let mut tasks = JoinSet::new();
        let (answer, answers) = mpsc::channel(2 * LANE);
        let mut lane = |wait| {
            let (sender, packets) = mpsc::channel(LANE);
            tasks.spawn(carry(ShortLink::new(address, token, device), wait, packets, answer.clone()));
            sender
        };
        let (requests, checks) = (lane(Duration::ZERO), lane(poll_wait));
        Lanes { requests, checks, answers, _tasks: tasks }
    }

    async fn send(&mut self, packet: Packet) -> Result<(), LinkError> {
        let lane = if packet.known_command() == Some(Command::Check) { &self.checks } else { &self.requests };
        lane.send(packet).await.map_err(|_| LinkError::Closed)
    }
}

async fn carry(
    mut link: ShortLink,
    wait: Duration,
    mut packets: mpsc::Receiver<Packet>,
    answer: mpsc::Sender<Result<Vec<Packet>, LinkError>>,
) {
    while let Some(first) = packets.recv().await {
        // What waits goes together: a clip has many chunks.
        let (mut bytes, mut body) = (first.encoded_len(), vec![first]);
        while bytes < BODY_BYTES
            && let Ok(packet) = packets.try_recv()
        {
            bytes += packet.encoded_len();
            body.push(packet);
        }
        let result = link.packets(&body, wait).await;
        if answer.send(result).await.is_err() {
            return;
        }
    }
}
