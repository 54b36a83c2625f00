//! The epoll loop: opens connections, keeps windows full, times acks and deliveries, prints one line.
use crate::metrics::{sample, Sample};
use crate::proto::{self, Conf, Ev, Proto, Role};
use crate::Args;
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::time::Instant;

/// What epoll says of the timer, instead of the index of a connection.
const TICK: u64 = u64::MAX;

struct Conn {
    fd: i32,
    role: Role,
    p: Box<dyn Proto>,
    out: Vec<u8>,
    inp: Vec<u8>,
    ready: bool,
    want_write: bool,
    sent_at: VecDeque<u64>,
}

struct Stats {
    ack: Histogram<u64>,
    del: Histogram<u64>,
    sent: u64,
    acked: u64,
    delivered: u64,
    pongs: u64,
    errors: u64,
    tx_s: u64,
    rx_s: u64,
    tx_r: u64,
    rx_r: u64,
}
impl Stats {
    fn new() -> Stats {
        let h = || Histogram::new_with_bounds(1, 60_000_000, 3).unwrap();
        Stats {
            ack: h(),
            del: h(),
            sent: 0,
            acked: 0,
            delivered: 0,
            pongs: 0,
            errors: 0,
            tx_s: 0,
            rx_s: 0,
            tx_r: 0,
            rx_r: 0,
        }
    }
}

struct Loop {
    ep: i32,
    t0: Instant,
    conns: Vec<Conn>,
    st: Stats,
    body: Vec<u8>,
    buf: Vec<u8>,
    window: usize,
    closed_loop: bool,
    sending: bool,
    fanout: bool,
    ready: usize,
    connecting: usize,
    /// totals since the start, for the loss check
    all_sent: u64,
    all_acked: u64,
    all_del: u64,
    lost_conns: usize,
}

fn us(ns: u64) -> u64 {
    (ns / 1000).max(1)
}

impl Loop {
    fn now(&self) -> u64 {
        self.t0.elapsed().as_nanos() as u64
    }

