//! What an operator sets about media; for every binary that has the service in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tern_runtime::metrics::Metrics;
use tern_runtime::queue::Meters;
use tern_runtime::settings::Settings;

use crate::MediaService;
use crate::objects::{Bucket, Objects};
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

    /// Opens everything in a directory, but for the objects if these are in a bucket. Needs a Tokio runtime.
    ///
    /// # Errors
    /// The directory cannot be opened, or the bucket cannot be used.
    pub async fn in_directory(&self, directory: &Path, bucket: Option<&Bucket>) -> Result<InDirectory> {
        let meters = Meters::default();
        let (at, lifetime, in_it) = (directory.to_owned(), self.lifetime, meters.clone());
        let opened = tokio::task::spawn_blocking(move || Local::open(&at, lifetime, &in_it)).await?;
        let why = || format!("opening the media in {}", directory.display());
        let uploads: Arc<dyn Uploads> = Arc::new(opened.with_context(why)?);
        let objects = match bucket {
            Some(bucket) => objects_in(bucket).await?,
            None => Objects::in_directory(directory).with_context(why)?,
        };
        Ok(InDirectory { service: self.service(&uploads, &objects), uploads, objects, lifetime, meters })
    }

    /// The service over uploads and objects; it decodes as many images at a time as there are cores.
    pub fn service(&self, uploads: &Arc<dyn Uploads>, objects: &Objects) -> Arc<MediaService> {
        let makers = std::thread::available_parallelism().map_or(1, usize::from);
        MediaService::new(uploads.clone(), objects.clone(), self, makers)
    }
}

/// Opens the objects in a bucket.
///
/// # Errors
/// It cannot be used as it is set.
pub async fn objects_in(bucket: &Bucket) -> Result<Objects> {
    let name = &bucket.name;
    let why = || format!("the bucket {name} (media.s3_bucket): is it there, and does the key open it?");
    Objects::in_bucket(bucket).await.with_context(why)
}

/// Reads where objects are, if that is a bucket.
pub fn bucket(from: &mut Settings) -> Option<Bucket> {
    let url = |text: &str| {
        let is_url = text.starts_with("http://") || text.starts_with("https://");
        if is_url {
            Ok(text.trim_end_matches('/').to_owned())
        } else {
            Err("is no URL, as in https://s3.internal:9000".to_owned())
        }
    };
    let name = from.text("media.s3_bucket");
    let endpoint = from.parsed("media.s3_endpoint", url);
    let region = from.text("media.s3_region").unwrap_or_else(|| "us-east-1".to_owned());
    let access_key = from.text("media.s3_access_key");
    let needed = name.as_ref().map(|_| "is needed with media.s3_bucket, or media.s3_secret_key_file");
    let secret_key = from.text_or_file("media.s3_secret_key", "media.s3_secret_key_file", needed);
    let name = name?;
    if access_key.is_none() {
        from.refuse("media.s3_access_key", "is needed with media.s3_bucket");
    }
    let (_, secret_key) = secret_key?;
    Some(Bucket { endpoint, region, name, access_key: access_key?, secret_key })
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
