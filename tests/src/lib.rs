//! The checker: clients that record, a nemesis that acts, a model that holds the history to the invariants.
