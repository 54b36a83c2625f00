//! One module per step.

pub(crate) mod check;
pub(crate) mod pipe;
pub(crate) mod readme;
pub(crate) mod smoke;
pub(crate) mod tools;
pub(crate) mod workspace;
