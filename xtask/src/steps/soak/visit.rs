//! One link from its connect to its end, in each of the ways in which links end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use prost::bytes::BytesMut;
use socket2::{Domain, Socket, Type};
use tern_proto::{Command, Packet, packet, v1};

/// Far more than an answer takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Addresses of the loopback that links come from: a link that was closed cleanly keeps its port for a minute.
const SOURCES: u32 = 64;

/// The ways of a link. Their number and that of a worker's devices have no common factor, so that each device comes in every way.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Hello, sync, close.
    Sync,
    /// Hello, sync, reset.
    SyncReset,
    /// Hello, close.
    Greet,
    /// Hello, and a reset that does not wait for the answer.
    GreetReset,
    /// Connect, close.
    Knock,
    /// Half a hello, close.
    Half,
    /// Hello, half a sync, reset.
    HalfSyncReset,
    /// Two links of one device: the first is displaced.
    Displace,
}

const WAYS: [Way; 8] =
    [Way::Sync, Way::SyncReset, Way::Greet, Way::GreetReset, Way::Knock, Way::Half, Way::HalfSyncReset, Way::Displace];

/// Who comes, and where to.
pub(super) struct Visitor {
    server: SocketAddr,
    /// By device.
    hellos: Vec<Vec<u8>>,
    sync: Vec<u8>,
    workers: u32,
}

impl Visitor {
    /// Devices with their tokens and ids, shared out among so many workers.
    pub(super) fn new<'a>(
        server: &str,
        devices: impl Iterator<Item = (&'a String, String)>,
        workers: u32,
    ) -> Result<Visitor> {
        let hellos = devices.map(|(token, device_id)| {
            let token = token.clone();
            packet(Command::Hello, &v1::HelloRequest { protocol: 1, token, device_id, ..Default::default() })
        });
        let sync = packet(Command::Sync, &v1::SyncRequest::default());
        Ok(Visitor { server: server.parse()?, hellos: hellos.collect(), sync, workers })
    }

    /// Comes and goes. The cycles of one worker, which are those that leave the same remainder, have devices of their own.
    pub(super) fn visit(&self, cycle: u32) -> Result<()> {
        let way = WAYS[(cycle / self.workers) as usize % WAYS.len()];
        let hello = &self.hellos[cycle as usize % self.hellos.len()];
        self.go(way, hello, cycle).with_context(|| format!("{way:?}"))
    }

    fn go(&self, way: Way, hello: &[u8], cycle: u32) -> Result<()> {
        let mut link = self.connect(cycle)?;
        match way {
            Way::Sync | Way::SyncReset => {
                link.ask(hello, Command::Hello)?;
                link.ask(&self.sync, Command::Sync)?;
            }
            Way::Greet => link.ask(hello, Command::Hello)?,
            Way::GreetReset => link.stream.write_all(hello)?,
            Way::Knock => (),
            Way::Half => link.stream.write_all(&hello[..hello.len() / 2])?,
            Way::HalfSyncReset => {
                link.ask(hello, Command::Hello)?;
                link.stream.write_all(&self.sync[..self.sync.len() / 2])?;
            }
            Way::Displace => {
                link.ask(hello, Command::Hello)?;
                // Kept to the end: a link that has ended already displaces nobody.
                let mut newer = self.connect(cycle)?;
                newer.ask(hello, Command::Hello)?;
                let told = link.next()?;
                ensure!(told.known_command() == Some(Command::GoAway), "{told:?} instead of a go-away");
            }
        }
        if matches!(way, Way::SyncReset | Way::GreetReset | Way::HalfSyncReset) {
            link.stream.set_linger(Some(Duration::ZERO))?;
        }
        Ok(())
    }

    fn connect(&self, cycle: u32) -> Result<Link> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + cycle % SOURCES);
        socket.bind(&SocketAddrV4::new(source, 0).into())?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect_timeout(&self.server.into(), PATIENCE)?;
        Ok(Link { stream: socket, input: BytesMut::new() })
    }
}

/// A connection; closed when dropped.
struct Link {
    stream: Socket,
    input: BytesMut,
}

impl Link {
    fn ask(&mut self, request: &[u8], command: Command) -> Result<()> {
        self.stream.write_all(request)?;
        let answer = self.next()?;
        if answer.known_command() == Some(Command::Error) {
            bail!("refused: {:?}", v1::Error::decode(answer.body)?);
        }
        ensure!(answer.command == command.reply(), "{answer:?} instead of a reply to {command:?}");
        Ok(())
    }

    fn next(&mut self) -> Result<Packet> {
        let mut buffer = [0; 1024];
        loop {
            if let Some(packet) = packet::decode(&mut self.input)? {
                return Ok(packet);
            }
            match self.stream.read(&mut buffer)? {
                0 => bail!("the server closed the link"),
                bytes => self.input.extend_from_slice(&buffer[..bytes]),
            }
        }
    }
}

fn packet(command: Command, body: &impl Message) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    Packet::new(command.number(), 1, body).encode(&mut bytes);
    bytes.to_vec()
}
