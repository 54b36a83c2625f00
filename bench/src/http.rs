//! What the server says over HTTP about itself.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);

/// The body behind a path.
///
/// # Errors
/// No answer within 10 s, or one that is not 200.
pub(crate) async fn get(from: SocketAddr, path: &str) -> Result<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(from).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {from}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(PATIENCE, exchange).await.map_err(anyhow::Error::from).flatten();
    let answer = answer.with_context(|| format!("asking http://{from}{path}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    ensure!(head.starts_with("HTTP/1.1 200 "), "http://{from}{path} answered: {}", head.lines().next().unwrap_or(""));
    Ok(body.to_owned())
}

/// The value of a metric without labels.
pub(crate) fn metric(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# TYPE tern_log_syncs_total counter\ntern_log_syncs_total_more 1\ntern_log_syncs_total 42\n";
        assert_eq!(metric(text, "tern_log_syncs_total"), Some(42));
        assert_eq!(metric(text, "tern_log_syncs"), None);
    }
}
