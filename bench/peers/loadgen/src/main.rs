//! loadgen: one epoll thread that plays chat clients of several wire protocols.
//! See README.md for the scenarios and the meaning of every output field.
mod driver;
mod metrics;
mod proto;

use std::collections::HashMap;

pub struct Args {
    pub mode: String,
    map: HashMap<String, String>,
}

impl Args {
    fn parse() -> Args {
        let mut it = std::env::args().skip(1);
        let mode = it.next().unwrap_or_else(|| usage());
        let mut map = HashMap::new();
        while let Some(k) = it.next() {
            let Some(k) = k.strip_prefix("--") else { usage() };
            let v = it.next().unwrap_or_else(|| usage());
            map.insert(k.to_string(), v);
        }
        Args { mode, map }
    }
    pub fn str(&self, k: &str, d: &str) -> String {
        self.map.get(k).cloned().unwrap_or_else(|| d.to_string())
    }
    pub fn num(&self, k: &str, d: f64) -> f64 {
        self.map.get(k).map(|v| v.parse().unwrap_or_else(|_| usage())).unwrap_or(d)
    }
    /// What is in the file of `--secret`, without the white space around it.
    pub fn secret(&self) -> Vec<u8> {
        let Some(file) = self.map.get("secret") else { return Vec::new() };
        let secret = std::fs::read_to_string(file).unwrap_or_else(|e| panic!("{file}: {e}"));
        secret.trim().as_bytes().to_vec()
    }
    pub fn us(&self, k: &str, d: usize) -> usize {
        self.num(k, d as f64) as usize
    }
}

fn usage() -> ! {
    eprintln!(
        "loadgen MODE [--key value]...\n\
         MODE: chat | fanout | idle\n\
         --proto raw|tern|mqtt|nats|js|jsc|redis|redisg|xmpp   wire protocol\n\
         --host 127.0.0.1 --port N  --ndst 1 (spread over 127.0.0.1..ndst)\n\
         --pairs N (chat) | --recv N (fanout) | --conns N (idle)\n\
         --window W  --size 100  --rate 0 (msgs/s in all, 0 = closed loop)\n\
         --warm 3 --secs 10 --qos 1 --pids 1,2 (server pids) --cpu 0 (server core)\n\
         --hb-rate N (idle: heartbeats/s in all)  --label text  --hold secs (idle)\n\
         --inflight-connects 100  --register 1 (xmpp)  --dedup 1 (js)\n\
         --secret FILE (tern: signs the tokens)"
    );
    std::process::exit(2)
}

fn main() {
    let a = Args::parse();
    match a.mode.as_str() {
        "chat" | "fanout" | "idle" => driver::run(&a),
        _ => usage(),
    }
}
