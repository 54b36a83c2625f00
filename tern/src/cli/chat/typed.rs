//! The line being typed.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use tern_proto::limits::TEXT_BYTES;

use super::Input;

/// A text of at most one message, and where the next character goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Typed {
    text: String,
    /// Bytes before the cursor; always whole characters.
    cursor: usize,
}

impl Typed {
    /// What a key does to the line and to the chat.
    pub(super) fn on_key(&mut self, key: KeyEvent) -> Option<Input> {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if control => return Some(Input::Quit),
            KeyCode::Char('u') if control => *self = Typed::default(),
            KeyCode::Char(c) if !control && self.text.len() + c.len_utf8() <= TEXT_BYTES => {
                self.text.insert(self.cursor, c);
                self.cursor += c.len_utf8();
            }
            KeyCode::Backspace if self.cursor > 0 => {
                self.cursor = self.before();
                self.text.remove(self.cursor);
            }
            KeyCode::Delete if self.cursor < self.text.len() => drop(self.text.remove(self.cursor)),
            KeyCode::Left => self.cursor = self.before(),
            KeyCode::Right => self.cursor += self.text[self.cursor..].chars().next().map_or(0, char::len_utf8),
            KeyCode::Home => self.cursor = 0,
            KeyCode::End => self.cursor = self.text.len(),
            KeyCode::Enter => return Some(Input::Line(std::mem::take(self).text)),
            _ => return None,
        }
        Some(Input::Redraw)
    }

    /// The text before the cursor and the text behind it.
    pub(super) fn halves(&self) -> (&str, &str) {
        self.text.split_at(self.cursor)
    }

    /// Where the character before the cursor begins.
    fn before(&self) -> usize {
        self.text[..self.cursor].char_indices().next_back().map_or(0, |(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(typed: &mut Typed, code: KeyCode) -> Option<Input> {
        typed.on_key(KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn keys_edit_the_line() {
        use KeyCode::{Backspace, Char, Delete, End, Enter, Home, Left, Right};
        let mut typed = Typed::default();
        for code in
            [Left, Right, Backspace, Delete, Char('h'), Char('é'), Char('x'), Backspace, Left, Char('ü'), Delete]
        {
            press(&mut typed, code);
        }
        assert_eq!(typed.halves(), ("hü", ""));
        for code in [Home, Char('日'), Right, Left, Left, Right, Char('!'), End, Char('.'), Right] {
            press(&mut typed, code);
        }
        assert_eq!(typed.halves(), ("日!hü.", ""));
        assert!(matches!(press(&mut typed, Enter), Some(Input::Line(line)) if line == "日!hü."));
        assert_eq!(typed.halves(), ("", ""));
        let quit = typed.on_key(KeyEvent::new(Char('c'), KeyModifiers::CONTROL));
        assert!(matches!(quit, Some(Input::Quit)));
    }
}
