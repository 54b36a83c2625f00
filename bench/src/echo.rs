//! The floor: a server that sends back what it gets, with nothing in between but the sockets and the runtime that Tern uses.

use std::cell::RefCell;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::task::{Poll, ready};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// One for all links: a link that is idle holds no memory but its task.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// The options of the echo: it has none.
#[derive(Clone, Debug, clap::Args)]
pub struct EchoArgs {}

/// Serves on a free port of the loopback, which it prints, until the process is killed.
///
/// # Errors
/// There is no port, or no descriptor for one more connection.
pub fn echo(_args: &EchoArgs) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        println!("echo ready: long-link {0} http {0}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(serve(stream));
        }
    })
}

/// Until the other side is gone.
async fn serve(mut stream: TcpStream) {
    let served = async {
        stream.set_nodelay(true)?;
        while let Some(unsent) = turn(&mut stream).await? {
            stream.write_all(&unsent).await?;
        }
        io::Result::Ok(())
    };
    // Whoever hangs up is done.
    let _ = served.await;
}

/// Reads once and sends it back; what the socket does not take is returned. `None` at the end.
async fn turn(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    std::future::poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut room = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *stream).poll_read(context, &mut room))?;
            let read = room.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(None));
            }
            let sent = match stream.try_write(read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                sent => sent?,
            };
            Poll::Ready(Ok(Some(read[sent..].to_vec())))
        })
    })
    .await
}
