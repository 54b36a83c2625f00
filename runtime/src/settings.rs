//! Settings: the default, then the file, then the environment, then the flags; the later one wins.
//!
//! A name has two parts, `section.name`, in lower case: in the TOML file a key of a table, in the environment
//! `TERN_SECTION__NAME`. A `TERN_` variable without `__` is no setting: the client commands have some, and an
//! orchestrator may add its own.
//!
//! Every getter notes what is wrong and goes on with the default, and [`Settings::finish`] reports all of it at once. What no
//! getter asked for is an unknown setting, so a name stands in one place only.

mod duration;
mod errors;
mod example;
mod sources;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::{Value, ValueKind};

use self::duration::format_duration;
pub use self::duration::parse_duration;
pub use self::errors::{BadSetting, BadSettings};
use self::example::secrets_of;
pub use self::example::{EXAMPLE, is_example};
pub use self::sources::{Flag, Sources};
use self::sources::{origin, unset};

/// The exit code of a process whose settings are wrong (`EX_USAGE` of sysexits.h).
pub const EXIT_BAD_SETTINGS: u8 = 64;

/// Hands out settings by name and collects what is wrong with them.
#[derive(Debug)]
pub struct Settings {
    root: Value,
    asked: BTreeSet<&'static str>,
    bad: Vec<BadSetting>,
}

impl Settings {
    /// Reads the sources. What is wrong with them is told by [`Settings::finish`].
    pub fn read(sources: Sources) -> Settings {
        let mut bad = Vec::new();
        let root = sources.merge(&mut bad);
        Settings { root, asked: BTreeSet::new(), bad }
    }

    /// A time such as `250ms`, `30s`, `10m`, `12h` or `7d`.
    pub fn duration(&mut self, name: &'static str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        let value = self.parsed(name, |text| {
            let value =
                parse_duration(text).ok_or_else(|| format!("{text:?} is not a time such as 250ms, 30s or 10m"))?;
            in_range(value, &range, |bound| format_duration(*bound))
        });
        value.unwrap_or(default)
    }

    /// A whole number.
    pub fn number(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let value = self.parsed(name, |text| {
            let value = text.parse().map_err(|_| format!("{text:?} is not a whole number"))?;
            in_range(value, &range, u64::to_string)
        });
        value.unwrap_or(default)
    }

    /// `true` or `false`.
    pub fn bool(&mut self, name: &'static str, default: bool) -> bool {
        self.one_of(name, &[("true", true), ("false", false)], default)
    }

    /// An address with a port, such as `127.0.0.1:7180` or `[::1]:0`.
    pub fn addr(&mut self, name: &'static str, default: SocketAddr) -> SocketAddr {
        self.parsed(name, address).unwrap_or(default)
    }

    /// An address with a port, of something that is off unless it is given.
    pub fn optional_addr(&mut self, name: &'static str) -> Option<SocketAddr> {
        self.parsed(name, address)
    }

    /// One of the named values.
    pub fn one_of<T: Copy>(&mut self, name: &'static str, values: &[(&str, T)], default: T) -> T {
        let value = self.parsed(name, |text| {
            let found = values.iter().find(|(known, _)| *known == text).map(|(_, value)| *value);
            found.ok_or_else(|| {
                let known: Vec<_> = values.iter().map(|(known, _)| *known).collect();
                format!("{text:?} is not one of {}", known.join(", "))
            })
        });
        value.unwrap_or(default)
    }

    /// A text; not empty.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        self.parsed(name, not_empty)
    }

    /// A path; not empty.
    pub fn path(&mut self, name: &'static str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// A secret of at least `bytes` bytes.
    pub fn secret(&mut self, name: &'static str, bytes: usize) -> Option<Vec<u8>> {
        self.parsed(name, |text| {
            if text.len() < bytes { Err(format!("is shorter than {bytes} bytes")) } else { Ok(text.into()) }
        })
    }

    /// A text, or the one in a file, and which of the two settings it is from; not empty. If neither is there, `needed` says why one has to be, if it has.
    pub fn text_or_file(
        &mut self,
        name: &'static str,
        in_file: &'static str,
        needed: Option<&str>,
    ) -> Option<(&'static str, String)> {
        let bad = self.bad.len();
        let given = self.text(name);
        let read = self.parsed(in_file, |path| {
            let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
            not_empty(text.trim())
        });
        match (given, read) {
            (Some(text), None) => return Some((name, text)),
            (None, Some(text)) => return Some((in_file, text)),
            (Some(_), Some(_)) => self.refuse(name, &format!("{in_file} is set as well, and they exclude each other")),
            (None, None) => {
                if let Some(needed) = needed.filter(|_| self.bad.len() == bad) {
                    self.refuse(name, needed);
                }
            }
        }
        None
    }

    /// A URL with a password in it that does not stand in every example, or the one in a file, which must be given; `example` shows what it looks like. Empty if it is refused.
    pub fn secret_url(&mut self, name: &'static str, in_file: &'static str, example: &str) -> String {
        let needed = format!("is needed, or {in_file}: as in {example}");
        let Some((from, url)) = self.text_or_file(name, in_file, Some(&needed)) else { return String::new() };
        if secrets_of(&url).any(|secret| is_example(&secret)) {
            self.refuse(from, EXAMPLE);
            return String::new();
        }
        url
    }

    /// Anything that `parse` makes of the text, which must be given; `example` shows what such a text looks like.
    pub fn needed<T>(
        &mut self,
        name: &'static str,
        example: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let bad = self.bad.len();
        let value = self.parsed(name, parse);
        if value.is_none() && self.bad.len() == bad {
            self.refuse(name, &format!("is needed, {example}"));
        }
        value
    }

    /// Anything that `parse` makes of the text; its error says what is wrong with the value.
    pub fn parsed<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.asked.insert(name);
        let value = find(&self.root, name)?.clone();
        let origin = origin(name, &value);
        let text = value.into_string().map_err(|_| "is not a single value".to_owned());
        match text.and_then(|text| parse(&text)) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.bad.push(BadSetting::Value { name: name.into(), reason, origin });
                None
            }
        }
    }

    /// Adds what only the caller can judge, such as two settings that exclude each other.
    pub fn refuse(&mut self, name: &'static str, reason: &str) {
        let origin = find(&self.root, name).map_or_else(|| unset(name), |value| origin(name, value));
        self.bad.push(BadSetting::Value { name: name.into(), reason: reason.into(), origin });
    }

    /// To be called when every setting was asked for.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the questions, unknown settings last.
    pub fn finish(mut self) -> Result<(), BadSettings> {
        unknown(&self.root, "", &self.asked, &mut self.bad);
        if self.bad.is_empty() { Ok(()) } else { Err(BadSettings(self.bad)) }
    }
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("is empty".into()) } else { Ok(text.into()) }
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{text:?} is not an address with a port, such as 127.0.0.1:7180"))
}

