//! What a client says of an upload before its first part.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use tern_proto::v1::{Code, MediaBegin};
use tern_proto::{Refusal, limits};

use crate::audio;

/// What kind of bytes an upload is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// `image/jpeg`
    Jpeg = 1,
    /// `image/png`
    Png = 2,
    /// `image/webp`
    Webp = 3,
    /// `image/gif`
    Gif = 4,
    /// `audio/amr`
    Amr = 5,
    /// `audio/amr-wb`
    AmrWb = 6,
    /// `audio/silk`
    Silk = 7,
    /// `audio/ogg`, with Opus in it.
    OggOpus = 8,
    /// `audio/mp4`
    M4a = 9,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 9] =
        [Kind::Jpeg, Kind::Png, Kind::Webp, Kind::Gif, Kind::Amr, Kind::AmrWb, Kind::Silk, Kind::OggOpus, Kind::M4a];

    /// Its media type, as in `Content-Type`.
    pub fn media_type(self) -> &'static str {
        match self {
            Kind::Jpeg => "image/jpeg",
            Kind::Png => "image/png",
            Kind::Webp => "image/webp",
            Kind::Gif => "image/gif",
            Kind::Amr => "audio/amr",
            Kind::AmrWb => "audio/amr-wb",
            Kind::Silk => "audio/silk",
            Kind::OggOpus => "audio/ogg",
            Kind::M4a => "audio/mp4",
        }
    }

    /// Whether it is heard, not seen.
    pub fn is_audio(self) -> bool {
        matches!(self, Kind::Amr | Kind::AmrWb | Kind::Silk | Kind::OggOpus | Kind::M4a)
    }

    /// The kind that these bytes begin like; 64 of them are enough.
    ///
    /// Sources: JPEG, ITU-T T.81 annex B; PNG, RFC 2083 section 3.1; WebP, RFC 9649 section 2.4; GIF89a section 17.
    pub fn of(bytes: &[u8]) -> Option<Kind> {
        match bytes {
            [0xff, 0xd8, 0xff, ..] => Some(Kind::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Some(Kind::Png),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some(Kind::Webp),
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some(Kind::Gif),
            _ => audio::recognise(bytes),
        }
    }
}

impl FromStr for Kind {
    type Err = Refusal;
    fn from_str(media_type: &str) -> Result<Kind, Refusal> {
        let known = Kind::ALL.into_iter().find(|kind| kind.media_type() == media_type);
        known.ok_or_else(|| {
            let all = Kind::ALL.map(Kind::media_type).join(", ");
            Refusal::new(Code::BadBody, format!("`type` is none of {all}"))
        })
    }
}

/// The SHA-256 of an upload's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sha256(pub [u8; 32]);

impl FromStr for Sha256 {
    type Err = Refusal;
    fn from_str(text: &str) -> Result<Sha256, Refusal> {
        let bad = || Refusal::new(Code::BadBody, "`sha256` is not 64 hexadecimal digits");
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(bad());
        }
        let mut digest = [0; 32];
        for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Sha256(digest))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a client says of an upload, within the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Declared {
    /// Of the whole; not 0.
    pub bytes: u64,
    /// Of the whole.
    pub sha256: Sha256,
    /// Of the whole.
    pub kind: Kind,
    /// Of each part but the last: 1,024 to 262,144.
    pub part_bytes: u32,
}

