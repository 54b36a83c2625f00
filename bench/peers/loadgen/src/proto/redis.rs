//! RESP streams: XADD as the acked send; receivers follow with XREAD from a cursor (`redis`)
//! or with a consumer group and XACK (`redisg`).
use super::{stamp, Conf, Ev, Proto, Role};

pub struct Redis {
    role: Role,
    group: bool,
    key: String,
    ready: bool,
    last: Vec<u8>,
}
impl Redis {
    pub fn new(c: &Conf, role: Role, idx: usize, group: bool) -> Redis {
        Redis { role, group, key: format!("c:{}:{}", c.run, idx), ready: false, last: b"$".to_vec() }
    }
    fn read(&mut self, out: &mut Vec<u8>) {
        let key = self.key.clone();
        if self.group {
            cmd(
                out,
                &[
                    b"XREADGROUP",
                    b"GROUP",
                    b"g",
                    b"c",
                    b"COUNT",
                    b"100",
                    b"BLOCK",
                    b"0",
                    b"STREAMS",
                    key.as_bytes(),
                    b">",
                ],
            );
        } else {
            let last = self.last.clone();
            cmd(out, &[b"XREAD", b"COUNT", b"100", b"BLOCK", b"0", b"STREAMS", key.as_bytes(), &last]);
        }
    }
}
fn cmd(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for p in parts {
        out.extend_from_slice(format!("${}\r\n", p.len()).as_bytes());
        out.extend_from_slice(p);
        out.extend_from_slice(b"\r\n");
    }
}
enum V<'a> {
    Str(&'a [u8]),
    Int,
    Arr(Vec<V<'a>>),
    Nil,
    Err(&'a [u8]),
}
fn parse<'a>(b: &'a [u8], at: &mut usize) -> Option<V<'a>> {
    let eol = *at + super::find(&b[*at..], b"\r\n")?;
    let t = b[*at];
    let line = &b[*at + 1..eol];
    *at = eol + 2;
    let n = || std::str::from_utf8(line).unwrap_or("").parse::<i64>().unwrap_or(0);
    Some(match t {
        b'+' => V::Str(line),
        b'-' => V::Err(line),
        b':' => V::Int,
        b'$' => {
            let n = n();
            if n < 0 {
                return Some(V::Nil);
            }
            let n = n as usize;
            if b.len() < *at + n + 2 {
                return None;
            }
            let s = &b[*at..*at + n];
            *at += n + 2;
            V::Str(s)
        }
        b'*' => {
            let n = n();
            if n < 0 {
                return Some(V::Nil);
            }
            let mut v = Vec::with_capacity(n as usize);
            for _ in 0..n {
                v.push(parse(b, at)?);
            }
            V::Arr(v)
        }
        _ => V::Nil,
    })
}
impl Proto for Redis {
    fn start(&mut self, out: &mut Vec<u8>) {
        if self.role == Role::Receiver {
            cmd(out, &[b"XGROUP", b"CREATE", self.key.as_bytes(), b"g", b"$", b"MKSTREAM"]);
        } else {
            cmd(out, &[b"PING"]);
        }
    }
    fn on_data(&mut self, inp: &[u8], out: &mut Vec<u8>, ev: &mut Vec<Ev>) -> usize {
        let mut at = 0;
        loop {
            let mut p = at;
            if p >= inp.len() {
                return at;
            }
            let Some(v) = parse(inp, &mut p) else { return at };
            at = p;
            match v {
                V::Err(e) => ev.push(Ev::Error(String::from_utf8_lossy(e).into())),
                V::Str(_) if !self.ready => {
                    self.ready = true;
                    ev.push(Ev::Ready);
                    if self.role == Role::Receiver {
                        if !self.group {
                            self.last = b"0".to_vec();
                        }
                        self.read(out);
                    }
                }
                V::Str(_) => ev.push(if self.role == Role::Sender { Ev::Acked(1) } else { Ev::Pong }),
                V::Arr(streams) => {
                    for s in &streams {
                        let V::Arr(kv) = s else { continue };
                        let V::Arr(entries) = &kv[1] else { continue };
                        let mut ack: Vec<&[u8]> = vec![b"XACK", self.key.as_bytes(), b"g"];
                        for e in entries {
                            let V::Arr(e) = e else { continue };
                            let (V::Str(id), V::Arr(f)) = (&e[0], &e[1]) else { continue };
                            if let V::Str(body) = &f[1] {
                                ev.push(Ev::Deliver(stamp(body)));
                            }
                            self.last = id.to_vec();
                            ack.push(id);
                        }
                        if self.group {
                            cmd(out, &ack);
                        }
                    }
                    self.read(out);
                }
                V::Int | V::Nil => {}
            }
        }
    }
    fn send(&mut self, body: &[u8], out: &mut Vec<u8>) {
        cmd(out, &[b"XADD", self.key.as_bytes(), b"*", b"d", body]);
    }
    fn ping(&mut self, out: &mut Vec<u8>) {
        cmd(out, &[b"PING"]);
    }
}