    fn connect(&mut self, host: [u8; 4], port: u16, role: Role, p: Box<dyn Proto>) {
        unsafe {
            let fd = libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0);
            assert!(fd >= 0, "socket: {}", std::io::Error::last_os_error());
            let one = 1i32;
            libc::setsockopt(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, &one as *const _ as *const _, 4);
            let sa = libc::sockaddr_in {
                sin_family: libc::AF_INET as u16,
                sin_port: port.to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(host) },
                sin_zero: [0; 8],
            };
            let r = libc::connect(fd, &sa as *const _ as *const _, std::mem::size_of_val(&sa) as u32);
            let e = std::io::Error::last_os_error();
            assert!(r == 0 || e.raw_os_error() == Some(libc::EINPROGRESS), "connect: {e}");
            let mut c = Conn {
                fd,
                role,
                p,
                out: Vec::new(),
                inp: Vec::new(),
                ready: false,
                want_write: true,
                sent_at: VecDeque::new(),
            };
            c.p.start(&mut c.out);
            let mut ev =
                libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLOUT) as u32, u64: self.conns.len() as u64 };
            libc::epoll_ctl(self.ep, libc::EPOLL_CTL_ADD, fd, &mut ev);
            self.conns.push(c);
            self.connecting += 1;
        }
    }

    fn send_one(&mut self, i: usize) {
        let now = self.now();
        const HEX: &[u8] = b"0123456789abcdef";
        for k in 0..16.min(self.body.len()) {
            self.body[k] = HEX[(now >> (60 - 4 * k)) as usize & 15];
        }
        let c = &mut self.conns[i];
        c.p.send(&self.body, &mut c.out);
        c.sent_at.push_back(now);
        self.st.sent += 1;
        self.all_sent += 1;
    }

    fn flush(&mut self, i: usize) {
        let c = &mut self.conns[i];
        if c.fd < 0 {
            return;
        }
        let mut done = 0;
        while done < c.out.len() {
            let n =
                unsafe { libc::send(c.fd, c.out[done..].as_ptr() as *const _, c.out.len() - done, libc::MSG_NOSIGNAL) };
            if n <= 0 {
                break;
            }
            done += n as usize;
        }
        match c.role {
            Role::Receiver => self.st.tx_r += done as u64,
            _ => self.st.tx_s += done as u64,
        }
        if done == c.out.len() {
            c.out.clear();
        } else {
            c.out.drain(..done);
        }
        let want = !c.out.is_empty();
        if want != c.want_write {
            c.want_write = want;
            let mut ev = libc::epoll_event {
                events: (libc::EPOLLIN | if want { libc::EPOLLOUT } else { 0 }) as u32,
                u64: i as u64,
            };
            unsafe { libc::epoll_ctl(self.ep, libc::EPOLL_CTL_MOD, c.fd, &mut ev) };
        }
    }

    fn readable(&mut self, i: usize, evs: &mut Vec<Ev>) {
        let c = &mut self.conns[i];
        let n = unsafe { libc::recv(c.fd, self.buf.as_mut_ptr() as *mut _, self.buf.len(), 0) };
        if n <= 0 {
            let e = std::io::Error::last_os_error();
            if n == 0 || e.raw_os_error() != Some(libc::EAGAIN) {
                unsafe { libc::close(c.fd) };
                c.fd = -1;
                self.lost_conns += 1;
                if self.lost_conns <= 3 {
                    eprintln!("connection {i} ({:?}) lost: n={n} {e}", c.role);
                }
                if !c.ready {
                    self.connecting = self.connecting.saturating_sub(1);
                }
            }
            return;
        }
        let n = n as usize;
        match c.role {
            Role::Receiver => self.st.rx_r += n as u64,
            _ => self.st.rx_s += n as u64,
        }
        evs.clear();
        if c.inp.is_empty() {
            let used = c.p.on_data(&self.buf[..n], &mut c.out, evs);
            if used < n {
                c.inp.extend_from_slice(&self.buf[used..n]);
            }
        } else {
            c.inp.extend_from_slice(&self.buf[..n]);
            let used = c.p.on_data(&c.inp, &mut c.out, evs);
            c.inp.drain(..used);
        }
        if c.inp.is_empty() && c.inp.capacity() > 0 && c.role == Role::Idle {
            c.inp = Vec::new();
        }
        let now = self.t0.elapsed().as_nanos() as u64;
        for e in evs.drain(..) {
            match e {
                Ev::Ready => {
                    if !self.conns[i].ready {
                        self.conns[i].ready = true;
                        self.ready += 1;
                        self.connecting = self.connecting.saturating_sub(1);
                    }
                }
                Ev::Acked(n) => {
                    self.st.acked += n as u64;
                    self.all_acked += n as u64;
                    for _ in 0..n {
                        if let Some(t) = self.conns[i].sent_at.pop_front() {
                            let _ = self.st.ack.record(us(now - t));
                        }
                    }
                    if self.closed_loop && self.sending && !self.fanout {
                        while self.conns[i].sent_at.len() < self.window {
                            self.send_one(i);
                        }
                    }
                }
                Ev::Deliver(t) => {
                    self.st.delivered += 1;
                    self.all_del += 1;
                    if t > 0 && t <= now {
                        let _ = self.st.del.record(us(now - t));
                    }
                }
                Ev::Pong => self.st.pongs += 1,
                Ev::Error(t) => {
                    self.st.errors += 1;
                    if self.st.errors <= 5 {
                        eprintln!("conn {i}: {t}");
                    }
                }
            }
        }
    }

    /// Runs the loop until `until` (ns) or until `stop` says so.
    fn run(&mut self, until: u64, mut tick: impl FnMut(&mut Loop) -> bool) {
        let mut evs: Vec<Ev> = Vec::new();
        let mut ready = vec![libc::epoll_event { events: 0, u64: 0 }; 512];
        loop {
            if self.now() >= until || tick(self) {
                return;
            }
            let n = unsafe { libc::epoll_wait(self.ep, ready.as_mut_ptr(), 512, 1) };
            for event in &ready[..n.max(0) as usize] {
                let (i, fl) = (event.u64 as usize, event.events);
                if event.u64 == TICK {
                    continue;
                }
                if self.conns[i].fd < 0 {
                    continue;
                }
                if fl & (libc::EPOLLIN | libc::EPOLLHUP | libc::EPOLLERR) as u32 != 0 {
                    self.readable(i, &mut evs);
                }
                let c = &self.conns[i];
                if c.fd >= 0 && (!c.out.is_empty() || c.want_write) {
                    self.flush(i);
                }
            }
        }
    }
}

