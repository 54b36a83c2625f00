//! Holds what one receiver got from one sender against what was sent: each number once, and in order.

use std::collections::BTreeSet;
use std::ops::AddAssign;

/// The numbers that have come from one sender, who counts 1, 2, 3.
#[derive(Clone, Debug, Default)]
pub(crate) struct Order {
    /// The highest number that came.
    highest: u64,
    /// Numbers below it that have not come; empty unless something is wrong.
    missing: BTreeSet<u64>,
    duplicated: u64,
    out_of_order: u64,
}

/// What was wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    /// Sent, and never delivered.
    pub(crate) lost: u64,
    /// Deliveries of something that had been delivered.
    pub(crate) duplicated: u64,
    /// Deliveries behind a later message of the same sender.
    pub(crate) out_of_order: u64,
}

impl Order {
    /// Takes note of a delivery.
    pub(crate) fn came(&mut self, number: u64) {
        if number > self.highest {
            self.missing.extend(self.highest + 1..number);
            self.highest = number;
        } else if self.missing.remove(&number) {
            self.out_of_order += 1;
        } else {
            self.duplicated += 1;
        }
    }

    /// The verdict, when 1 to `sent` were sent and no more will come.
    pub(crate) fn faults(&self, sent: u64) -> Faults {
        let never = sent.saturating_sub(self.highest);
        Faults { lost: self.missing.len() as u64 + never, duplicated: self.duplicated, out_of_order: self.out_of_order }
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, more: Faults) {
        self.lost += more.lost;
        self.duplicated += more.duplicated;
        self.out_of_order += more.out_of_order;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(sent: u64, came: &[u64]) -> Faults {
        let mut order = Order::default();
        came.iter().for_each(|number| order.came(*number));
        order.faults(sent)
    }

    #[test]
    fn each_number_once_and_in_order_is_right() {
        assert_eq!(judge(3, &[1, 2, 3]), Faults::default());
        assert_eq!(judge(0, &[]), Faults::default());
    }

    #[test]
    fn what_is_lost_doubled_or_late_is_counted() {
        let faults = |lost, duplicated, out_of_order| Faults { lost, duplicated, out_of_order };
        assert_eq!(judge(3, &[1, 2]), faults(1, 0, 0), "the last");
        assert_eq!(judge(3, &[2, 3]), faults(1, 0, 0), "the first");
        assert_eq!(judge(5, &[1, 4]), faults(3, 0, 0), "some in between, and the last");
        assert_eq!(judge(3, &[1, 2, 2, 3, 1]), faults(0, 2, 0));
        assert_eq!(judge(3, &[1, 3, 2]), faults(0, 0, 1));
        assert_eq!(judge(3, &[3, 1, 1]), faults(1, 1, 1));
    }
}
