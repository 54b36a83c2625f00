//! One module per step.

pub(crate) mod check;
pub(crate) mod cluster;
pub(crate) mod disk;
pub(crate) mod fuzz;
pub(crate) mod media;
pub(crate) mod pipe;
pub(crate) mod readme;
pub(crate) mod smoke;
pub(crate) mod soak;
pub(crate) mod tools;
pub(crate) mod workspace;
