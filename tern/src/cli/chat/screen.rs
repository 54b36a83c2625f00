//! A chat on a terminal: the connection on top, the conversation, the line being typed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Row, Span};
use ratatui::widgets::{Block, Paragraph};
use tern_client::{LinkState, MessageState, Status};
use tokio::sync::mpsc;

use super::Input;
use super::room::{Line, Room, by, mark};
use super::typed::Typed;
use crate::cli::line::printable;

/// Key strokes that wait to be taken.
const AHEAD: usize = 64;

/// The terminal; restored when dropped.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    typed: Arc<Mutex<Typed>>,
}

impl Screen {
    /// Takes the terminal over and reads its keys on a thread of its own, which ends with the process.
    pub(super) fn open() -> std::io::Result<(Screen, mpsc::Receiver<Input>)> {
        let terminal = ratatui::try_init()?;
        let typed = Arc::new(Mutex::new(Typed::default()));
        let (sender, input) = mpsc::channel(AHEAD);
        let keys = Arc::clone(&typed);
        let read = move || read_keys(event::read, &keys, &sender);
        std::thread::Builder::new().name("keys".to_owned()).spawn(read)?;
        Ok((Screen { terminal, typed }, input))
    }

    /// Draws everything; only what differs is written to the terminal.
    pub(super) fn draw(&mut self, room: &Room, status: &Status) -> std::io::Result<()> {
        let typed = lock(&self.typed).clone();
        self.terminal.draw(|frame| draw(frame, room, status, &typed))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

fn lock(typed: &Mutex<Typed>) -> MutexGuard<'_, Typed> {
    typed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands on what `next` gives until it fails or nobody takes it any more.
fn read_keys(mut next: impl FnMut() -> std::io::Result<Event>, typed: &Mutex<Typed>, inputs: &mpsc::Sender<Input>) {
    while let Ok(event) = next() {
        // A statement of its own: the lock is free again before the send waits for whoever draws.
        let input = on_event(&event, &mut lock(typed));
        if let Some(input) = input
            && inputs.blocking_send(input).is_err()
        {
            return;
        }
    }
}

/// What an event does to the typed line and to the chat.
fn on_event(event: &Event, typed: &mut Typed) -> Option<Input> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => typed.on_key(*key),
        Event::Resize(..) => Some(Input::Redraw),
        _ => None,
    }
}

fn draw(frame: &mut Frame<'_>, room: &Room, status: &Status, typed: &Typed) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(1), Constraint::Length(3)]).areas(frame.area());
    frame.render_widget(header(room, status), head);
    draw_lines(frame, room, body);
    draw_typed(frame, room, typed, foot);
}

fn header(room: &Room, status: &Status) -> Row<'static> {
    let colour = match status.link {
        LinkState::Up(_) => Color::Green,
        LinkState::Connecting => Color::Yellow,
        LinkState::Down(_) | LinkState::Stopped(_) => Color::Red,
    };
    let names =
        Span::styled(format!(" {} → {} ", room.me, printable(&room.name())), Style::new().add_modifier(Modifier::BOLD));
    Row::from(vec![names, Span::styled("● ", colour), Span::raw(super::view::connection(status))])
}

/// The newest rows that fit, the newest at the bottom.
fn draw_lines(frame: &mut Frame<'_>, room: &Room, area: Rect) {
    let height = usize::from(area.height);
    let mut rows = VecDeque::new();
    for line in room.lines().rev() {
        for row in rows_of(line).into_iter().rev().flat_map(|row| wrapped(row, area.width).into_iter().rev()) {
            rows.push_front(row);
        }
        if rows.len() >= height {
            break;
        }
    }
    let above = rows.len().saturating_sub(height);
    let y = area.y + area.height.saturating_sub(rows.len() as u16);
    let shown: Vec<Row<'_>> = rows.into_iter().skip(above).collect();
    frame.render_widget(Paragraph::new(shown), Rect { y, height: area.bottom() - y, ..area });
}

fn draw_typed(frame: &mut Frame<'_>, room: &Room, typed: &Typed, area: Rect) {
    let frame_of_typed = Block::bordered().title(format!(" to {}, /quit ends ", printable(&room.name())));
    let inside = frame_of_typed.inner(area);
    let (before, behind) = typed.halves();
    let before = Span::raw(printable(before));
    let column = before.width();
    let hidden = (column + 1).saturating_sub(usize::from(inside.width)) as u16;
    let cursor = Position::new(inside.x + (column as u16).saturating_sub(hidden), inside.y);
    let typed = Row::from(vec![before, Span::raw(printable(behind))]);
    frame.render_widget(Paragraph::new(typed).block(frame_of_typed).scroll((0, hidden)), area);
    frame.set_cursor_position(cursor);
}

/// A row cut into rows no wider than the screen.
fn wrapped(row: Row<'static>, width: u16) -> Vec<Row<'static>> {
    let mut rows = vec![Row::default().style(row.style)];
    let mut room = usize::from(width);
    for span in row.spans {
        for c in span.content.chars() {
            let piece = Span::styled(c.to_string(), span.style);
            if piece.width() > room {
                rows.push(Row::default().style(row.style));
                room = usize::from(width);
            }
            room = room.saturating_sub(piece.width());
            if let Some(last) = rows.last_mut() {
                last.push_span(piece);
            }
        }
    }
    rows
}

fn rows_of(line: &Line) -> Vec<Row<'static>> {
    match line {
        Line::Own { id, text, state, readers } => {
            let mut rows = text_rows(&printable(text), Style::new());
            if let Some(last) = rows.last_mut() {
                last.push_span(Span::raw(" "));
                last.push_span(Span::styled(mark(state), style(state)));
                last.push_span(Span::styled(by(readers), Style::new().add_modifier(Modifier::DIM)));
                if let Some(hint) = hint(*id, state) {
                    last.push_span(Span::styled(hint, Style::new().fg(Color::Red)));
                }
            }
            rows
        }
        Line::From { who, text } => {
            let mut rows = text_rows(&printable(text), Style::new());
            if let Some(first) = rows.first_mut() {
                first.spans.insert(0, Span::styled(format!("{who}: "), Color::Cyan));
            }
            rows
        }
        Line::Notice(text) => text_rows(&printable(text), Style::new().add_modifier(Modifier::DIM)),
    }
}

