//! Which life of the store this is.
//!
//! The epoch is in the database and every answer carries it as it stands in its own snapshot. Beside it stands which database cluster holds it, and on
//! which timeline of that: a restored copy and a promoted standby are on another, and may have lost what was acknowledged.

use std::fmt;
use std::str::FromStr;

use tern_postgres::Failure;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

/// A database cluster and a timeline of its log, written `7312…:1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    system_identifier: String,
    timeline: i64,
}

impl fmt::Display for Lineage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.system_identifier, self.timeline)
    }
}

impl FromStr for Lineage {
    type Err = String;

    fn from_str(text: &str) -> Result<Lineage, String> {
        let parts = text.split_once(':').and_then(|(system, timeline)| Some((system, timeline.parse().ok()?)));
        let Some((system, timeline)) = parts.filter(|(system, _)| !system.is_empty()) else {
            return Err(format!("{text:?} is not a system identifier and a timeline, as in 7312345678901234567:2"));
        };
        Ok(Lineage { system_identifier: system.to_owned(), timeline })
    }
}

/// Looks whether the database is on the lineage that the epoch belongs to, and begins a new epoch if it is not, unless `nothing_lost` names the
/// one that it is on.
pub(super) async fn adopt(client: &mut Client, nothing_lost: Option<&Lineage>) -> Result<(), Failure> {
    let lineage = lineage(client).await?;
    let transaction = client.transaction().await?;
    // Looked at without a lock: every connection comes by.
    let known = transaction.query_opt("SELECT system_identifier, timeline FROM store", &[]).await?;
    let known = known.map(|row| Lineage { system_identifier: row.get(0), timeline: row.get(1) });
    if known.as_ref() == Some(&lineage) {
        return Ok(());
    }
    let epoch = new_epoch();
    let Lineage { system_identifier, timeline } = &lineage;
    match known {
        None => {
            let first = "INSERT INTO store (id, epoch, system_identifier, timeline) VALUES (1, $1, $2, $3) \
                ON CONFLICT (id) DO NOTHING";
            transaction.execute(first, &[&epoch, system_identifier, timeline]).await?;
        }
        Some(before) => {
            let kept = nothing_lost == Some(&lineage);
            let next = "UPDATE store SET epoch = CASE WHEN $1 THEN epoch ELSE $2 END, system_identifier = $3, timeline = $4 \
                WHERE id = 1 AND system_identifier = $5 AND timeline = $6";
            let told: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                [&kept, &epoch, system_identifier, timeline, &before.system_identifier, &before.timeline];
            // No row: another replica has done it.
            if transaction.execute(next, &told).await? > 0 {
                let (before, now) = (before.to_string(), lineage.to_string());
                if kept {
                    tracing::warn!(%before, %now, "the database has moved, and nothing was lost by what the settings say");
                } else {
                    tracing::warn!(%before, %now, "the database has moved and may have lost something: a new epoch begins, and clients replace their keys");
                }
            }
        }
    }
    transaction.commit().await?;
    Ok(())
}

/// Where the database says it is. What only speaks the protocol has no such functions, and then it is always in the same place.
async fn lineage(client: &Client) -> Result<Lineage, Failure> {
    let asked = "SELECT (SELECT system_identifier::text FROM pg_control_system()), \
        substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
    match client.query_one(asked, &[]).await {
        Ok(row) => {
            let timeline: String = row.get(1);
            let timeline = i64::from_str_radix(&timeline, 16).map_err(|_| Failure::Damaged("a log file's name"))?;
            Ok(Lineage { system_identifier: row.get(0), timeline })
        }
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_FUNCTION) => {
            Ok(Lineage { system_identifier: "unknown".into(), timeline: 1 })
        }
        Err(error) => Err(error.into()),
    }
}

/// Not 0, and positive in the database's signed numbers.
fn new_epoch() -> i64 {
    fastrand::i64(1..)
}
