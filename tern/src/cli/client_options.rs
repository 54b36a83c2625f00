//! The options of every command that is a client: whose device, which server, which link.

use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow};
use tern_client::{ClientOptions, Link, Recipient, Stop, Token};
use tern_proto::{UserId, v1};
use tern_runtime::settings::{BadSetting, BadSettings};

use tern_gateway::setup::secret;

/// For how long the tokens that a command makes for itself are valid; each connect takes a new one.
const TOKEN_TTL: Duration = Duration::from_secs(3_600);

/// Whose device, which server, which link.
#[derive(clap::Args, Debug)]
pub(crate) struct ClientArgs {
    /// The user: 1 to 64 letters, digits and . _ - @ +
    #[arg(long = "as", value_name = "USER")]
    pub(crate) user: UserId,
    /// Address of the long link
    #[arg(long, value_name = "ADDR", env = "TERN_LONG_LINK", default_value = "127.0.0.1:7180", value_parser = address)]
    long_link: String,
    /// Address of the short link
    #[arg(long, value_name = "ADDR", env = "TERN_HTTP", default_value = "127.0.0.1:7181", value_parser = address)]
    http: String,
    /// tcp: the long link, and the short link while it is down; http: the short link alone
    #[arg(long, value_name = "LINK", value_enum, default_value_t = LinkArg::Tcp)]
    link: LinkArg,
    /// The token; without it the command makes its own with the secret
    #[arg(long, value_name = "TOKEN", env = "TERN_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// The file with the secret that the server checks tokens with
    #[arg(long, value_name = "FILE", env = "TERN_SECRET_FILE", default_value = "tern-data/token-secret")]
    secret_file: PathBuf,
    /// Directory of this device; by default ~/.local/share/tern/USER/COMMAND, so that each command is a device of its own
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum LinkArg {
    Tcp,
    Http,
}

impl ClientArgs {
    /// The options of the client library for one command.
    ///
    /// # Errors
    /// There is neither a token nor a secret to make one with, or no place for the data.
    pub(crate) fn options(&self, command: &str) -> Result<ClientOptions> {
        let data = match &self.data {
            Some(data) => data.clone(),
            None => default_data(&self.user, command)?,
        };
        let mut options = ClientOptions::new(data, self.user.clone(), self.token()?);
        options.long_link.clone_from(&self.long_link);
        options.http.clone_from(&self.http);
        options.link = match self.link {
            LinkArg::Tcp => Link::Tcp,
            LinkArg::Http => Link::Http,
        };
        options.client_name = format!("tern-{command}/{}", env!("CARGO_PKG_VERSION"));
        Ok(options)
    }

    /// Refuses a message to oneself, as a command line that is wrong.
    pub(crate) fn check_recipient(&self, to: &Recipient) -> Result<(), BadSettings> {
        if *to != Recipient::from(&self.user) {
            return Ok(());
        }
        let reason = "must be another user than --as".to_owned();
        Err(BadSettings(vec![BadSetting::Value { name: "--to".into(), reason, origin: "the command line".into() }]))
    }

    fn token(&self) -> Result<Token> {
        if let Some(token) = &self.token {
            return Ok(Token::fixed(token.clone()));
        }
        let secret = secret::read(&self.secret_file).context("give --token or --secret-file")?;
        let user = self.user.clone();
        Ok(Token::provider(move || tern_gateway::mint(&secret, &user, TOKEN_TTL)))
    }
}

/// Why a client stopped, and what its user can do about it.
pub(crate) fn stopped(stop: &Stop) -> Error {
    match stop {
        Stop::Refused { code: v1::Code::BadToken, .. } => {
            anyhow!("{stop}; give the server's own secret with --secret-file, or a token made with it with --token")
        }
        Stop::Refused { code: v1::Code::TokenExpired, .. } => anyhow!("{stop}; give a newer one with --token"),
        _ => anyhow!("{stop}"),
    }
}

fn default_data(user: &UserId, command: &str) -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")));
    let base = base.context("no place for this device's data: give --data, or set HOME")?;
    // `.` and `..` are user names too.
    let user = if user.as_str().starts_with('.') { format!("_{user}") } else { user.to_string() };
    Ok(base.join("tern").join(user).join(command))
}

/// Finds a bad address before anything waits for it. A name that does not resolve now may do so later.
fn address(text: &str) -> Result<String, String> {
    match text.to_socket_addrs() {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Err("not HOST:PORT".to_owned()),
        _ => Ok(text.to_owned()),
    }
}
