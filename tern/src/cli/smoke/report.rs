//! What was checked, a line each.

use std::fmt::Debug;

/// Prints each check as it is made, and counts.
#[derive(Debug, Default)]
pub(super) struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    /// A headline for the checks that follow.
    pub(super) fn about(&self, what: &str) {
        println!("{what}");
    }

    /// One check; `seen` is shown when it fails.
    pub(super) fn check(&mut self, what: &str, holds: bool, seen: &dyn Debug) {
        if holds {
            self.passed += 1;
            println!("  ok      {what}");
        } else {
            self.failed += 1;
            println!("  FAILED  {what}\n          seen: {seen:?}");
        }
    }

    /// Two things that must be equal.
    pub(super) fn same<T: PartialEq + Debug>(&mut self, what: &str, seen: &T, wanted: &T) {
        self.check(what, seen == wanted, &format_args!("{seen:?}, wanted: {wanted:?}"));
    }

    /// The last line; whether everything holds.
    pub(super) fn end(&self) -> bool {
        println!("\n{} checks passed, {} failed", self.passed, self.failed);
        self.failed == 0
    }
}
