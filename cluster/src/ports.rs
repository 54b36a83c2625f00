//! Ports for servers of our own.

use std::io;
use std::net::TcpListener;
use std::ops::Range;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Below those that the system gives to connections: one of these might go to a connection before it is listened on.
const PORTS: Range<u16> = 20_000..32_000;
/// Where the last one was found. Each process begins elsewhere.
static LAST: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(0..PORTS.len() as u16)));

/// A port that nobody listens on now, and that this process was not given before: whoever has it may not listen yet.
///
/// # Errors
/// There is none.
pub fn free_port() -> io::Result<u16> {
    let length = PORTS.len() as u16;
    let mut candidates = (0..length).map(|_| PORTS.start + LAST.fetch_add(1, Ordering::Relaxed) % length);
    let free = candidates.find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    free.ok_or_else(|| io::Error::other(format!("no port from {} to {} is free", PORTS.start, PORTS.end)))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: HashSet<u16> = (0..1_000).map(|_| free_port().unwrap()).collect();
        assert_eq!(ports.len(), 1_000);
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
