//! The network between clients and server: a TCP proxy that reads the packets that the server sends and does mischief to them.
//!
//! Each connection draws a [`Mood`] when it is accepted. [`Weather::heal`] ends all mischief and closes what is open.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tern_proto::{Command, packet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// How long a silent link is kept open after its client has gone: the server takes it for alive.
const HALF_OPEN: Duration = Duration::from_secs(3);
/// How long a delayed hint is held back when nothing follows it.
const HELD: Duration = Duration::from_millis(60);
/// Bytes that are moved at a time.
const CHUNK: usize = 16 * 1024;

/// What the proxies did.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub(crate) struct Mischief {
    pub(crate) hints_dropped: AtomicU64,
    pub(crate) hints_doubled: AtomicU64,
    pub(crate) hints_delayed: AtomicU64,
    pub(crate) replies_swallowed: AtomicU64,
    pub(crate) links_cut: AtomicU64,
    pub(crate) links_silenced: AtomicU64,
}

/// What all connections of a run share.
pub(crate) struct Weather {
    /// What was done so far.
    pub(crate) mischief: Mischief,
    calm: watch::Sender<bool>,
    seeds: Mutex<fastrand::Rng>,
}

impl Weather {
    /// Bad weather from a seed.
    pub(crate) fn new(seed: u64) -> Arc<Weather> {
        let (calm, _) = watch::channel(false);
        Arc::new(Weather { mischief: Mischief::default(), calm, seeds: Mutex::new(fastrand::Rng::with_seed(seed)) })
    }

    /// No more mischief; connections that are open now are closed.
    pub(crate) fn heal(&self) {
        self.calm.send_replace(true);
    }

    fn choose(&self, servers: &[SocketAddr]) -> Option<SocketAddr> {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner).choice(servers).copied()
    }

    fn next_seed(&self) -> u64 {
        self.seeds.lock().unwrap_or_else(PoisonError::into_inner).u64(..)
    }
}

/// What a proxy carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// Packets.
    LongLink,
    /// HTTP.
    ShortLink,
}

/// A listening proxy.
pub(crate) struct Proxy {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    upstream: watch::Sender<Vec<SocketAddr>>,
}

impl Proxy {
    /// Listens on a free port of the loopback.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn start(carries: Carries, weather: Arc<Weather>) -> std::io::Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let (upstream, to) = watch::channel(Vec::new());
        let address = listener.local_addr()?;
        // Ends with the runtime; holds one task per connection, and connections end with their client or server.
        tokio::spawn(accept(listener, carries, weather, to));
        Ok(Proxy { address, upstream })
    }

    /// Says where the server is now, or each of its gateways, of which every connection gets one at random; nowhere while it is down.
    pub(crate) fn point_at(&self, servers: Vec<SocketAddr>) {
        self.upstream.send_replace(servers);
    }
}

async fn accept(listener: TcpListener, carries: Carries, weather: Arc<Weather>, to: watch::Receiver<Vec<SocketAddr>>) {
    while let Ok((client, _)) = listener.accept().await {
        let Some(server) = weather.choose(&to.borrow()) else { continue };
        let mood = Mood::draw(carries, &weather);
        let weather = Arc::clone(&weather);
        tokio::spawn(async move {
            if let Ok(server) = TcpStream::connect(server).await {
                connection(client, server, mood, weather).await;
            }
        });
    }
}

/// What will happen to a connection. Probabilities are per packet or, where packets are not read, per chunk.
struct Mood {
    rng: fastrand::Rng,
    carries: Carries,
    drop_hint: f64,
    double_hint: f64,
    delay_hint: f64,
    swallow_reply: f64,
    cut: f64,
    silence: f64,
}

