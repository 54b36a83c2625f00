//! NATS core and JetStream (publish-ack; one durable push consumer with explicit acks per receiver).
use super::{find, stamp, Conf, Ev, Proto, Role};
use std::io::{Read, Write};

pub struct Nats {
    role: Role,
    js: bool,
    idx: usize,
    run: String,
    subj: String,
    dedup: bool,
    seq: u64,
    stage: u8,
}
impl Nats {
    pub fn new(c: &Conf, role: Role, idx: usize, js: bool) -> Nats {
        let subj = if c.fanout { "f.all".into() } else { format!("c.{}{idx}", c.run) };
        Nats { role, js, idx, run: c.run.clone(), subj, dedup: c.dedup, seq: 0, stage: 0 }
    }
}
const HELLO: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"lang\":\"lg\",\"version\":\"1\",\"headers\":true,\"protocol\":1}\r\n";
impl Proto for Nats {
    fn start(&mut self, _out: &mut Vec<u8>) {}
    fn on_data(&mut self, inp: &[u8], out: &mut Vec<u8>, ev: &mut Vec<Ev>) -> usize {
        let mut at = 0;
        loop {
            let b = &inp[at..];
            let Some(eol) = find(b, b"\r\n") else { return at };
            let line = &b[..eol];
            if line.starts_with(b"MSG ") || line.starts_with(b"HMSG ") {
                let f: Vec<&[u8]> = line.split(|c| *c == b' ').collect();
                let len: usize = std::str::from_utf8(f[f.len() - 1]).unwrap().parse().unwrap();
                if b.len() < eol + 2 + len + 2 {
                    return at;
                }
                let mut skip = 0;
                if b[0] == b'H' {
                    skip = std::str::from_utf8(f[f.len() - 2]).unwrap().parse().unwrap();
                }
                let body = &b[eol + 2 + skip..eol + 2 + len];
                at += eol + 2 + len + 2;
                if !self.js {
                    ev.push(Ev::Deliver(stamp(body)));
                } else if f[2] == b"2" {
                    // reply of the consumer-create request
                    if find(body, b"\"error\"").is_some() {
                        ev.push(Ev::Error(String::from_utf8_lossy(body).into()));
                    } else {
                        ev.push(Ev::Ready);
                    }
                } else if self.role == Role::Sender {
                    if find(body, b"\"error\"").is_some() {
                        ev.push(Ev::Error(String::from_utf8_lossy(body).into()));
                    }
                    ev.push(Ev::Acked(1));
                } else {
                    if f.len() >= 5 {
                        out.extend_from_slice(b"PUB ");
                        out.extend_from_slice(f[3]);
                        out.extend_from_slice(b" 4\r\n+ACK\r\n");
                    }
                    ev.push(Ev::Deliver(stamp(body)));
                }
                continue;
            }
            at += eol + 2;
            if line.starts_with(b"INFO") && self.stage == 0 {
                self.stage = 1;
                out.extend_from_slice(HELLO.as_bytes());
                let (i, r) = (self.idx, &self.run);
                match (self.role, self.js) {
                    (Role::Receiver, false) => out.extend_from_slice(format!("SUB {} 1\r\n", self.subj).as_bytes()),
                    (Role::Receiver, true) => {
                        let body = format!(
                            "{{\"stream_name\":\"CHAT\",\"config\":{{\"durable_name\":\"r{r}_{i}\",\"deliver_subject\":\"_D.{r}.{i}\",\"ack_policy\":\"explicit\",\"filter_subject\":\"{}\",\"deliver_policy\":\"new\",\"max_ack_pending\":2000}}}}",
                            self.subj
                        );
                        out.extend_from_slice(
                            format!("SUB _D.{r}.{i} 1\r\nSUB _X.{r}.{i} 2\r\nPUB $JS.API.CONSUMER.DURABLE.CREATE.CHAT.r{r}_{i} _X.{r}.{i} {}\r\n{body}\r\n", body.len())
                                .as_bytes(),
                        );
                    }
                    (Role::Sender, true) => out.extend_from_slice(format!("SUB _I.{i} 1\r\n").as_bytes()),
                    _ => {}
                }
                out.extend_from_slice(b"PING\r\n");
            } else if line == b"PING" {
                out.extend_from_slice(b"PONG\r\n");
            } else if line == b"PONG" {
                if self.stage == 1 {
                    self.stage = 2;
                    if !(self.js && self.role == Role::Receiver) {
                        ev.push(Ev::Ready);
                    }
                } else {
                    ev.push(Ev::Pong);
                }
            } else if line.starts_with(b"-ERR") {
                ev.push(Ev::Error(String::from_utf8_lossy(line).into()));
            }
        }
    }
    fn send(&mut self, body: &[u8], out: &mut Vec<u8>) {
        if !self.js {
            let _ = write!(out, "PUB {} {}\r\n", self.subj, body.len());
        } else if self.dedup {
            self.seq += 1;
            let h = format!("NATS/1.0\r\nNats-Msg-Id: {}-{}-{}\r\n\r\n", self.run, self.idx, self.seq);
            let _ = write!(out, "HPUB {} _I.{} {} {}\r\n{}", self.subj, self.idx, h.len(), h.len() + body.len(), h);
        } else {
            let _ = write!(out, "PUB {} _I.{} {}\r\n", self.subj, self.idx, body.len());
        }
        out.extend_from_slice(body);
        out.extend_from_slice(b"\r\n");
    }
    fn ping(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PING\r\n");
    }
}

/// Creates the file-backed stream CHAT on subjects c.* (blocking, before the load starts).
pub fn setup(addr: &str) {
    let mut s = std::net::TcpStream::connect(addr).unwrap();
    let body = "{\"name\":\"CHAT\",\"subjects\":[\"c.*\"],\"storage\":\"file\",\"retention\":\"limits\",\"num_replicas\":1,\"duplicate_window\":120000000000}";
    let req = format!(
        "{HELLO}SUB _S 1\r\nPUB $JS.API.STREAM.DELETE.CHAT 0\r\n\r\nPUB $JS.API.STREAM.CREATE.CHAT _S {}\r\n{body}\r\n",
        body.len()
    );
    s.write_all(req.as_bytes()).unwrap();
    let mut b = vec![0; 65536];
    let mut got = Vec::new();
    while find(&got, b"MSG _S").is_none() {
        let n = s.read(&mut b).unwrap();
        assert!(n > 0, "closed: {}", String::from_utf8_lossy(&got));
        got.extend_from_slice(&b[..n]);
    }
    if find(&got, b"\"error\"").is_some() {
        eprintln!("stream create: {}", String::from_utf8_lossy(&got));
    }
}
