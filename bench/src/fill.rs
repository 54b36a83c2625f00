//! Fills a store as many users would have done: by the public wire, pair by pair, with receivers that acknowledge.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::crowd::Crowd;
use crate::order::Faults;
use crate::server::Server;

/// Pairs that are connected at the same time.
const WAVE: usize = 500;

/// How much is stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fill {
    pub(crate) messages: u64,
    /// Pairs that the messages are of, in equal shares.
    pub(crate) pairs: usize,
    /// Bytes of a text.
    pub(crate) bytes: usize,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filled {
    pub(crate) took: Duration,
    /// Of the pairs that this made itself.
    pub(crate) faults: Faults,
}

impl Fill {
    /// Lets the pairs of `crowd`, which is connected, store their share, and as many others the rest, wave by wave.
    pub(crate) async fn run(self, server: &Server, crowd: &mut Crowd) -> Result<Filled> {
        let mut faults = Faults::default();
        let (began, mut left) = (Instant::now(), self.messages);
        let mut pairs = crowd.senders.lines.len();
        crowd.store(self.share(pairs, &mut left)).await?;
        while left > 0 {
            let wave = WAVE.min(self.pairs.saturating_sub(pairs)).max(1);
            let mut others = Crowd::pairs(&crowd.hub, &server.secret, wave, self.bytes);
            others.connect_all(server.long_links()).await?;
            others.store(self.share(wave, &mut left)).await?;
            faults += others.faults();
            others.disconnect().await?;
            pairs += wave;
            let stored = self.messages - left;
            eprintln!("stored {stored} of {pairs} pairs: {:.0} /s", stored as f64 / began.elapsed().as_secs_f64());
        }
        Ok(Filled { took: began.elapsed(), faults })
    }

    /// What so many pairs store of what is left.
    fn share(self, pairs: usize, left: &mut u64) -> u64 {
        let share = (self.messages.div_ceil(self.pairs as u64) * pairs as u64).min(*left);
        *left -= share;
        share
    }
}
