//! Tells on stderr when a command that waits has no connection.

use std::future::Future;
use std::pin::pin;

use tern_client::{Client, LinkState};

/// Tells when the connection is gone, and when it is back.
pub(super) struct Connection {
    command: &'static str,
    /// That it is gone.
    told: bool,
}

impl Connection {
    /// For the command of this name.
    pub(super) fn new(command: &'static str) -> Connection {
        Connection { command, told: false }
    }

    /// Takes the state of the link.
    pub(super) fn tell(&mut self, link: &LinkState) {
        match link {
            LinkState::Down(reason) if !self.told => {
                self.told = true;
                eprintln!("tern {}: no connection: {reason}; trying again", self.command);
            }
            LinkState::Up(_) if self.told => {
                self.told = false;
                eprintln!("tern {}: connected", self.command);
            }
            _ => {}
        }
    }

    /// Waits for `work`, and tells of the connection meanwhile.
    pub(super) async fn during<T>(mut self, client: &Client, work: impl Future<Output = T>) -> T {
        let (mut status, mut work) = (client.status(), pin!(work));
        loop {
            self.tell(&status.borrow_and_update().link);
            tokio::select! {
                result = &mut work => return result,
                // The sender lives as long as the client.
                _ = status.changed() => {}
            }
        }
    }
}
