//! Clips made up for tests and benchmarks: whole by the rules of their kind, of an exact length, noise to a decoder.
//!
//! The same seed gives the same bytes. Where there is a waveform, it swells from both ends to the middle.

use super::{Kind, amr, ogg};

/// How many samples of Opus are skipped at the start, as its own encoder does.
const OPUS_SKIPPED: u16 = 312;
/// Packets on a page of Opus: one second.
const PACKETS_ON_A_PAGE: usize = 50;
/// Samples in a second, and in a frame, of AAC.
const AAC: (u32, u32) = (16_000, 1024);

/// A clip of any kind.
pub(super) fn clip(kind: Kind, seconds: f32, seed: u64) -> Vec<u8> {
    match kind {
        Kind::Amr => amr(seconds, seed),
        Kind::AmrWb => amr_wb(seconds, seed),
        Kind::Silk => silk(seconds, seed),
        Kind::OggOpus => ogg_opus(seconds, seed),
        Kind::M4a => m4a(seconds, seed),
        _ => unreachable!("{kind:?} is no clip"),
    }
}

/// AMR at 12.2 kbit/s.
pub(super) fn amr(seconds: f32, seed: u64) -> Vec<u8> {
    amr_at(7, seconds, seed)
}

/// AMR at one of its eight rates: 0 is 4.75 kbit/s, 7 is 12.2.
pub(super) fn amr_at(rate: u8, seconds: f32, seed: u64) -> Vec<u8> {
    frames(&amr::NARROW, rate.min(7), seconds, seed)
}

/// Wide-band AMR at 12.65 kbit/s.
pub(super) fn amr_wb(seconds: f32, seed: u64) -> Vec<u8> {
    frames(&amr::WIDE, 2, seconds, seed)
}

fn frames(band: &amr::Band, kind: u8, seconds: f32, seed: u64) -> Vec<u8> {
    let bytes = band.speech_bytes(kind).unwrap_or(0);
    let mut noise = Noise::of(seed);
    let mut clip = band.magic.to_vec();
    let count = in_20_ms(seconds);
    for at in 0..count {
        let mut speech = noise.bytes(bytes);
        // From 10 to 19 of 31; a frame of another rate has as many bits, which mean something else.
        amr::set_gain(&mut speech, 10 + swell(at, count, 9) as u8);
        clip.push(kind << 3 | 4);
        clip.extend(speech);
    }
    clip
}

/// SILK as its authors store it.
pub(super) fn silk(seconds: f32, seed: u64) -> Vec<u8> {
    let mut clip = b"#!SILK_V3".to_vec();
    clip.extend(silk_blocks(seconds, seed));
    clip.extend([0xff, 0xff]);
    clip
}

/// SILK as WeChat and QQ store it.
pub(super) fn silk_tencent(seconds: f32, seed: u64) -> Vec<u8> {
    let mut clip = b"\x02#!SILK_V3".to_vec();
    clip.extend(silk_blocks(seconds, seed));
    clip
}

fn silk_blocks(seconds: f32, seed: u64) -> Vec<u8> {
    let mut noise = Noise::of(seed);
    let count = in_20_ms(seconds);
    let blocks = (0..count).flat_map(|at| {
        let block = noise.swelling(at, count, 20);
        [(block.len() as u16).to_le_bytes().to_vec(), block].concat()
    });
    blocks.collect()
}

/// Opus in Ogg: packets of 20 ms, of which the last is trimmed to the length.
pub(super) fn ogg_opus(seconds: f32, seed: u64) -> Vec<u8> {
    let mut noise = Noise::of(seed);
    let end = u64::from(OPUS_SKIPPED) + in_units(seconds, 48_000.0);
    let count = end.div_ceil(960) as usize;
    let packets: Vec<_> = (0..count).map(|at| opus_packet(noise.swelling(at, count, 30))).collect();
    let serial = noise.next() as u32;
    let mut head = [&b"OpusHead\x01\x01"[..], &OPUS_SKIPPED.to_le_bytes(), &16_000_u32.to_le_bytes()].concat();
    head.extend([0; 3]);
    let tags = b"OpusTags\x04\0\0\0tern\0\0\0\0".to_vec();
    let mut clip = page(ogg::flags::FIRST, 0, (serial, 0), &[head]);
    clip.extend(page(0, 0, (serial, 1), &[tags]));
    let pages = packets.chunks(PACKETS_ON_A_PAGE);
    let last = pages.len() - 1;
    for (at, packets) in pages.enumerate() {
        let flags = if at == last { ogg::flags::LAST } else { 0 };
        let told = ((at + 1) * PACKETS_ON_A_PAGE * 960) as u64;
        clip.extend(page(flags, told.min(end), (serial, at as u32 + 2), packets));
    }
    clip
}

