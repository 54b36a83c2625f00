//! Where the replicas of a service are.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// Names with ports, each of which may stand for many addresses: `tern-sync.chat.svc.cluster.local.:7202`, or several with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target(Vec<String>);

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let names: Vec<String> = text.split(',').map(|name| name.trim().to_owned()).collect();
        let has_port = |name: &String| {
            let parts = name.rsplit_once(':');
            parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0))
        };
        match names.iter().find(|name| !has_port(name)) {
            Some(bad) => Err(format!("{bad:?} is not a host and a port, as in storage.internal:7203")),
            None => Ok(Target(names)),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl Target {
    /// Every address, or none if any of the names cannot be resolved now: an answer that is not whole is no reason to leave a replica.
    pub(crate) async fn resolve(&self) -> Option<BTreeSet<SocketAddr>> {
        let mut addresses = BTreeSet::new();
        for name in &self.0 {
            match tokio::net::lookup_host(name).await {
                Ok(found) => addresses.extend(found),
                Err(error) => {
                    tracing::debug!(%name, %error, "not resolved");
                    return None;
                }
            }
        }
        (!addresses.is_empty()).then_some(addresses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_names_with_ports() {
        let target: Target = "a.b:1, 127.0.0.1:7203,[::1]:9".parse().unwrap();
        assert_eq!(target.to_string(), "a.b:1,127.0.0.1:7203,[::1]:9");
        for bad in ["", "a", "a:", ":1", "a:0", "a:99999", "a:1,", "a:1,b"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_name_that_is_unknown_makes_the_answer_none() {
        let known: Target = "127.0.0.1:1,127.0.0.1:2".parse().unwrap();
        assert_eq!(known.resolve().await.unwrap().len(), 2);
        let partly: Target = "127.0.0.1:1,no-such-host.invalid:2".parse().unwrap();
        assert_eq!(partly.resolve().await, None);
    }
}