impl Loop {
    /// Lets the loop turn each millisecond: the wait of epoll ends up to a millisecond late.
    fn tick_each_ms(&mut self) {
        unsafe {
            let fd = libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC);
            let ms = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            let each = libc::itimerspec { it_interval: ms, it_value: ms };
            assert_eq!(libc::timerfd_settime(fd, 0, &each, std::ptr::null_mut()), 0);
            // Edge-triggered, so that nobody has to read it.
            let mut ev = libc::epoll_event { events: (libc::EPOLLIN | libc::EPOLLET) as u32, u64: TICK };
            assert_eq!(libc::epoll_ctl(self.ep, libc::EPOLL_CTL_ADD, fd, &mut ev), 0);
        }
    }

    /// Serves the connections until the servers take less than 1 % of a core for 2 s, at most 30 s.
    fn until_idle(&mut self, pids: &[String], core: usize) {
        for _ in 0..15 {
            let before = sample(pids, core).srv_cpu;
            let t = self.now() + 2_000_000_000;
            self.run(t, |_| false);
            if sample(pids, core).srv_cpu - before < 0.02 {
                return;
            }
        }
    }
}

fn ip(base: &str, k: usize) -> [u8; 4] {
    let mut a: Vec<u8> = base.split('.').map(|x| x.parse().unwrap()).collect();
    a[3] += k as u8;
    [a[0], a[1], a[2], a[3]]
}

