//! The spans of a trace as a tree.

use std::collections::HashSet;
use std::fmt;

/// A span, as far as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) id: Vec<u8>,
    pub(super) parent: Vec<u8>,
    pub(super) service: String,
    pub(super) name: String,
    /// In nanoseconds since 1970.
    pub(super) start: u64,
    pub(super) end: u64,
    /// What was noted, such as `tern.message=7`.
    pub(super) notes: Vec<String>,
}

/// Shows spans below each other: what follows on what, and in its order.
pub(super) struct Tree<'a>(pub(super) &'a [Span]);

impl fmt::Display for Tree<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: HashSet<&[u8]> = self.0.iter().map(|span| span.id.as_slice()).collect();
        // The first one's parent may be the client's, or has not come.
        let mut waiting = sorted(self.0.iter().filter(|span| !known.contains(span.parent.as_slice())));
        let began = waiting.last().map_or(0, |(_, span)| span.start);
        let mut shown = HashSet::new();
        while let Some((depth, span)) = waiting.pop() {
            if !shown.insert(&span.id) {
                continue;
            }
            let indent = 2 * depth;
            let name = format!("{:indent$}{}", "", span.name);
            let (after, took) = (span.start.saturating_sub(began), span.end.saturating_sub(span.start));
            write!(f, "  {name:<28} {:<14} +{:>9} {:>9}", span.service, Millis(after), Millis(took))?;
            span.notes.iter().try_for_each(|note| write!(f, "  {note}"))?;
            writeln!(f)?;
            let below = sorted(self.0.iter().filter(|other| other.parent == span.id));
            waiting.extend(below.into_iter().map(|(_, span)| (depth + 1, span)));
        }
        Ok(())
    }
}

/// The latest first, because the last one is taken first.
fn sorted<'a>(spans: impl Iterator<Item = &'a Span>) -> Vec<(usize, &'a Span)> {
    let mut spans: Vec<(usize, &Span)> = spans.map(|span| (0, span)).collect();
    spans.sort_by_key(|(_, span)| std::cmp::Reverse(span.start));
    spans
}

struct Millis(u64);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:.2} ms", self.0 as f64 / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u8, parent: u8, name: &str, start: u64, end: u64) -> Span {
        let parent = if parent == 0 { Vec::new() } else { vec![parent] };
        let (service, notes) =
            ("tern-x".to_owned(), if id == 1 { vec!["tern.message=7".to_owned()] } else { Vec::new() });
        let (start, end) = (start * 1_000_000, end * 1_000_000);
        Span { id: vec![id], parent, service, name: name.into(), start, end, notes }
    }

    #[test]
    fn spans_stand_below_what_they_follow_on_in_their_order() {
        let spans = [
            span(4, 2, "hint", 16, 17),
            span(3, 2, "storage.commit", 12, 15),
            span(5, 4, "deliver", 18, 19),
            span(1, 9, "send", 10, 20),
            span(2, 1, "sync.send", 11, 18),
        ];
        let shown = Tree(&spans).to_string();
        let want = [
            "  send                         tern-x         +  0.00 ms  10.00 ms  tern.message=7",
            "    sync.send                  tern-x         +  1.00 ms   7.00 ms",
            "      storage.commit           tern-x         +  2.00 ms   3.00 ms",
            "      hint                     tern-x         +  6.00 ms   1.00 ms",
            "        deliver                tern-x         +  8.00 ms   1.00 ms",
        ];
        assert_eq!(shown.lines().collect::<Vec<_>>(), want);
    }

    #[test]
    fn spans_that_follow_on_each_other_are_shown_no_more_than_once() {
        assert_eq!(Tree(&[span(1, 2, "a", 1, 2), span(2, 1, "b", 1, 2)]).to_string(), "");
        assert_eq!(Tree(&[span(1, 0, "a", 1, 2), span(1, 0, "a", 1, 2)]).to_string().lines().count(), 1);
    }
}
