//! The connection of one phone: reads what has come, lets the phone answer, writes all of it at once.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use tern_proto::limits::PACKET_BYTES;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};

use crate::phone::{Phone, Trouble};
use crate::tally::Tally;
use crate::wire::next_packet;

/// Connections from one address of the loopback: near 28,000 its ports would run out, and long before that a free one is hard to find.
const LINKS_PER_ADDRESS: usize = 8_000;

/// What all links of a run share.
#[derive(Debug)]
pub(crate) struct Hub {
    began: Instant,
    /// Which addresses of the loopback the connections come from: not those of the run before, whose ports are still taken.
    network: u8,
    /// Connections opened so far.
    opened: Cell<usize>,
    /// What is read goes here first; a link keeps only the part of a packet.
    scratch: RefCell<Vec<u8>>,
}

impl Hub {
    pub(crate) fn new() -> Rc<Hub> {
        Rc::new(Hub {
            began: Instant::now(),
            network: fastrand::u8(1..),
            opened: Cell::new(0),
            scratch: RefCell::new(vec![0; 4 * PACKET_BYTES]),
        })
    }

    /// The clock of the run, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Connects.
    pub(crate) async fn connect(&self, to: SocketAddr) -> std::io::Result<TcpStream> {
        let number = self.opened.replace(self.opened.get() + 1);
        let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if to.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST) {
            let last = u8::try_from(1 + number / LINKS_PER_ADDRESS).unwrap_or(u8::MAX);
            socket.bind((Ipv4Addr::new(127, 0, self.network, last), 0).into())?;
        }
        let stream = socket.connect(to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// A phone, and how the one who directs the run reaches it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) phone: RefCell<Phone>,
    pub(crate) tally: Rc<RefCell<Tally>>,
    waker: RefCell<Option<Waker>>,
    closing: Cell<bool>,
}

impl Line {
    pub(crate) fn new(phone: Phone, tally: Rc<RefCell<Tally>>) -> Rc<Line> {
        Rc::new(Line { phone: RefCell::new(phone), tally, waker: RefCell::default(), closing: Cell::new(false) })
    }

    /// Gives the phone an order, and wakes its link.
    pub(crate) fn order(&self, order: impl FnOnce(&mut Phone)) {
        order(&mut self.phone.borrow_mut());
        self.wake();
    }

    /// Lets the link close.
    pub(crate) fn close(&self) {
        self.closing.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// An open connection of a line.
pub(crate) struct Link {
    line: Rc<Line>,
    hub: Rc<Hub>,
    stream: TcpStream,
    /// The part of a packet that has come.
    partial: Vec<u8>,
    out: Vec<u8>,
    written: usize,
}

impl Link {
    pub(crate) fn new(line: Rc<Line>, hub: Rc<Hub>, stream: TcpStream) -> Link {
        Link { line, hub, stream, partial: Vec::new(), out: Vec::new(), written: 0 }
    }

    /// Serves the phone until the line closes.
    ///
    /// # Errors
    /// Anything else that ends the link.
    pub(crate) async fn run(mut self) -> Result<(), Trouble> {
        self.line.closing.set(false);
        self.line.phone.borrow_mut().open(&mut self.out)?;
        let ended = poll_fn(|context| self.turn(context)).await;
        self.line.phone.borrow_mut().hang_up();
        ended
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        let known = self.line.waker.borrow().as_ref().is_some_and(|waker| waker.will_wake(context.waker()));
        if !known {
            self.line.waker.replace(Some(context.waker().clone()));
        }
        loop {
            if self.line.closing.get() {
                return Poll::Ready(Ok(()));
            }
            let read = self.read(context)?;
            self.line.phone.borrow_mut().pump(self.hub.now(), &mut self.out)?;
            self.write(context)?;
            if read.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Reads once and lets the phone answer every whole packet.
    fn read(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Trouble>> {
        let mut scratch = self.hub.scratch.borrow_mut();
        let kept = self.partial.len();
        scratch[..kept].copy_from_slice(&self.partial);
        let mut room = ReadBuf::new(&mut scratch[kept..]);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut room))?;
        let bytes = room.filled().len();
        if bytes == 0 {
            return Poll::Ready(Err(Trouble::Closed));
        }
        self.line.tally.borrow_mut().counts.bytes_in += bytes as u64;
        let now = self.hub.now();
        let mut input = &scratch[..kept + bytes];
        let mut phone = self.line.phone.borrow_mut();
        while let Some(packet) = next_packet(&mut input)? {
            phone.on_packet(&packet, now, &mut self.out)?;
        }
        self.partial.clear();
        self.partial.extend_from_slice(input);
        Poll::Ready(Ok(()))
    }

    fn write(&mut self, context: &mut Context<'_>) -> Result<(), Trouble> {
        while self.written < self.out.len() {
            match Pin::new(&mut self.stream).poll_write(context, &self.out[self.written..])? {
                Poll::Ready(bytes) => {
                    self.written += bytes;
                    self.line.tally.borrow_mut().counts.bytes_out += bytes as u64;
                }
                Poll::Pending => return Ok(()),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}
