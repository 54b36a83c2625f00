//! XMPP client-to-server without TLS: SASL PLAIN, bind, XEP-0198 acks in both directions.
use super::{find, stamp, Conf, Ev, Proto, Role};
use std::io::Write;

pub struct Xmpp {
    role: Role,
    user: String,
    peer: String,
    domain: String,
    register: bool,
    stage: u8,
    sent: u32,
    acked: u32,
    got: u32,
    seq: u64,
}
impl Xmpp {
    pub fn new(c: &Conf, role: Role, idx: usize) -> Xmpp {
        let (u, p) = match role {
            Role::Sender => (format!("s{idx}"), format!("r{idx}")),
            Role::Receiver => (format!("r{idx}"), format!("s{idx}")),
            Role::Idle => (format!("i{idx}"), String::new()),
        };
        Xmpp {
            role,
            user: u,
            peer: p,
            domain: c.domain.clone(),
            register: c.register,
            stage: 0,
            sent: 0,
            acked: 0,
            got: 0,
            seq: 0,
        }
    }
    fn open(&self, out: &mut Vec<u8>) {
        let _ = write!(out, "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams' to='{}' version='1.0'>", self.domain);
    }
    fn auth(&self, out: &mut Vec<u8>) {
        let _ = write!(
            out,
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{}</auth>",
            b64(format!("\0{}\0pw", self.user).as_bytes())
        );
    }
}
fn b64(d: &[u8]) -> String {
    const T: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut s = String::new();
    for c in d.chunks(3) {
        let n = (c[0] as u32) << 16 | (*c.get(1).unwrap_or(&0) as u32) << 8 | *c.get(2).unwrap_or(&0) as u32;
        for k in 0..4 {
            s.push(if k <= c.len() { T[(n >> (18 - 6 * k)) as usize & 63] as char } else { '=' });
        }
    }
    s
}
/// One complete element at the start of `b` (or the stream header): its length.
fn element(b: &[u8]) -> Option<usize> {
    if b.first()? != &b'<' {
        let n = b.iter().position(|c| *c == b'<').unwrap_or(b.len());
        return Some(n);
    }
    let mut depth = 0i32;
    let mut at = 0;
    while at < b.len() {
        let o = at + b[at..].iter().position(|c| *c == b'<')?;
        let e = o + b[o..].iter().position(|c| *c == b'>')?;
        let tag = &b[o..=e];
        if tag.starts_with(b"<?xml") || tag.starts_with(b"<stream:stream") || tag.starts_with(b"</stream:stream") {
            return Some(e + 1);
        }
        if tag[1] == b'/' {
            depth -= 1;
        } else if tag[tag.len() - 2] != b'/' {
            depth += 1;
        }
        at = e + 1;
        if depth == 0 {
            return Some(at);
        }
    }
    None
}
fn h_attr(el: &[u8]) -> Option<u32> {
    let p = find(el, b" h=")? + 4;
    let e = el[p..].iter().position(|c| !c.is_ascii_digit())?;
    std::str::from_utf8(&el[p..p + e]).ok()?.parse().ok()
}
impl Proto for Xmpp {
    fn start(&mut self, out: &mut Vec<u8>) {
        self.open(out);
    }
    fn on_data(&mut self, inp: &[u8], out: &mut Vec<u8>, ev: &mut Vec<Ev>) -> usize {
        let mut at = 0;
        while at < inp.len() {
            let b = &inp[at..];
            let Some(n) = element(b) else { return at };
            let el = &b[..n];
            at += n;
            if el.starts_with(b"<message") {
                self.got += 1;
                if let Some(p) = find(el, b"<body>") {
                    ev.push(Ev::Deliver(stamp(&el[p + 6..])));
                }
            } else if el.starts_with(b"<a ") {
                if let Some(h) = h_attr(el) {
                    if h > self.acked {
                        ev.push(Ev::Acked(h - self.acked));
                        self.acked = h;
                    }
                }
            } else if el.starts_with(b"<r ") || el.starts_with(b"<r/") {
                let _ = write!(out, "<a xmlns='urn:xmpp:sm:3' h='{}'/>", self.got);
            } else if el.starts_with(b"<stream:features") {
                match self.stage {
                    0 if self.register => {
                        self.stage = 1;
                        let _ = write!(out, "<iq type='set' id='reg'><query xmlns='jabber:iq:register'><username>{}</username><password>pw</password></query></iq>", self.user);
                    }
                    0 | 1 => {
                        self.stage = 2;
                        self.auth(out);
                    }
                    _ => {
                        self.stage = 4;
                        let _ = write!(out, "<iq type='set' id='b'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>x</resource></bind></iq>");
                    }
                }
            } else if el.starts_with(b"<success") {
                self.stage = 3;
                self.open(out);
            } else if el.starts_with(b"<iq") {
                if find(el, b"id='reg'").is_some() {
                    self.stage = 2;
                    self.auth(out);
                } else if find(el, b"id='b'").is_some() {
                    out.extend_from_slice(b"<presence/>");
                    if self.role == Role::Idle {
                        ev.push(Ev::Ready);
                    } else {
                        out.extend_from_slice(b"<enable xmlns='urn:xmpp:sm:3'/>");
                    }
                } else if find(el, b"id='p'").is_some() {
                    ev.push(Ev::Pong);
                }
                if self.stage == 5 {
                    self.got += 1;
                }
            } else if el.starts_with(b"<enabled") {
                self.stage = 5;
                ev.push(Ev::Ready);
            } else if el.starts_with(b"<presence") {
                if self.stage == 5 {
                    self.got += 1;
                }
            } else if el.starts_with(b"<failure") || el.starts_with(b"<stream:error") || el.starts_with(b"<failed") {
                ev.push(Ev::Error(String::from_utf8_lossy(el).into()));
            }
        }
        at
    }
    fn send(&mut self, body: &[u8], out: &mut Vec<u8>) {
        self.seq += 1;
        self.sent += 1;
        let _ = write!(out, "<message to='{}@{}' type='chat' id='{:x}'><body>", self.peer, self.domain, self.seq);
        out.extend_from_slice(body);
        out.extend_from_slice(b"</body></message><r xmlns='urn:xmpp:sm:3'/>");
    }
    fn ping(&mut self, out: &mut Vec<u8>) {
        let _ = write!(out, "<iq type='get' id='p' to='{}'><ping xmlns='urn:xmpp:ping'/></iq>", self.domain);
    }
}
