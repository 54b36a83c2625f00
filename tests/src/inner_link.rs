//! The network between the services: a TCP proxy in front of each process, which can be cut, hold everything back as a black hole does, or do mischief to hints.

mod hints;

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Bytes that are moved at a time.
const CHUNK: usize = 64 * 1024;

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It arrives.
    Open,
    /// Connections are closed, and new ones too.
    Cut,
    /// It is held back, and nobody is told; when the link opens again it arrives.
    Hole,
    /// It arrives, but hints are dropped, doubled, delayed and shuffled.
    Mangled,
}

/// What a link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// What is understood at its two ends alone.
    Calls,
    /// What a NATS server sends and is sent.
    Hints,
}

/// The way to one process.
pub(crate) struct InnerLink {
    /// Where its callers connect.
    pub(crate) port: u16,
    state: watch::Sender<State>,
}

impl InnerLink {
    /// Listens on a free port of the loopback, in front of what listens on `to`.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn start(to: u16, carries: Carries) -> std::io::Result<InnerLink> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (state, seen) = watch::channel(State::Open);
        // Ends with the runtime.
        tokio::spawn(accept(listener, SocketAddr::from(([127, 0, 0, 1], to)), carries, seen));
        Ok(InnerLink { port, state })
    }

    /// From now on.
    pub(crate) fn set(&self, state: State) {
        self.state.send_replace(state);
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, carries: Carries, state: watch::Receiver<State>) {
    while let Ok((near, _)) = listener.accept().await {
        if *state.borrow() != State::Cut {
            tokio::spawn(connection(near, to, carries, state.clone()));
        }
    }
}

async fn connection(near: TcpStream, to: SocketAddr, carries: Carries, state: watch::Receiver<State>) {
    let Ok(far) = TcpStream::connect(to).await else { return };
    if near.set_nodelay(true).is_err() || far.set_nodelay(true).is_err() {
        return;
    }
    let (from_near, to_near) = near.into_split();
    let (from_far, to_far) = far.into_split();
    let back = async {
        match carries {
            Carries::Calls => carry(from_far, to_near, state.clone()).await,
            Carries::Hints => hints::carry(from_far, to_near, state.clone()).await,
        }
    };
    let mut cut = state.clone();
    tokio::select! {
        () = carry(from_near, to_far, state.clone()) => {}
        () = back => {}
        _ = cut.wait_for(|state| *state == State::Cut) => {}
    }
}

/// One way, until either end closes.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut state: watch::Receiver<State>) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        if !opened(&mut state).await || to.write_all(&chunk[..count]).await.is_err() {
            return;
        }
    }
}

/// Waits until something goes through; `false` if that will never be.
async fn opened(state: &mut watch::Receiver<State>) -> bool {
    state.wait_for(|state| matches!(state, State::Open | State::Mangled)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_hole_holds_back_and_a_cut_closes() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let link = InnerLink::start(listener.local_addr().unwrap().port(), Carries::Calls).await.unwrap();
        let mut near = TcpStream::connect(("127.0.0.1", link.port)).await.unwrap();
        let (mut far, _) = listener.accept().await.unwrap();
        let mut got = [0; 3];
        near.write_all(b"one").await.unwrap();
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"one");
        link.set(State::Hole);
        near.write_all(b"two").await.unwrap();
        assert!(timeout(Duration::from_millis(50), far.read_exact(&mut got)).await.is_err());
        link.set(State::Open);
        far.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"two");
        link.set(State::Cut);
        assert_eq!(near.read(&mut got).await.unwrap(), 0);
        let mut again = TcpStream::connect(("127.0.0.1", link.port)).await.unwrap();
        assert_eq!(again.read(&mut got).await.unwrap(), 0, "nor is a new one taken");
    }
}
