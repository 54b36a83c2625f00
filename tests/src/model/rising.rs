//! A number that only rises, over time.

/// A number that only rises, over time.
#[derive(Default)]
pub(crate) struct Rising {
    /// When, and the highest number by then; in order of time.
    steps: Vec<(u64, u64)>,
}

impl Rising {
    /// It is at least this from a time on.
    pub(crate) fn note(&mut self, at: u64, number: u64) {
        let place = self.steps.partition_point(|(time, _)| *time <= at);
        let before = place.checked_sub(1).map_or(0, |last| self.steps[last].1);
        self.steps.insert(place, (at, number.max(before)));
        for (_, later) in &mut self.steps[place..] {
            *later = number.max(*later);
        }
    }

    /// What it had come to by a time; 0 before the first.
    pub(crate) fn by(&self, at: u64) -> u64 {
        let place = self.steps.partition_point(|(time, _)| *time <= at);
        place.checked_sub(1).map_or(0, |last| self.steps[last].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_falls_whatever_the_order_in_which_it_is_told() {
        let mut rising = Rising::default();
        for (at, number) in [(20, 5), (10, 3), (30, 4), (15, 9)] {
            rising.note(at, number);
        }
        assert_eq!([5, 10, 14, 15, 30].map(|at| rising.by(at)), [0, 3, 3, 9, 9]);
    }
}
