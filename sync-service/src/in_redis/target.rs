//! Where Redis is.

use redis::cluster::ClusterClient;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, RedisResult, TlsCertificates, TlsMode};

use super::{CONNECT, Connection, PATIENCE, limits};

/// One server, one that sentinels know, or a cluster.
pub struct Target(Kind);

enum Kind {
    One(Client),
    Sentinel(SentinelClient),
    Cluster(ClusterClient),
}

/// What is said about where Redis is makes no sense. Tells no password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTarget(String);

impl Target {
    /// The server at a URL: `redis://user:password@host:port/database`, or `rediss://` for TLS, with a certificate signed by one of the authority (PEM), or of those whom this machine trusts.
    ///
    /// # Errors
    /// [`BadTarget`].
    pub fn one(url: &str, authority: Option<&[u8]>) -> Result<Target, BadTarget> {
        let client = match certificates(authority) {
            Some(certificates) => Client::build_with_tls(info(url)?, certificates),
            None => Client::open(info(url)?),
        };
        Ok(Target(Kind::One(client.map_err(bad)?)))
    }

    /// The master that the sentinels at these URLs, with commas between them, call `master`. User, password, database and TLS of the first are those of the master.
    ///
    /// # Errors
    /// [`BadTarget`].
    pub fn sentinel(urls: &str, master: &str, authority: Option<&[u8]>) -> Result<Target, BadTarget> {
        let sentinels = all(urls)?;
        let first = sentinels.first().ok_or_else(|| BadTarget("is empty".into()))?;
        let is_tls = matches!(first.addr(), ConnectionAddr::TcpTls { .. });
        let of_master = first.redis_settings();
        let places = sentinels.iter().map(|sentinel| sentinel.addr().clone());
        let builder = SentinelClientBuilder::new(places, master, SentinelServerType::Master).map_err(bad)?;
        let mut builder = builder.set_client_to_redis_db(of_master.db());
        if let Some(user) = of_master.username() {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = of_master.password() {
            builder = builder.set_client_to_redis_password(password);
        }
        if is_tls {
            builder = builder.set_client_to_redis_tls_mode(TlsMode::Secure);
            builder = builder.set_client_to_sentinel_tls_mode(TlsMode::Secure);
            if let Some(certificates) = certificates(authority) {
                builder = builder.set_client_to_redis_certificates(certificates.clone());
                builder = builder.set_client_to_sentinel_certificates(certificates);
            }
        }
        Ok(Target(Kind::Sentinel(builder.build().map_err(bad)?)))
    }

    /// The cluster that has nodes at these URLs, with commas between them.
    ///
    /// # Errors
    /// [`BadTarget`].
    pub fn cluster(urls: &str, authority: Option<&[u8]>) -> Result<Target, BadTarget> {
        let builder = ClusterClient::builder(all(urls)?);
        let mut builder = builder.connection_timeout(CONNECT).response_timeout(PATIENCE).retries(1);
        if let Some(certificates) = certificates(authority) {
            builder = builder.certs(certificates);
        }
        Ok(Target(Kind::Cluster(builder.build().map_err(bad)?)))
    }

    pub(super) async fn connect(&mut self) -> RedisResult<Connection> {
        Ok(match &mut self.0 {
            Kind::One(client) => Connection::One(client.get_multiplexed_async_connection_with_config(&limits()).await?),
            Kind::Sentinel(client) => Connection::One(client.get_async_connection_with_config(&limits()).await?),
            Kind::Cluster(client) => Connection::Cluster(client.get_async_connection().await?),
        })
    }
}

fn certificates(authority: Option<&[u8]>) -> Option<TlsCertificates> {
    Some(TlsCertificates { client_tls: None, root_cert: Some(authority?.to_vec()) })
}

fn all(urls: &str) -> Result<Vec<ConnectionInfo>, BadTarget> {
    urls.split(',').map(|url| info(url.trim())).collect()
}

fn info(url: &str) -> Result<ConnectionInfo, BadTarget> {
    url.into_connection_info().map_err(bad)
}

fn bad(_: redis::RedisError) -> BadTarget {
    BadTarget("is not a URL as in redis://user:password@host:6379/0, or rediss:// for TLS".into())
}