impl Mood {
    fn draw(carries: Carries, weather: &Weather) -> Mood {
        let mut rng = fastrand::Rng::with_seed(weather.next_seed());
        let some = |rng: &mut fastrand::Rng, share: f64, rate: f64| if rng.f64() < share { rate } else { 0.0 };
        let mut mood = Mood {
            carries,
            drop_hint: some(&mut rng, 0.3, 0.3),
            double_hint: some(&mut rng, 0.3, 0.2),
            delay_hint: some(&mut rng, 0.3, 0.2),
            swallow_reply: some(&mut rng, 0.4, 0.04),
            cut: some(&mut rng, 0.5, 0.01),
            silence: some(&mut rng, 0.2, 0.005),
            rng,
        };
        if mood.rng.u32(0..12) == 0 {
            mood.drop_hint = 1.0;
        }
        if *weather.calm.borrow() {
            mood = Mood {
                drop_hint: 0.0,
                double_hint: 0.0,
                delay_hint: 0.0,
                swallow_reply: 0.0,
                cut: 0.0,
                silence: 0.0,
                ..mood
            };
        }
        mood
    }

    fn happens(&mut self, probability: f64) -> bool {
        self.rng.f64() < probability
    }
}

/// Why a connection ends.
enum End {
    /// One side closed, the weather cleared, or the link was cut.
    Close,
    /// Nothing is forwarded any more, and nothing closed.
    Silence,
}

async fn connection(client: TcpStream, server: TcpStream, mut mood: Mood, weather: Arc<Weather>) {
    if client.set_nodelay(true).is_err() || server.set_nodelay(true).is_err() {
        return;
    }
    let mut calm = weather.calm.subscribe();
    let upward_mood = Mood { rng: mood.rng.fork(), ..mood };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let end = tokio::select! {
        end = upward(&mut from_client, &mut to_server, upward_mood, &weather) => end,
        end = downward(&mut from_server, &mut to_client, mood, &weather) => end,
        _ = calm.changed() => End::Close,
    };
    if let End::Silence = end {
        weather.mischief.links_silenced.fetch_add(1, Ordering::Relaxed);
        let gone = async { while matches!(from_client.read(&mut [0; 1024]).await, Ok(1..)) {} };
        tokio::select! {
            () = async { gone.await; tokio::time::sleep(HALF_OPEN).await } => {}
            _ = calm.changed() => {}
        }
    }
}

/// Client to server, in chunks.
async fn upward(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut mood: Mood, weather: &Weather) -> End {
    let mut chunk = vec![0; CHUNK];
    loop {
        let Ok(count @ 1..) = from.read(&mut chunk).await else { return End::Close };
        if mood.happens(mood.cut) {
            return cut(to, &chunk[..count], weather).await;
        }
        if mood.happens(mood.silence) {
            return End::Silence;
        }
        if to.write_all(&chunk[..count]).await.is_err() {
            return End::Close;
        }
    }
}

/// Server to client.
async fn downward(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mood: Mood, weather: &Weather) -> End {
    match mood.carries {
        Carries::LongLink => packets_down(from, to, mood, weather).await,
        Carries::ShortLink => chunks_down(from, to, mood, weather).await,
    }
}

async fn chunks_down(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut mood: Mood, weather: &Weather) -> End {
    let mut chunk = vec![0; CHUNK];
    loop {
        let Ok(count @ 1..) = from.read(&mut chunk).await else { return End::Close };
        if mood.happens(mood.swallow_reply) {
            weather.mischief.replies_swallowed.fetch_add(1, Ordering::Relaxed);
            return End::Close;
        }
        if mood.happens(mood.cut) {
            return cut(to, &chunk[..count], weather).await;
        }
        if to.write_all(&chunk[..count]).await.is_err() {
            return End::Close;
        }
    }
}

