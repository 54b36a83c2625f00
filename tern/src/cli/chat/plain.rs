//! A chat without a terminal: a line for everything that happens.

use std::io::Write;

use tern_client::{LinkState, Status};
use tokio::sync::mpsc;

use super::Input;
use super::room::{Line, Room, by, name};
use crate::cli::send::lines::read_all;

/// Lines that wait to be taken.
const AHEAD: usize = 16;

pub(super) struct Plain {
    link: Option<LinkState>,
}

impl Plain {
    /// Reads stdin on a thread of its own, which ends with the input or the process.
    pub(super) fn open() -> std::io::Result<(Plain, mpsc::Receiver<Input>)> {
        let (sender, input) = mpsc::channel(AHEAD);
        let read = move || {
            read_all(std::io::stdin().lock(), |lines| match lines {
                Ok(lines) => lines.into_iter().all(|line| sender.blocking_send(Input::Line(line)).is_ok()),
                Err(bad) => sender.blocking_send(Input::Bad(bad)).is_ok(),
            });
            // The chat may have ended already.
            let _ = sender.blocking_send(Input::End);
        };
        std::thread::Builder::new().name("stdin".to_owned()).spawn(read)?;
        Ok((Plain { link: None }, input))
    }

    /// Prints what is new.
    pub(super) fn print(&mut self, room: &mut Room, status: &Status) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.link.as_ref() != Some(&status.link) {
            self.link = Some(status.link.clone());
            writeln!(out, "-- {}", super::view::connection(status))?;
        }
        for line in room.take_changed() {
            match line {
                Line::Own { id, text, state, readers } => {
                    writeln!(out, "[{id}] {}{}: {text}", name(&state), by(&readers))?;
                }
                Line::From { who, text } => writeln!(out, "{who}: {text}")?,
                Line::Notice(text) => writeln!(out, "-- {text}")?,
            }
        }
        out.flush()
    }
}
