//! How much of a page is left.

/// What is left of a page, of entries or of history.
pub(crate) struct Room {
    entries: usize,
    bytes: usize,
    empty: bool,
}

impl Room {
    /// For so many entries of so many encoded bytes, as elements of a repeated field.
    pub(crate) fn new(entries: usize, bytes: usize) -> Room {
        Room { entries, bytes, empty: true }
    }

    /// Whether anything may still come.
    pub(crate) fn is_open(&self) -> bool {
        self.entries > 0 || self.empty
    }

    /// Whether the entry still fits; the first always does.
    pub(crate) fn take(&mut self, entry: &impl prost::Message) -> bool {
        let length = entry.encoded_len();
        // As an element of a repeated field: a tag of one byte and its length.
        let bytes = 1 + prost::length_delimiter_len(length) + length;
        if !self.empty && (self.entries == 0 || bytes > self.bytes) {
            // What comes after an entry that did not fit does not overtake it.
            self.entries = 0;
            return false;
        }
        self.empty = false;
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        true
    }
}