pub fn run(a: &Args) {
    unsafe {
        let lim = libc::rlimit { rlim_cur: 1_048_576, rlim_max: 1_048_576 };
        libc::setrlimit(libc::RLIMIT_NOFILE, &lim);
    }
    let conf = Conf {
        kind: a.str("proto", "raw"),
        run: a.str("run", &std::process::id().to_string()),
        qos: a.us("qos", 1) as u8,
        size: a.us("size", 100),
        register: a.us("register", 0) == 1,
        dedup: a.us("dedup", 0) == 1,
        fanout: a.mode == "fanout",
        recv: a.us("recv", 1000),
        domain: a.str("domain", "localhost"),
        secret: a.secret(),
    };
    let host = a.str("host", "127.0.0.1");
    let port = a.us("port", 1883) as u16;
    let ndst = a.us("ndst", 1);
    let pids: Vec<String> = a.str("pids", "").split(',').filter(|s| !s.is_empty()).map(String::from).collect();
    let core = a.us("cpu", 0);
    let label = a.str("label", &conf.kind);
    if conf.kind.starts_with("js") {
        proto::nats::setup(&format!("{host}:{port}"));
    }
    let window = a.us("window", 1);
    let rate = a.num("rate", 0.0);
    let mut l = Loop {
        ep: unsafe { libc::epoll_create1(0) },
        t0: Instant::now(),
        conns: Vec::new(),
        st: Stats::new(),
        body: vec![b'x'; conf.size],
        buf: vec![0; 256 * 1024],
        window,
        closed_loop: rate == 0.0,
        sending: false,
        fanout: conf.fanout,
        ready: 0,
        connecting: 0,
        all_sent: 0,
        all_acked: 0,
        all_del: 0,
        lost_conns: 0,
    };
    let pairs = a.us("pairs", 500);
    let mut plan: Vec<(Role, usize)> = Vec::new();
    match a.mode.as_str() {
        "chat" => {
            if conf.kind != "raw" && a.us("norecv", 0) == 0 {
                plan.extend((0..pairs).map(|i| (Role::Receiver, i)));
            }
            plan.extend((0..pairs).map(|i| (Role::Sender, i)));
        }
        "fanout" => {
            plan.extend((0..conf.recv).map(|i| (Role::Receiver, i)));
            plan.push((Role::Sender, 0));
        }
        _ => plan.extend((0..a.us("conns", 1000)).map(|i| (Role::Idle, i))),
    }
    let s0 = sample(&pids, core);
    let inflight = a.us("inflight-connects", 64);
    let total = plan.len();
    let t_conn = Instant::now();
    let mut next = 0;
    let mut last_report = 0;
    l.run(u64::MAX, |l| {
        while next < total && l.connecting < inflight {
            let (role, idx) = plan[next];
            let p = proto::make(&conf, role, idx);
            l.connect(ip(&host, next * ndst / total), port, role, p);
            next += 1;
        }
        if l.ready / 50_000 != last_report {
            last_report = l.ready / 50_000;
            eprintln!("{} connections after {:.1} s", l.ready, t_conn.elapsed().as_secs_f64());
        }
        (next == total && l.connecting == 0) || t_conn.elapsed().as_secs() > 400 || l.lost_conns > 100
    });
    let conn_s = t_conn.elapsed().as_secs_f64();
    if l.ready < total {
        eprintln!("only {} of {} connections became ready", l.ready, total);
    }
    let s1 = sample(&pids, core);
    if a.mode == "idle" {
        return idle(a, l, s0, s1, &pids, core, conn_s, &label);
    }
    let senders: Vec<usize> =
        (0..l.conns.len()).filter(|i| l.conns[*i].role == Role::Sender && l.conns[*i].ready).collect();
    let n_recv = l.conns.len() - senders.len();
    // Sends what the mode allows now.
    let mut due = 0.0f64;
    let mut last = l.now();
    let mut rr = 0usize;
    l.sending = true;
    let mut pump = |l: &mut Loop| -> bool {
        if conf.fanout {
            let i = senders[0];
            while (l.all_sent * n_recv as u64).saturating_sub(l.all_del) < (window * n_recv) as u64 {
                l.send_one(i);
            }
            l.flush(i);
        } else if rate > 0.0 {
            let now = l.now();
            due += (now - last) as f64 * 1e-9 * rate;
            last = now;
            while due >= 1.0 {
                due -= 1.0;
                let i = senders[rr % senders.len()];
                rr += 1;
                l.send_one(i);
                l.flush(i);
            }
        }
        false
    };
    if rate == 0.0 && !conf.fanout {
        for &i in &senders {
            for _ in 0..window {
                l.send_one(i);
            }
            l.flush(i);
        }
    }
    let warm = (a.num("warm", 3.0) * 1e9) as u64;
    let secs = a.num("secs", 10.0);
    let t = l.now() + warm;
    l.run(t, &mut pump);
    l.st = Stats::new();
    let (del0, acked0) = (l.all_del, l.all_acked);
    let a0 = sample(&pids, core);
    let m0 = Instant::now();
    let t = l.now() + (secs * 1e9) as u64;
    l.run(t, &mut pump);
    let dt = m0.elapsed().as_secs_f64();
    let a1 = sample(&pids, core);
    let st = std::mem::replace(&mut l.st, Stats::new());
    // Drain, then look for losses.
    l.sending = false;
    let t = l.now() + (a.num("drain", 2.0) * 1e9) as u64;
    l.run(t, |l| n_recv > 0 && l.all_del >= l.all_sent * if conf.fanout { n_recv as u64 } else { 1 });
    let want = l.all_sent
        * if conf.fanout {
            n_recv as u64
        } else if n_recv == 0 {
            0
        } else {
            1
        };
    let by_delivery = conf.fanout || (n_recv > 0 && st.delivered > 0);
    let unit = if by_delivery { st.delivered } else { st.acked } as f64;
    // What the server puts off is a part of the cost, so its CPU is counted until it is idle, over all that came meanwhile.
    l.until_idle(&pids, core);
    let cost = sample(&pids, core).srv_cpu - a0.srv_cpu;
    let paid = if by_delivery { l.all_del - del0 } else { l.all_acked - acked0 };
    let q = |h: &Histogram<u64>, p: f64| h.value_at_quantile(p) as f64 / 1000.0;
    let per_m = |x: f64| x / unit * 1e6;
    println!(
        "{label}|{} w={} size={} conns={}|acked/s={:.0} delivered/s={:.0}|ack_ms p50={:.3} p99={:.3} max={:.1}|del_ms p50={:.3} p99={:.3} max={:.1}|srv_cpu_s/1M={:.2} core_busy_s/1M={:.2} all_busy_s/1M={:.2} gen_cpu_s/1M={:.2}|srv_util={:.2} gen_util={:.2} other_util={:.2} steal={:.1}%|rss_mb={:.1} (base {:.1})|bytes/msg snd_tx={:.1} snd_rx={:.1} rcv_rx={:.1} rcv_tx={:.1}|lost={} unacked={} err={} lostconn={}|connect_s={:.1}",
        a.mode, window, conf.size, l.conns.len(),
        st.acked as f64 / dt, st.delivered as f64 / dt,
        q(&st.ack, 0.5), q(&st.ack, 0.99), st.ack.max() as f64 / 1000.0,
        q(&st.del, 0.5), q(&st.del, 0.99), st.del.max() as f64 / 1000.0,
        cost / paid as f64 * 1e6, per_m(a1.core_busy - a0.core_busy), per_m(a1.all_busy - a0.all_busy), per_m(a1.self_cpu - a0.self_cpu),
        (a1.srv_cpu - a0.srv_cpu) / dt, (a1.self_cpu - a0.self_cpu) / dt, (a1.all_busy - a0.all_busy - (a1.srv_cpu - a0.srv_cpu) - (a1.self_cpu - a0.self_cpu)) / dt, (a1.core_steal - a0.core_steal) / dt * 100.0,
        a1.srv_rss_kb as f64 / 1024.0, s0.srv_rss_kb as f64 / 1024.0,
        st.tx_s as f64 / unit, st.rx_s as f64 / unit, st.rx_r as f64 / unit, st.tx_r as f64 / unit,
        want as i64 - if n_recv == 0 { 0 } else { l.all_del as i64 }, l.all_sent as i64 - l.all_acked as i64, st.errors, l.lost_conns, conn_s
    );
}

