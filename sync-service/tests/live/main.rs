//! Routes, what was committed lately, and hints on the servers that keep and carry them, each a process of its own: one contract for all kinds, and what becomes of them when the servers fail.

// What fails here fails the test.
#![allow(clippy::unwrap_used)]

mod contract;
mod hints;
mod outages;
mod recent;
mod servers;
