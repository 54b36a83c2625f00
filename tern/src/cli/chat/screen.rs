//! A chat on a terminal: the connection on top, the conversation, the line being typed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ratatui::DefaultTerminal;
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ratatui::layout::{Constraint, Layout, Position, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Row, Span};
use ratatui::widgets::{Block, Paragraph};
use tern_client::{LinkState, MessageState, Status};
use tern_proto::limits::TEXT_BYTES;
use tokio::sync::mpsc;

use super::Input;
use super::room::{Line, Room, mark};
use crate::cli::watch::printable;

/// Key strokes that wait to be taken.
const AHEAD: usize = 64;

/// The terminal; restored when dropped.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    typed: Arc<Mutex<String>>,
}

impl Screen {
    /// Takes the terminal over and reads its keys on a thread of its own, which ends with the process.
    pub(super) fn open() -> std::io::Result<(Screen, mpsc::Receiver<Input>)> {
        let terminal = ratatui::try_init()?;
        let typed = Arc::new(Mutex::new(String::new()));
        let (sender, input) = mpsc::channel(AHEAD);
        let keys = Arc::clone(&typed);
        let read = move || {
            while let Ok(event) = event::read() {
                if let Some(input) = on_event(&event, &mut lock(&keys))
                    && sender.blocking_send(input).is_err()
                {
                    return;
                }
            }
        };
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

fn lock(typed: &Mutex<String>) -> MutexGuard<'_, String> {
    typed.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a key does to the typed line and to the chat.
fn on_event(event: &Event, typed: &mut String) -> Option<Input> {
    match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => on_key(*key, typed),
        Event::Resize(..) => Some(Input::Redraw),
        _ => None,
    }
}

fn on_key(key: KeyEvent, typed: &mut String) -> Option<Input> {
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c' | 'd') if control => return Some(Input::Quit),
        KeyCode::Char('u') if control => typed.clear(),
        KeyCode::Char(c) if !control && typed.len() + c.len_utf8() <= TEXT_BYTES => typed.push(c),
        KeyCode::Backspace => drop(typed.pop()),
        KeyCode::Enter => return Some(Input::Line(std::mem::take(typed))),
        _ => return None,
    }
    Some(Input::Redraw)
}

fn draw(frame: &mut Frame<'_>, room: &Room, status: &Status, typed: &str) {
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
    let names = Span::styled(format!(" {} → {} ", room.me, room.to), Style::new().add_modifier(Modifier::BOLD));
    Row::from(vec![names, Span::styled("● ", colour), Span::raw(super::connection(status))])
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

fn draw_typed(frame: &mut Frame<'_>, room: &Room, typed: &str, area: Rect) {
    let frame_of_typed = Block::bordered().title(format!(" to {}, /quit ends ", room.to));
    let inside = frame_of_typed.inner(area);
    let typed = Row::from(printable(typed));
    let hidden = (typed.width() + 1).saturating_sub(usize::from(inside.width)) as u16;
    let cursor = Position::new(inside.x + (typed.width() as u16).saturating_sub(hidden), inside.y);
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
        Line::Own { id, text, state } => {
            let mut rows = text_rows(&printable(text), Style::new());
            if let Some(last) = rows.last_mut() {
                last.push_span(Span::raw(" "));
                last.push_span(Span::styled(mark(state), style(state)));
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
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use tern_client::{Link, Sent};
    use tern_proto::UserId;

    use super::*;

    fn status() -> Status {
        Status { link: LinkState::Up(Link::Tcp), caught_up: true, sending: 0, failed: 0, refused: 0, unconfirmed: 0 }
    }

    fn drawn(room: &Room, typed: &str) -> String {
        let mut terminal = Terminal::new(TestBackend::new(40, 12)).unwrap();
        terminal.draw(|frame| draw(frame, room, &status(), typed)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn each_state_has_its_mark() {
        let mut room = Room::new(&UserId::new("alice").unwrap(), &UserId::new("bob").unwrap());
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
    fn long_lines_wrap_and_the_newest_stay_visible() {
        let mut room = Room::new(&UserId::new("alice").unwrap(), &UserId::new("bob").unwrap());
        for id in 0..20 {
            room.own(id, format!("{id} {}", "x".repeat(50)), MessageState::Sending);
        }
        room.notice("\u{1b}[2Jsteered".into());
        let screen = drawn(&room, &"y".repeat(100));
        assert!(screen.contains("19 xxx") && !screen.contains("10 xxx"), "{screen}");
        assert!(screen.contains("\u{fffd}[2Jsteered"), "{screen}");
    }

    #[test]
    fn keys_edit_the_line() {
        let mut typed = String::new();
        let mut press = |code, modifiers| on_key(KeyEvent::new(code, modifiers), &mut typed);
        for c in "héx".chars() {
            press(KeyCode::Char(c), KeyModifiers::NONE);
        }
        press(KeyCode::Backspace, KeyModifiers::NONE);
        assert!(matches!(press(KeyCode::Enter, KeyModifiers::NONE), Some(Input::Line(line)) if line == "hé"));
        assert!(matches!(press(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Input::Quit)));
    }
}