#[allow(clippy::too_many_arguments)]
fn idle(a: &Args, mut l: Loop, s0: Sample, s1: Sample, pids: &[String], core: usize, conn_s: f64, label: &str) {
    let n = l.ready as f64;
    let t = l.now() + 3_000_000_000;
    l.run(t, |_| false);
    let s2 = sample(pids, core);
    println!(
        "{label}|idle conns={}|connect {:.1} s ({:.0}/s), srv_cpu_us/connect={:.1}|srv_rss_bytes/conn={:.0} (after settling {:.0}) rss_mb={:.1}|slab_bytes/conn={:.0} tcp_pages={} avail_drop_bytes/conn={:.0} (both socket ends + client)|lostconn={} err={}",
        l.ready, conn_s, n / conn_s, (s1.srv_cpu - s0.srv_cpu) / n * 1e6,
        (s1.srv_rss_kb as f64 - s0.srv_rss_kb as f64) * 1024.0 / n,
        (s2.srv_rss_kb as f64 - s0.srv_rss_kb as f64) * 1024.0 / n,
        s2.srv_rss_kb as f64 / 1024.0,
        (s2.slab_kb as f64 - s0.slab_kb as f64) * 1024.0 / n, s2.sock_mem_pages,
        (s0.avail_kb as f64 - s2.avail_kb as f64) * 1024.0 / n, l.lost_conns, l.st.errors,
    );
    let hb = a.num("hb-rate", 0.0);
    if hb > 0.0 {
        let secs = a.num("secs", 10.0);
        let mut rr = 0usize;
        let start = l.now();
        let nconn = l.conns.len();
        l.tick_each_ms();
        let mut beat = |l: &mut Loop| -> bool {
            // Those of a millisecond together: spread evenly, they would measure how the kernel wakes an idle server.
            let due = ((l.now() - start) / 1_000_000) as f64 * hb / 1000.0;
            while (rr as f64) < due {
                let i = rr % nconn;
                rr += 1;
                let c = &mut l.conns[i];
                if c.fd >= 0 && c.out.len() < 4096 {
                    c.p.ping(&mut c.out);
                    l.st.sent += 1;
                    l.flush(i);
                }
            }
            false
        };
        let t = l.now() + (a.num("warm", 3.0) * 1e9) as u64;
        l.run(t, &mut beat);
        l.st = Stats::new();
        let a0 = sample(pids, core);
        let t = l.now() + (secs * 1e9) as u64;
        l.run(t, &mut beat);
        let a1 = sample(pids, core);
        let p = (l.st.pongs + l.st.acked).max(1) as f64;
        println!(
            "{label}|heartbeat conns={} rate={:.0}/s answered/s={:.0}|srv_cpu_s/1M_hb={:.2} core_busy_s/1M={:.2}|srv_util={:.3}|bytes/hb tx={:.1} rx={:.1}|rss_mb={:.1} rss_bytes/conn={:.0}|steal={:.1}%",
            l.ready, hb, p / secs, (a1.srv_cpu - a0.srv_cpu) / p * 1e6, (a1.core_busy - a0.core_busy) / p * 1e6,
            (a1.srv_cpu - a0.srv_cpu) / secs, l.st.tx_s as f64 / p, l.st.rx_s as f64 / p,
            a1.srv_rss_kb as f64 / 1024.0, (a1.srv_rss_kb as f64 - s0.srv_rss_kb as f64) * 1024.0 / n,
            (a1.core_steal - a0.core_steal) / secs * 100.0
        );
    }
    let hold = a.num("hold", 0.0);
    if hold > 0.0 {
        println!("holding for {hold} s");
        let t = l.now() + (hold * 1e9) as u64;
        l.run(t, |_| false);
    }
}