async fn packets_down(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, mut mood: Mood, weather: &Weather) -> End {
    let mut input = BytesMut::new();
    let mut held: Option<(Bytes, Instant)> = None;
    loop {
        let due = held.as_ref().map(|(_, due)| *due);
        tokio::select! {
            read = from.read_buf(&mut input) => {
                if !matches!(read, Ok(1..)) {
                    return End::Close;
                }
            }
            () = async { match due { Some(due) => sleep_until(due).await, None => std::future::pending().await } } => {}
        }
        let mut out = Vec::new();
        loop {
            let packet = match packet::decode(&mut input) {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(_) => return End::Close,
            };
            let mut bytes = BytesMut::new();
            packet.encode(&mut bytes);
            let bytes = bytes.freeze();
            let is_hint = packet.sequence == 0 && packet.command != Command::Error.number();
            if is_hint && mood.happens(mood.drop_hint) {
                weather.mischief.hints_dropped.fetch_add(1, Ordering::Relaxed);
            } else if is_hint && held.is_none() && mood.happens(mood.delay_hint) {
                weather.mischief.hints_delayed.fetch_add(1, Ordering::Relaxed);
                held = Some((bytes, Instant::now() + HELD));
            } else if is_hint && mood.happens(mood.double_hint) {
                weather.mischief.hints_doubled.fetch_add(1, Ordering::Relaxed);
                out.extend([bytes.clone(), bytes]);
            } else if packet.command == Command::Send.reply() && mood.happens(mood.swallow_reply) {
                weather.mischief.replies_swallowed.fetch_add(1, Ordering::Relaxed);
            } else if mood.happens(mood.cut) {
                return cut(to, &bytes, weather).await;
            } else if mood.happens(mood.silence) {
                return End::Silence;
            } else {
                out.push(bytes);
            }
        }
        if let Some((late, due)) = held.take() {
            // Behind what came after it, or alone when its time is over.
            if !out.is_empty() || due <= Instant::now() { out.push(late) } else { held = Some((late, due)) }
        }
        if to.write_all(&out.concat()).await.is_err() {
            return End::Close;
        }
    }
}

/// Lets the first half through and ends the link.
async fn cut(to: &mut OwnedWriteHalf, bytes: &[u8], weather: &Weather) -> End {
    weather.mischief.links_cut.fetch_add(1, Ordering::Relaxed);
    // The link ends either way.
    let _ = to.write_all(&bytes[..bytes.len() / 2]).await;
    End::Close
}

#[cfg(test)]
mod tests {
    use tern_proto::Packet;

    use super::*;

    /// What a client gets of the packets that a server writes at once, over a connection in this mood.
    async fn through(mood: Mood, packets: &[Packet]) -> Vec<Packet> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let near = TcpStream::connect(address).await.unwrap();
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(address).await.unwrap();
        let (far, _) = listener.accept().await.unwrap();
        let task = tokio::spawn(connection(near, far, mood, Weather::new(1)));
        let mut out = BytesMut::new();
        packets.iter().for_each(|packet| packet.encode(&mut out));
        server.write_all(&out).await.unwrap();
        server.shutdown().await.unwrap();
        let mut input = BytesMut::new();
        while matches!(client.read_buf(&mut input).await, Ok(1..)) {}
        task.await.unwrap();
        std::iter::from_fn(|| packet::decode(&mut input).unwrap()).collect()
    }

    fn mood() -> Mood {
        let weather = Weather::new(1);
        weather.heal();
        Mood::draw(Carries::LongLink, &weather)
    }

    #[tokio::test]
    async fn hints_are_dropped_doubled_and_overtaken_and_replies_are_not() {
        let (hint, reply) = (Packet::empty(Command::Notify.number(), 0), Packet::empty(Command::Sync.reply(), 5));
        let both = [hint.clone(), reply.clone()];
        assert_eq!(through(mood(), &both).await, both);
        let dropped = Mood { drop_hint: 1.0, ..mood() };
        assert_eq!(through(dropped, &both).await, both[1..]);
        let doubled = Mood { double_hint: 1.0, ..mood() };
        assert_eq!(through(doubled, &both).await, [hint.clone(), hint.clone(), reply.clone()]);
        let delayed = Mood { delay_hint: 1.0, ..mood() };
        assert_eq!(through(delayed, &both).await, [reply, hint]);
    }

    #[tokio::test]
    async fn replies_to_sends_are_swallowed_and_links_are_cut_in_mid_packet() {
        let (sent, synced) = (Packet::empty(Command::Send.reply(), 4), Packet::empty(Command::Sync.reply(), 5));
        let both = [sent, synced];
        let swallowing = Mood { swallow_reply: 1.0, ..mood() };
        assert_eq!(through(swallowing, &both).await, both[1..]);
        let cutting = Mood { cut: 1.0, ..mood() };
        assert_eq!(through(cutting, &both).await, []);
    }
}