fn find<'a>(root: &'a Value, name: &str) -> Option<&'a Value> {
    name.split('.').try_fold(root, |value, part| match &value.kind {
        ValueKind::Table(table) => table.get(part),
        _ => None,
    })
}

/// Notes every value that nobody asked for, in the order of their names.
fn unknown(value: &Value, name: &str, asked: &BTreeSet<&'static str>, bad: &mut Vec<BadSetting>) {
    match &value.kind {
        _ if asked.contains(name) => (),
        ValueKind::Table(table) => {
            let mut parts: Vec<_> = table.iter().collect();
            parts.sort_by_key(|(part, _)| *part);
            for (part, value) in parts {
                let below = if name.is_empty() { part.clone() } else { format!("{name}.{part}") };
                unknown(value, &below, asked, bad);
            }
        }
        ValueKind::Nil => (),
        _ if asked.iter().any(|known| is_in(known, name)) => bad.push(BadSetting::Value {
            name: name.into(),
            reason: format!("must be a table, [{name}], with the settings in it"),
            origin: origin(name, value),
        }),
        _ => bad.push(BadSetting::Unknown { name: name.into(), origin: origin(name, value) }),
    }
}

fn is_in(name: &str, table: &str) -> bool {
    name.strip_prefix(table).is_some_and(|rest| rest.starts_with('.'))
}