impl Declared {
    /// Checks what was asked for, but for the quota.
    ///
    /// # Errors
    /// [`Code::BadBody`], with what is wrong.
    pub fn new(request: &MediaBegin) -> Result<Declared, Refusal> {
        let part_bytes = if request.part_bytes == 0 { limits::PART_BYTES } else { request.part_bytes };
        if !(limits::MIN_PART_BYTES..=limits::MAX_PART_BYTES).contains(&part_bytes) {
            let (least, most) = (limits::MIN_PART_BYTES, limits::MAX_PART_BYTES);
            return Err(Refusal::new(Code::BadBody, format!("`partBytes` is not from {least} to {most}")));
        }
        if request.bytes == 0 {
            return Err(Refusal::new(Code::BadBody, "`bytes` is 0"));
        }
        let (sha256, kind) = (request.sha256.parse()?, request.r#type.parse()?);
        Ok(Declared { bytes: request.bytes, sha256, kind, part_bytes })
    }

    /// How many parts there are.
    pub fn parts(&self) -> u32 {
        u32::try_from(self.bytes.div_ceil(u64::from(self.part_bytes))).unwrap_or(u32::MAX)
    }

    /// Where in the whole the part stands; empty beyond the last one.
    pub fn range(&self, index: u32) -> Range<u64> {
        let part = u64::from(self.part_bytes);
        let start = (u64::from(index) * part).min(self.bytes);
        start..(start + part).min(self.bytes)
    }

    /// Whether these many bytes can be the part.
    ///
    /// # Errors
    /// [`Code::BadPart`], with what is wrong.
    pub fn check_part(&self, index: u32, bytes: usize) -> Result<(), Refusal> {
        let range = self.range(index);
        let needed = range.end - range.start;
        match bytes as u64 {
            _ if needed == 0 => {
                Err(Refusal::new(Code::BadPart, format!("there are {} parts, counted from 0", self.parts())))
            }
            bytes if bytes != needed => {
                Err(Refusal::new(Code::BadPart, format!("part {index} has {needed} bytes, not {bytes}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begin(bytes: u64, part_bytes: u32) -> MediaBegin {
        MediaBegin { bytes, sha256: "0f".repeat(32), r#type: "image/png".into(), part_bytes }
    }

    #[test]
    fn what_breaks_a_limit_is_refused_by_name() {
        let told = |request: &MediaBegin| Declared::new(request).unwrap_err().message;
        assert!(told(&begin(0, 0)).contains("`bytes`"));
        assert!(told(&begin(1, 1023)).contains("`partBytes`") && told(&begin(1, 262_145)).contains("262144"));
        for digest in ["", "0f", &"0g".repeat(32), &"é".repeat(32)] {
            assert!(told(&MediaBegin { sha256: digest.into(), ..begin(1, 0) }).contains("`sha256`"), "{digest}");
        }
        assert!(told(&MediaBegin { r#type: "image/tiff".into(), ..begin(1, 0) }).contains("image/webp"));
        let declared = Declared::new(&begin(1, 0)).unwrap();
        assert_eq!((declared.part_bytes, declared.kind), (1536, Kind::Png));
        assert_eq!(declared.sha256.to_string(), "0f".repeat(32));
    }

    #[test]
    fn parts_cover_the_whole_once() {
        for (bytes, part, parts) in [(1, 1024, 1), (1024, 1024, 1), (1025, 1024, 2), (3_000_000, 1536, 1954)] {
            let declared = Declared::new(&begin(bytes, part)).unwrap();
            assert_eq!(declared.parts(), parts);
            let mut end = 0;
            for index in 0..parts {
                let range = declared.range(index);
                assert_eq!(range.start, end);
                assert!(declared.check_part(index, (range.end - range.start) as usize).is_ok());
                assert!(declared.check_part(index, (range.end - range.start) as usize + 1).is_err());
                assert!(declared.check_part(index, 0).is_err());
                end = range.end;
            }
            assert_eq!(end, bytes);
            assert!(declared.range(parts).is_empty() && declared.check_part(parts, 1).is_err());
            assert!(declared.check_part(u32::MAX, 0).is_err());
        }
    }

    #[test]
    fn a_kind_is_known_by_its_first_bytes() {
        assert_eq!(Kind::of(&[0xff, 0xd8, 0xff, 0xe0]), Some(Kind::Jpeg));
        assert_eq!(Kind::of(b"\x89PNG\r\n\x1a\n"), Some(Kind::Png));
        assert_eq!(Kind::of(b"RIFF\x01\0\0\0WEBPVP8 "), Some(Kind::Webp));
        assert_eq!(Kind::of(b"GIF89a..."), Some(Kind::Gif));
        for none in [&b""[..], b"GIF88a", b"\x89PNG", b"RIFF....WAVE", b"<html>", b"\xff\xd8"] {
            assert_eq!(Kind::of(none), None, "{none:?}");
        }
    }
}
