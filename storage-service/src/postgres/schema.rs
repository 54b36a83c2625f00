//! Brings the tables to what this release needs, by itself, whoever comes first.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use super::failure::Failure;

/// Every step, in order; a step that was released is never changed.
const STEPS: [&str; 2] = [include_str!("schema_1.sql"), include_str!("schema_2.sql")];

/// Takes the steps that are missing. Several replicas may do so at once: each step begins with the row that says it is taken, so all but the
/// first wait for that one to commit and then find it there.
///
/// # Errors
/// [`Failure::Refused`] where the user may not make tables, or the tables are of a later release.
pub(super) async fn migrate(client: &mut Client) -> Result<(), Failure> {
    let made = client.batch_execute("CREATE TABLE IF NOT EXISTS migrations (step integer PRIMARY KEY)").await;
    match made {
        // Two that make it at the same moment: it is there.
        Err(error) if is_there(error.code()) => {}
        made => made?,
    }
    for (step, statements) in (1..).zip(STEPS) {
        let known = client.query_opt("SELECT 1 FROM migrations WHERE step = $1", &[&step]).await?;
        if known.is_some() {
            continue;
        }
        match take(client, step, statements).await {
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {}
            taken => {
                taken?;
                tracing::info!(step, "the tables of the database were brought up to date");
            }
        }
    }
    Ok(())
}

async fn take(client: &mut Client, step: i32, statements: &str) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.execute("INSERT INTO migrations (step) VALUES ($1)", &[&step]).await?;
    transaction.batch_execute(statements).await?;
    transaction.commit().await
}

fn is_there(code: Option<&SqlState>) -> bool {
    // A table has a type of the same name, which may be the first that two are found to make.
    [&SqlState::UNIQUE_VIOLATION, &SqlState::DUPLICATE_TABLE, &SqlState::DUPLICATE_OBJECT].map(Some).contains(&code)
}
