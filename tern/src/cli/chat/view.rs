//! Where a chat is shown: on a terminal, or as lines.

use std::io::IsTerminal;

use anyhow::{Context, Result};
use tern_client::{Link, LinkState, Status};
use tokio::sync::mpsc;

use super::room::Room;
use super::{Input, plain, screen};

/// Where a room is shown.
pub(super) enum View {
    Screen(screen::Screen),
    Plain(plain::Plain),
}

impl View {
    /// Takes the terminal if there is one, else stdin and stdout; gives what the user does.
    pub(super) fn open() -> Result<(View, mpsc::Receiver<Input>)> {
        if std::io::stdout().is_terminal() && std::io::stdin().is_terminal() {
            let (screen, input) = screen::Screen::open()?;
            return Ok((View::Screen(screen), input));
        }
        let (plain, input) = plain::Plain::open()?;
        Ok((View::Plain(plain), input))
    }

    /// Shows what is new.
    pub(super) fn show(&mut self, room: &mut Room, status: &Status) -> Result<()> {
        match self {
            View::Screen(screen) => screen.draw(room, status),
            View::Plain(plain) => plain.print(room, status),
        }
        .context("the terminal")
    }
}

/// The connection in words.
pub(super) fn connection(status: &Status) -> String {
    match &status.link {
        LinkState::Connecting => "connecting".to_owned(),
        LinkState::Up(Link::Tcp) => "connected".to_owned(),
        LinkState::Up(Link::Http) => "connected over HTTP".to_owned(),
        LinkState::Down(reason) => format!("no connection, trying again: {reason}"),
        LinkState::Stopped(stop) => format!("stopped: {stop}"),
    }
}
