//! How whoever runs a process watches it: its log, its metrics, its traces.

use std::net::SocketAddr;

use anyhow::Result;

use crate::metrics::{self, Listener, Metrics, Ready};
use crate::service::About;
use crate::shutdown::Stop;
use crate::traces::{self, Tracer};
use crate::{logs, settings};

/// What is told, and where.
pub struct Settings {
    /// The log.
    pub log: (logs::EnvFilter, logs::Format),
    /// Where metrics are asked for, if anywhere.
    pub metrics: Option<SocketAddr>,
    /// To whom traces are told, if to anybody.
    pub traces: Option<traces::Settings>,
}

impl Settings {
    /// Reads the sections `log` and `trace`, and `listen.metrics`.
    pub fn read(from: &mut settings::Settings) -> Settings {
        Settings { log: logs::read(from), metrics: metrics::listen(from), traces: traces::read(from) }
    }
}

/// A process that is watched.
pub struct Watch {
    /// What it counts. Everything that counts is to be reported before [`Watch::serve`].
    pub metrics: Metrics,
    listener: Listener,
    tracer: Tracer,
}

impl Watch {
    /// Begins to log and to trace, and to answer those who ask: that the process starts, for now. Needs a Tokio runtime.
    ///
    /// # Errors
    /// Nothing can listen there, or nobody can be told there.
    pub async fn start(about: About, settings: Settings) -> Result<Watch> {
        let tracer = Tracer::start(about, settings.traces)?;
        logs::start(settings.log.0, settings.log.1, &tracer);
        if cfg!(feature = "planted-faults") {
            tracing::warn!("this build can break its rules on request: it is for the checker alone");
        }
        let listener = Listener::start(settings.metrics).await?;
        Ok(Watch { metrics: metrics::of_process(about), listener, tracer })
    }

    /// Where metrics are asked for.
    pub fn address(&self) -> Option<SocketAddr> {
        self.listener.address()
    }

    /// The process has started: answers those who ask, to the end of the runtime. Returns what is to be finished at the end.
    pub fn serve(self, ready: impl Ready + Clone, stop: Stop) -> Tracer {
        self.listener.started(self.metrics, ready, stop);
        self.tracer
    }
}
