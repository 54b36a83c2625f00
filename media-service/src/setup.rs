//! What an operator sets about media; for every binary that has the service in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tern_runtime::metrics::Metrics;
use tern_runtime::queue::Meters;
use tern_runtime::settings::Settings;

use crate::MediaService;
use crate::objects::Objects;
use crate::uploads::local::Local;
use crate::uploads::{LIFETIME, Quota, Uploads};

const MIB: u64 = 1024 * 1024;

/// What may be uploaded, and how long what nothing refers to is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media {
    /// Of one user.
    pub quota: Quota,
    /// Of uploads that are not complete, and of what no message refers to.
    pub lifetime: Duration,
    /// Whether images are kept without what they say of their owners.
    pub strips_metadata: bool,
}

impl Media {
    /// Reads the settings of the section `media`.
    pub fn read(from: &mut Settings) -> Media {
        let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));
        let quota = Quota {
            bytes: from.number("media.max_bytes", 32 * MIB, 1..=256 * MIB),
            open: from.number("media.max_user_uploads", 64, 1..=100_000),
            total_bytes: from.number("media.max_user_bytes", 4096 * MIB, 1..=1 << 50),
        };
        Media {
            quota,
            lifetime: from.duration("media.lifetime", LIFETIME, second..=day * 30),
            strips_metadata: from.bool("media.strip_metadata", false),
        }
    }

    /// Opens everything in a directory. Blocks; needs a Tokio runtime.
    ///
    /// # Errors
    /// The directory cannot be opened.
    pub fn in_directory(&self, directory: &Path) -> Result<InDirectory> {
        let meters = Meters::default();
        let why = || format!("opening the media in {}", directory.display());
        let uploads: Arc<dyn Uploads> = Arc::new(Local::open(directory, self.lifetime, &meters).with_context(why)?);
        let objects = Objects::in_directory(directory).with_context(why)?;
        let makers = std::thread::available_parallelism().map_or(1, usize::from);
        let service = MediaService::new(uploads.clone(), objects.clone(), self, makers);
        Ok(InDirectory { service, uploads, objects, lifetime: self.lifetime, meters })
    }
}

/// The service of one process, and what it stands on.
pub struct InDirectory {
    /// What the gateway calls.
    pub service: Arc<MediaService>,
    /// For [`crate::collect`].
    pub uploads: Arc<dyn Uploads>,
    /// For [`crate::collect`].
    pub objects: Objects,
    /// For [`crate::collect`].
    pub lifetime: Duration,
    meters: Meters,
}

impl InDirectory {
    /// Reports what is counted.
    pub fn report_to(&self, metrics: &mut Metrics) {
        self.meters.report_to(metrics);
    }
}
