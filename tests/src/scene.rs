//! What a run plays: how the server is set up, and what its data lies on.

use std::time::Duration;

use crate::disk::Trouble;
use crate::history::Keeps;
use crate::media;

/// A part of a run, with a server, users and a history of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Scene {
    /// Links and processes break
    Plain,
    /// They break as well, and the server keeps next to nothing
    Retention,
    /// The disk is full for a while; needs --disk
    Full,
    /// The disk fails at sync for a while; needs --disk
    Sync,
    /// Images go up in parts, and links and the server break
    Media,
    /// The same in a cluster, of which one process or another dies all the time
    MediaCluster,
    /// The server is a cluster, of which processes, links and the database break; needs the services' programs beside the binary, and PostgreSQL
    Cluster,
}

/// How long the server of the scene of retention keeps an entry.
const WINDOW: Duration = Duration::from_secs(1);
/// How long it keeps the results of messages, and so their entries as well.
const RESULTS: Duration = Duration::from_secs(2);
/// How many entries of a user it keeps: the busiest user reaches it in some seconds, and the others lose theirs to the window before that.
const CAP: usize = 800;

/// How long Redis may say that there is nothing new, in a cluster. Short, so that what is wrong for longer shows in a run.
pub(crate) const CONFIRM: Duration = Duration::from_secs(2);

impl Scene {
    /// What a run plays, with the share of its time that each gets.
    pub(crate) const USUAL: [(Scene, f64); 2] = [(Scene::Plain, 0.75), (Scene::Retention, 0.25)];
    /// What a run plays on a failing disk.
    pub(crate) const ON_DISK: [(Scene, f64); 2] = [(Scene::Full, 0.5), (Scene::Sync, 0.5)];

    /// A run of it that is shorter than this may not come to all that it is for.
    pub(crate) fn least(self) -> Duration {
        match self {
            Scene::Retention => Duration::from_secs(12),
            Scene::Cluster => Duration::from_secs(15),
            Scene::Media => Duration::from_secs(10),
            Scene::MediaCluster => Duration::from_secs(20),
            _ => Duration::ZERO,
        }
    }

    /// Its name on the command line, and that of its directory.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scene::Plain => "plain",
            Scene::Media => "media",
            Scene::MediaCluster => "media-cluster",
            Scene::Retention => "retention",
            Scene::Full => "full",
            Scene::Sync => "sync",
            Scene::Cluster => "cluster",
        }
    }

    /// How its disk refuses; `None` if it is an ordinary one.
    pub(crate) fn trouble(self) -> Option<Trouble> {
        match self {
            Scene::Plain | Scene::Retention | Scene::Media | Scene::MediaCluster | Scene::Cluster => None,
            Scene::Full => Some(Trouble::Full),
            Scene::Sync => Some(Trouble::Sync),
        }
    }

    /// Whether the server is a cluster.
    pub(crate) fn is_cluster(self) -> bool {
        matches!(self, Scene::Cluster | Scene::MediaCluster)
    }

    /// What the server is told to keep; `None` for everything.
    pub(crate) fn keeps(self) -> Option<Keeps> {
        let keeps = Keeps { window: micros(WINDOW), cap: CAP, results: micros(RESULTS), until: None };
        (self == Scene::Retention).then_some(keeps)
    }

    /// How late a check may be, in microseconds.
    pub(crate) fn late(self) -> u64 {
        match self {
            Scene::Cluster => micros(CONFIRM),
            _ => 0,
        }
    }

    /// The settings of the server under test, as its environment has them; `last` for the quiet end, in which nothing is dropped any more.
    pub(crate) fn settings(self, last: bool) -> Vec<(&'static str, String)> {
        match self {
            Scene::Plain | Scene::Cluster => Vec::new(),
            Scene::Retention if last => Vec::new(),
            Scene::Retention => vec![
                ("TERN_STORAGE__HISTORY", format!("{}ms", WINDOW.as_millis())),
                ("TERN_STORAGE__KEEP_RESULTS", format!("{}ms", RESULTS.as_millis())),
                ("TERN_STORAGE__MAX_USER_ENTRIES", CAP.to_string()),
                ("TERN_STORAGE__RETAIN_EVERY", "1s".into()),
                ("TERN_STORAGE__SEGMENT_BYTES", "1048576".into()),
            ],
            Scene::Media | Scene::MediaCluster => {
                vec![("TERN_MEDIA__LIFETIME", format!("{}ms", media::lifetime(self).as_millis()))]
            }
            // Small enough for a file system of some tens of MiB.
            Scene::Full | Scene::Sync => vec![("TERN_STORAGE__SEGMENT_BYTES", "1048576".into())],
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