fn in_range<T: PartialOrd>(value: T, range: &RangeInclusive<T>, show: impl Fn(&T) -> String) -> Result<T, String> {
    if range.contains(&value) {
        return Ok(value);
    }
    Err(format!("{} is not from {} to {}", show(&value), show(range.start()), show(range.end())))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::io::Write;

    use super::*;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    fn environment(variables: &[(&str, &str)]) -> HashMap<String, String> {
        variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn flag(name: &'static str, value: &str) -> Flag {
        Flag { flag: "--flag", name, value: value.into() }
    }

    fn reasons(settings: Settings) -> Vec<String> {
        settings.finish().unwrap_err().0.iter().map(BadSetting::to_string).collect()
    }

    #[test]
    fn the_later_source_wins() {
        let file = file("[a]\nfile = 1\nenv = 1\nflag = 1\n");
        let mut settings = Settings::read(Sources {
            file: Some(file.path().into()),
            environment: environment(&[("TERN_A__ENV", "2"), ("TERN_A__FLAG", "2")]),
            flags: vec![flag("a.flag", "3")],
        });
        let mut number = |name| settings.number(name, 0, 0..=9);
        assert_eq!([number("a.default"), number("a.file"), number("a.env"), number("a.flag")], [0, 1, 2, 3]);
        settings.finish().unwrap();
    }

    #[test]
    fn variables_without_a_section_are_no_settings() {
        let variables =
            [("TERN_TOKEN", "x"), ("TERN_LONG_LINK", "y"), ("TERN_PORT", "tcp://10.0.0.1:1"), ("OTHER__A", "z")];
        Settings::read(Sources { environment: environment(&variables), ..Sources::default() }).finish().unwrap();
    }

    #[test]
    fn everything_wrong_is_told_at_once_with_where_it_stands() {
        let file = file("[link]\nheartbeat = \"10\"\nspeed = 3\n[log]\nlevel = [1, 2]\n");
        let path = file.path().to_owned();
        let variables = [("TERN_LINK__LIMIT", "70000"), ("TERN_LIMK__LIMIT", "1")];
        let mut settings = Settings::read(Sources {
            file: Some(path.clone()),
            environment: environment(&variables),
            flags: vec![flag("listen.http", "localhost"), flag("storage.durability", "none")],
        });
        let second = Duration::from_secs(1);
        assert_eq!(settings.duration("link.heartbeat", second, second..=second * 60), second, "the default stands in");
        settings.number("link.limit", 1, 1..=65_535);
        settings.addr("listen.http", ([127, 0, 0, 1], 1).into());
        settings.one_of("storage.durability", &[("disk", 1), ("os", 2)], 1);
        settings.parsed("log.level", |_| Ok(()));
        settings.refuse("token.secret", "and token.secret_file exclude each other");

        let reasons = reasons(settings);
        let from_file = |reason: &String| reason.contains(path.file_name().unwrap().to_str().unwrap());
        assert!(
            reasons[0].starts_with("link.heartbeat: \"10\" is not a time") && from_file(&reasons[0]),
            "{reasons:?}"
        );
        assert_eq!(reasons[1], "link.limit: 70000 is not from 1 to 65535 (from TERN_LINK__LIMIT)");
        assert!(reasons[2].starts_with("listen.http: \"localhost\" is not an address"), "{reasons:?}");
        assert_eq!(reasons[3], "storage.durability: \"none\" is not one of disk, os (from --flag)");
        assert!(reasons[4].starts_with("log.level: is not a single value"), "{reasons:?}");
        assert_eq!(
            reasons[5],
            "token.secret: and token.secret_file exclude each other (from the default; TERN_TOKEN__SECRET sets it)"
        );
        assert_eq!(reasons[6], "limk.limit: no such setting (from TERN_LIMK__LIMIT)");
        assert!(reasons[7].starts_with("link.speed: no such setting") && from_file(&reasons[7]), "{reasons:?}");
        assert_eq!(reasons.len(), 8);
    }

    #[test]
    fn a_value_in_place_of_a_table_is_told_as_that() {
        for listen in ["3", "[1]"] {
            let file = file(&format!("listen = {listen}\nlist = 3\n"));
            let mut settings = Settings::read(Sources { file: Some(file.path().into()), ..Sources::default() });
            settings.addr("listen.http", ([127, 0, 0, 1], 1).into());
            let reasons = reasons(settings);
            assert!(reasons[0].starts_with("list: no such setting"), "{reasons:?}");
            assert!(reasons[1].starts_with("listen: must be a table, [listen],"), "{reasons:?}");
        }
    }

    #[test]
    fn a_directory_in_place_of_the_file_is_told_as_that() {
        let dir = tempfile::tempdir().unwrap();
        let reasons = reasons(Settings::read(Sources { file: Some(dir.path().into()), ..Sources::default() }));
        assert_eq!(reasons, [format!("{}: is a directory, not a TOML file", dir.path().display())]);
    }

    #[test]
    fn a_file_that_is_absent_or_broken_is_told_beside_the_rest() {
        let environment = environment(&[("TERN_A__B", "x")]);
        let sources = Sources { file: Some("/nonexistent/tern.toml".into()), environment, flags: Vec::new() };
        let mut settings = Settings::read(sources);
        settings.number("a.b", 1, 0..=9);
        let reasons = reasons(settings);
        assert!(reasons[0].contains("/nonexistent/tern.toml"), "{reasons:?}");
        assert!(reasons[1].starts_with("a.b: "), "{reasons:?}");
    }

    #[test]
    fn secrets_are_never_shown() {
        let broken = file("[token]\nsecret = \"hush-hush\nx = 1\n");
        let sources = |file: &tempfile::NamedTempFile| Sources { file: Some(file.path().into()), ..Sources::default() };
        let reasons_of_broken = reasons(Settings::read(sources(&broken)));
        assert!(
            reasons_of_broken[0].contains("line 2") && !reasons_of_broken[0].contains("hush"),
            "{reasons_of_broken:?}"
        );

        let short = file("[token]\nsecret = \"hush-hush\"\n");
        let mut settings = Settings::read(sources(&short));
        assert_eq!(settings.secret("token.secret", 32), None);
        let reasons = reasons(settings);
        assert!(reasons[0].contains("shorter than 32 bytes") && !reasons[0].contains("hush"), "{reasons:?}");
    }

    #[test]
    fn what_may_stand_in_a_file_is_told_once_if_it_is_wrong() {
        let file = file("from-file\n");
        let path = file.path().to_str().unwrap().to_owned();
        let read = |variables: &[(&str, &str)], needed| {
            let environment = environment(variables);
            let mut settings = Settings::read(Sources { environment, ..Sources::default() });
            let text = settings.text_or_file("a.key", "a.key_file", needed);
            settings.finish().map(|()| text).map_err(|bad| bad.0.iter().map(BadSetting::to_string).collect::<Vec<_>>())
        };
        let (given, in_file) = (("TERN_A__KEY", "given"), ("TERN_A__KEY_FILE", &path[..]));
        assert_eq!(read(&[given], Some("is needed")), Ok(Some(("a.key", "given".into()))));
        assert_eq!(read(&[in_file], None), Ok(Some(("a.key_file", "from-file".into()))));
        assert_eq!(read(&[], None), Ok(None));
        for (variables, told) in [
            (&[][..], "a.key: is needed"),
            (&[given, in_file], "a.key: a.key_file is set as well, and they exclude each other"),
            (&[("TERN_A__KEY_FILE", "/nonexistent")], "a.key_file: cannot be read: No such file"),
            (&[("TERN_A__KEY", "")], "a.key: is empty"),
        ] {
            let reasons = read(variables, Some("is needed")).unwrap_err();
            assert!(reasons.len() == 1 && reasons[0].starts_with(told), "{reasons:?}");
        }
    }

    #[test]
    fn a_url_with_a_password_that_everybody_knows_is_refused() {
        let file = file("redis://:changeme@host");
        let path = file.path().to_str().unwrap().to_owned();
        let read = |variable: &str, value: &str| {
            let environment = environment(&[(variable, value)]);
            let mut settings = Settings::read(Sources { environment, ..Sources::default() });
            let url = settings.secret_url("redis.url", "redis.url_file", "redis://…");
            settings.finish().map(|()| url).map_err(|bad| bad.0.iter().map(BadSetting::to_string).collect::<Vec<_>>())
        };
        assert_eq!(read("TERN_REDIS__URL", "redis://:q4Zs9u@host").as_deref(), Ok("redis://:q4Zs9u@host"));
        assert!(read("TERN_REDIS__URL", "redis://host").is_ok(), "without a password the network has to be safe");
        for refused in [read("TERN_REDIS__URL", "redis://:password@host"), read("TERN_REDIS__URL_FILE", &path)] {
            let told = refused.unwrap_err();
            assert!(told.len() == 1 && told[0].contains("openssl rand") && !told[0].contains("changeme"), "{told:?}");
        }
    }
}
