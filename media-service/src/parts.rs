//! Which parts of an upload are there.

use tern_proto::v1::MissingParts;

/// A set of parts: one bit for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parts {
    words: Vec<u64>,
    count: u32,
    left: u32,
}

impl Parts {
    /// None of `count` parts.
    pub fn none_of(count: u32) -> Parts {
        Parts { words: vec![0; count.div_ceil(64) as usize], count, left: count }
    }

    /// Whether the part is there.
    pub fn has(&self, index: u32) -> bool {
        self.words.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Notes that the part is there.
    pub fn insert(&mut self, index: u32) {
        if index < self.count && !self.has(index) {
            self.words[index as usize / 64] |= 1 << (index % 64);
            self.left -= 1;
        }
    }

    /// How many there are when all are there.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How many are missing.
    pub fn left(&self) -> u32 {
        self.left
    }

    /// Which are missing: at most `limit` runs, ascending.
    pub fn missing(&self, limit: usize) -> Vec<MissingParts> {
        let mut runs: Vec<MissingParts> = Vec::new();
        for index in (0..self.count).filter(|index| !self.has(*index)) {
            if let Some(run) = runs.last_mut().filter(|run| run.last + 1 == index) {
                run.last = index;
            } else if runs.len() < limit {
                runs.push(MissingParts { first: index, last: index });
            } else {
                break;
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_counted_once() {
        let mut parts = Parts::none_of(130);
        for index in [0, 129, 64, 64, 130, u32::MAX] {
            parts.insert(index);
        }
        assert_eq!((parts.left(), parts.count()), (127, 130));
        assert!(parts.has(129) && !parts.has(130) && !parts.has(1));
    }

    #[test]
    fn what_is_missing_is_told_in_runs() {
        let mut parts = Parts::none_of(200);
        let run = |first, last| MissingParts { first, last };
        assert_eq!(parts.missing(9), [run(0, 199)]);
        for index in [0, 63, 64, 199] {
            parts.insert(index);
        }
        assert_eq!(parts.missing(9), [run(1, 62), run(65, 198)]);
        assert_eq!(parts.missing(1), [run(1, 62)]);
        (0..200).for_each(|index| parts.insert(index));
        assert_eq!((parts.missing(9), parts.left()), (vec![], 0));
    }
}
