//! `tern trace`: which way a message took through the services, and where it spent its time.

mod collector;
mod tree;

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tern_runtime::shutdown;

use collector::Collector;

/// The examples of its help.
pub(crate) const HELP: &str = "Examples:
  tern trace 4611686018427387905
  tern trace --listen 127.0.0.1:4317

With --listen it takes the place of Jaeger for a first look: start the services with
TERN_TRACE__OTLP_URL=http://127.0.0.1:4317 and TERN_TRACE__RATIO=1.";

/// Which message, and where to look.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The server's id of the message, as history and watch with --json tell it
    message: Option<u64>,
    /// Where Jaeger's pages are
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:16686")]
    jaeger: String,
    /// Which service took the message: tern-gateway, or tern for standalone
    #[arg(long, value_name = "NAME", default_value = "tern-gateway")]
    service: String,
    /// Takes traces over OTLP (gRPC) itself and prints each one, or that of the message and ends
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
}

/// Prints where to look, or the traces.
///
/// # Errors
/// Nothing can listen there, or nothing is asked.
pub(crate) async fn run(args: &Args) -> Result<()> {
    if let Some(address) = args.listen {
        let listener =
            tokio::net::TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))?;
        eprintln!("traces are taken on {}; Ctrl-C ends it", listener.local_addr()?);
        let stop = shutdown::on_signal().context("handling signals")?;
        return Collector::new(args.message).serve(listener, stop).await;
    }
    let message = args.message.context("which message? Its id, or --listen ADDR to see all traces")?;
    ensure!(message > 0, "a message has an id above 0");
    println!("{}", page(&args.jaeger, &args.service, message));
    eprintln!("It is there if it was traced: `trace.otlp_url` says to whom, and `trace.ratio` how many requests are.");
    Ok(())
}

/// The page on which Jaeger lists the traces with this message.
fn page(jaeger: &str, service: &str, message: u64) -> String {
    let jaeger = jaeger.trim_end_matches('/');
    // {"tern.message":"…"}
    let tags = format!("%7B%22tern.message%22%3A%22{message}%22%7D");
    format!("{jaeger}/search?service={service}&lookback=2d&limit=20&tags={tags}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_jaeger_for_the_tag() {
        assert_eq!(
            page("http://jaeger:16686/", "tern-gateway", 7),
            "http://jaeger:16686/search?service=tern-gateway&lookback=2d&limit=20&tags=%7B%22tern.message%22%3A%227%22%7D"
        );
    }
}