/// One frame of 20 ms of wide-band SILK, one channel.
fn opus_packet(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.insert(0, 9 << 3);
    bytes
}

/// A page of whole packets.
pub(super) fn page(flags: u8, granule: u64, ids: (u32, u32), packets: &[Vec<u8>]) -> Vec<u8> {
    let mut lacing = Vec::new();
    for packet in packets {
        lacing.extend(vec![255; packet.len() / 255]);
        lacing.push((packet.len() % 255) as u8);
    }
    page_of(flags, granule, ids, &lacing, &packets.concat())
}

/// A page of any lacing, with the serial and the sequence that it has, and the checksum that it has to have.
pub(super) fn page_of(flags: u8, granule: u64, (serial, sequence): (u32, u32), lacing: &[u8], body: &[u8]) -> Vec<u8> {
    let head =
        [&b"OggS\0"[..], &[flags], &granule.to_le_bytes(), &serial.to_le_bytes(), &sequence.to_le_bytes()].concat();
    let behind = [&[lacing.len() as u8], lacing, body].concat();
    let crc = ogg::crc(&[&head, &[0; 4], &behind]);
    [head, crc.to_le_bytes().to_vec(), behind].concat()
}

/// AAC at 16 kHz, of which the last sample is said to last what is left.
pub(super) fn m4a(seconds: f32, seed: u64) -> Vec<u8> {
    let mut noise = Noise::of(seed);
    let ticks = in_units(seconds, AAC.0 as f32) as u32;
    let count = ticks.div_ceil(AAC.1) as usize;
    let samples: Vec<_> = (0..count).map(|at| noise.swelling(at, count, 100)).collect();
    let ftyp = part(b"ftyp", &[b"M4A \0\0\0\0M4A isom"]);
    // The table of chunks is of the same size wherever they are.
    let behind = ftyp.len() + moov(ticks, &samples, 0).len();
    let moov = moov(ticks, &samples, behind as u32 + 8);
    [ftyp, moov, part(b"mdat", &[&samples.concat()])].concat()
}

fn moov(ticks: u32, samples: &[Vec<u8>], data: u32) -> Vec<u8> {
    let count = samples.len() as u32;
    let stts = numbers(&[0, 2, count - 1, AAC.1, 1, ticks - (count - 1) * AAC.1]);
    let sizes: Vec<_> = samples.iter().map(|sample| sample.len() as u32).collect();
    let mp4a =
        part(b"mp4a", &[&[0, 0, 0, 0, 0, 0, 0, 1], &[0; 8], &[0, 1, 0, 16, 0, 0, 0, 0], &(AAC.0 << 16).to_be_bytes()]);
    let stbl = [
        part(b"stsd", &[&numbers(&[0, 1]), &mp4a]),
        part(b"stts", &[&stts]),
        part(b"stsc", &[&numbers(&[0, 1, 1, count, 1])]),
        part(b"stsz", &[&numbers(&[0, 0, count]), &numbers(&sizes)]),
        part(b"stco", &[&numbers(&[0, 1, data])]),
    ];
    let clock = numbers(&[0, 0, 0, AAC.0, ticks]);
    let hdlr = part(b"hdlr", &[&[0; 8], b"soun", &[0; 13]]);
    let minf = part(b"minf", &[&part(b"stbl", &[&stbl.concat()])]);
    let mdia = part(b"mdia", &[&part(b"mdhd", &[&clock, &[0; 4]]), &hdlr, &minf]);
    let mvhd = part(b"mvhd", &[&clock, &[0; 80]]);
    part(b"moov", &[&mvhd, &part(b"trak", &[&mdia])])
}

/// A box of MPEG-4.
pub(super) fn part(name: &[u8; 4], payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    [&(payload.len() as u32 + 8).to_be_bytes(), &name[..], &payload].concat()
}

fn numbers(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn in_20_ms(seconds: f32) -> usize {
    in_units(seconds, 50.0) as usize
}

/// From 0 at both ends to the most in the middle.
fn swell(at: usize, count: usize, most: usize) -> usize {
    at.min(count - 1 - at) * 2 * most / count
}

/// At least one.
fn in_units(seconds: f32, a_second: f32) -> u64 {
    ((f64::from(seconds) * f64::from(a_second)).round() as u64).max(1)
}

/// Marsaglia's xorshift: what matters is that it is the same everywhere.
struct Noise(u64);

impl Noise {
    fn of(seed: u64) -> Noise {
        Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 32) as u8).collect()
    }

    /// Of a frame at this place: from the least to four times as many bytes.
    fn swelling(&mut self, at: usize, count: usize, least: usize) -> Vec<u8> {
        let jitter = self.next() as usize % (least / 4);
        self.bytes(least + swell(at, count, 3 * least) + jitter)
    }
}
