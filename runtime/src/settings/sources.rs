//! Where settings come from, and how the sources become one table.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Environment, File, FileFormat, Value};

use super::errors::BadSetting;

/// What environment variables of settings begin with.
const PREFIX: &str = "TERN_";
/// What stands for the dot of a name there.
const SEPARATOR: &str = "__";
/// What `config` calls that source.
const ENVIRONMENT: &str = "the environment";

/// Where settings come from, weakest first. Reads no global state, except the file.
#[derive(Debug, Default)]
pub struct Sources {
    /// A TOML file; it must be there.
    pub file: Option<PathBuf>,
    /// Variables by name; those that are no settings are ignored.
    pub environment: HashMap<String, String>,
    /// What the command line gave.
    pub flags: Vec<Flag>,
}

/// A setting given on the command line.
#[derive(Debug)]
pub struct Flag {
    /// How the user knows it: `--data`.
    pub flag: &'static str,
    /// The setting: `storage.dir`.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

impl Sources {
    /// The file, the flags and the variables of this process.
    pub fn of_process(file: Option<PathBuf>, flags: Vec<Flag>) -> Sources {
        let text = |s: std::ffi::OsString| s.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        Sources { file, environment, flags }
    }

    /// All of them as one table, the later over the earlier. What is wrong with a source is noted, and the others stand.
    pub(super) fn merge(self, bad: &mut Vec<BadSetting>) -> Value {
        let file = self.file.and_then(|path| {
            let parsed = parse_file(&path);
            parsed.map_err(|reason| bad.push(BadSetting::File { path, reason })).ok()
        });
        merge(file, self.environment, self.flags).map(|config| config.cache).unwrap_or_else(|error| {
            let (name, origin) = ("settings".into(), ENVIRONMENT.into());
            bad.push(BadSetting::Value { name, reason: error.to_string(), origin });
            Value::default()
        })
    }
}

fn parse_file(path: &Path) -> Result<Config, String> {
    if path.is_dir() {
        return Err("is a directory, not a TOML file".into());
    }
    let file = File::from(path).format(FileFormat::Toml);
    Config::builder().add_source(file).build().map_err(|error| match error {
        // The parser shows the line, which may hold a secret; where and what are enough.
        ConfigError::FileParse { cause, .. } => {
            let cause = cause.to_string();
            let lines: Vec<_> = cause.lines().filter(|line| !line.contains('|')).map(str::trim).collect();
            lines.join(": ")
        }
        other => other.to_string(),
    })
}

fn merge(file: Option<Config>, variables: HashMap<String, String>, flags: Vec<Flag>) -> Result<Config, ConfigError> {
    let is_setting = |name: &str| name.strip_prefix(PREFIX).is_some_and(|rest| rest.contains(SEPARATOR));
    let settings = variables.into_iter().filter(|(name, _)| is_setting(name)).collect();
    let environment = Environment::with_prefix(PREFIX.trim_end_matches('_'))
        .prefix_separator("_")
        .separator(SEPARATOR)
        .source(Some(settings));
    let mut builder = Config::builder();
    if let Some(file) = file {
        builder = builder.add_source(file);
    }
    builder = builder.add_source(environment);
    for Flag { flag, name, value } in flags {
        builder = builder.set_override(name, Value::new(Some(&flag.to_owned()), value))?;
    }
    builder.build()
}

/// What stands where a setting that was not given would come from.
pub(super) fn unset(name: &str) -> String {
    format!("the default; {} sets it", variable(name))
}

fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_uppercase().replace('.', SEPARATOR))
}

/// Where a value stands, as its writer knows it.
pub(super) fn origin(name: &str, value: &Value) -> String {
    match value.origin() {
        Some(ENVIRONMENT) => variable(name),
        Some(origin) => origin.to_owned(),
        // Tables that several sources share have no origin of their own.
        None => "several places".into(),
    }
}