fn text_rows(text: &str, style: Style) -> Vec<Row<'static>> {
    // `split`, unlike `lines`, gives a row for an empty text too.
    text.split('\n').map(|row| Row::styled(row.replace('\t', "    "), style)).collect()
}

fn hint(id: u64, state: &MessageState) -> Option<String> {
    match state {
        MessageState::Failed(_) => Some(format!(" not sent: /resend {id}")),
        MessageState::Refused(code) => Some(format!(" {}", code.as_str_name())),
        _ => None,
    }
}

fn style(state: &MessageState) -> Style {
    match state {
        MessageState::Sending | MessageState::Sent(_) | MessageState::Delivered(_) => Style::new().fg(Color::Gray),
        MessageState::Read(_) => Style::new().fg(Color::Blue).add_modifier(Modifier::BOLD),
        MessageState::Failed(_) | MessageState::Refused(_) => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use ratatui::crossterm::event::{KeyCode, KeyEvent};
    use tern_client::{Link, Sent};
    use tern_proto::UserId;

    use super::*;

    fn status() -> Status {
        Status {
            link: LinkState::Up(Link::Tcp),
            caught_up: true,
            sending: 0,
            failed: 0,
            refused: 0,
            unreadable: 0,
            missing: 0,
            unconfirmed: 0,
        }
    }

    fn key(c: char) -> Event {
        Event::Key(KeyEvent::from(KeyCode::Char(c)))
    }

    fn drawn(room: &Room, text: &str) -> String {
        let mut typed = Typed::default();
        for c in text.chars() {
            on_event(&key(c), &mut typed);
        }
        let mut terminal = Terminal::new(TestBackend::new(40, 12)).unwrap();
        terminal.draw(|frame| draw(frame, room, &status(), &typed)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn each_state_has_its_mark() {
        let mut room = Room::new(&UserId::new("alice").unwrap(), &"bob".parse().unwrap());
        let sent = Sent { server_msg_id: 1, conversation: "alice:bob".into(), seq: 1, time_ms: 0 };
        room.own(1, "one".into(), MessageState::Sending);
        room.own(2, "two".into(), MessageState::Sent(sent.clone()));
        room.own(3, "three".into(), MessageState::Read(sent));
        room.own(4, "four".into(), MessageState::Failed("no link".into()));
        let screen = drawn(&room, "typing");
        for text in ["alice → bob", "one ◷", "two ✓", "three ✓✓", "four ! not sent: /resend 4", "│typing"] {
            assert!(screen.contains(text), "{text} in\n{screen}");
        }
    }

    #[test]
    fn a_group_has_its_title_and_the_readers_behind_the_mark() {
        let mut room = Room::new(&UserId::new("alice").unwrap(), &"g/7".parse().unwrap());
        room.title = "Trip\u{1b}[2J".into();
        let sent = Sent { server_msg_id: 1, conversation: "g/7".into(), seq: 1, time_ms: 0 };
        room.own(1, "one".into(), MessageState::Sent(sent));
        let (conversation, member) = ("g/7".into(), "bob".into());
        let kind = tern_proto::v1::ReceiptKind::Read.into();
        room.receipt(&tern_proto::v1::Receipt { conversation, member, kind, seq: 1, time_ms: 0 });
        let screen = drawn(&room, "");
        for text in ["alice → Trip\u{fffd}[2J (g/7)", "one ✓✓ by bob"] {
            assert!(screen.contains(text), "{text} in\n{screen}");
        }
    }

    #[test]
    fn long_lines_wrap_and_the_newest_stay_visible() {
        let mut room = Room::new(&UserId::new("alice").unwrap(), &"bob".parse().unwrap());
        for id in 0..20 {
            room.own(id, format!("{id} {}", "x".repeat(50)), MessageState::Sending);
        }
        room.notice("\u{1b}[2Jsteered".into());
        let screen = drawn(&room, &"y".repeat(100));
        assert!(screen.contains("19 xxx") && !screen.contains("10 xxx"), "{screen}");
        assert!(screen.contains("\u{fffd}[2Jsteered"), "{screen}");
    }

    #[test]
    fn a_long_paste_does_not_hold_the_lock_that_drawing_needs() {
        let typed = Arc::new(Mutex::new(Typed::default()));
        let (sender, mut input) = mpsc::channel(1);
        let keys = Arc::clone(&typed);
        let mut pasted = "abc".chars();
        let next = move || pasted.next().map(key).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into());
        let reader = std::thread::spawn(move || read_keys(next, &keys, &sender));
        // The first input fills the queue, so the second waits in the send.
        let deadline = Instant::now() + Duration::from_secs(30);
        while !typed.try_lock().is_ok_and(|typed| typed.halves().0 == "ab") {
            assert!(Instant::now() < deadline, "the line cannot be drawn while the queue is full");
            std::thread::sleep(Duration::from_millis(1));
        }
        while input.blocking_recv().is_some() {}
        reader.join().unwrap();
        assert_eq!(lock(&typed).halves().0, "abc");
    }
}
