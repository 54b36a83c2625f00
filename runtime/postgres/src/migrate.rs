//! Brings the tables to what a release needs, by itself, whoever comes first.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::failure::Failure;

/// Takes the steps that are missing, in order; a step that was released is never changed. The table `taken` says which were: each service has one of its
/// own, so that several may share a database.
///
/// Several replicas may do so at once: each step begins with the row that says it is taken, so all but the first wait for that one to commit and then find
/// it there.
///
/// # Errors
/// [`Failure::Refused`] where the user may not make tables, or the tables are of a later release.
pub async fn migrate(client: &mut Client, taken: &'static str, steps: &[&str]) -> Result<(), Failure> {
    let made = client.batch_execute(&format!("CREATE TABLE IF NOT EXISTS {taken} (step integer PRIMARY KEY)")).await;
    match made {
        // Two that make it at the same moment: it is there.
        Err(error) if is_there(error.code()) => {}
        made => made?,
    }
    let look = format!("SELECT 1 FROM {taken} WHERE step = $1");
    for (step, statements) in (1i32..).zip(steps) {
        if client.query_opt(&look, &[&step]).await?.is_some() {
            continue;
        }
        match take(client, taken, step, statements).await {
            Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {}
            done => {
                done?;
                tracing::info!(step, taken, "the tables of the database were brought up to date");
            }
        }
    }
    Ok(())
}

async fn take(client: &mut Client, taken: &str, step: i32, statements: &str) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    transaction.execute(&format!("INSERT INTO {taken} (step) VALUES ($1)"), &[&step]).await?;
    transaction.batch_execute(statements).await?;
    transaction.commit().await
}

fn is_there(code: Option<&SqlState>) -> bool {
    // A table has a type of the same name, which may be the first that two are found to make.
    [&SqlState::UNIQUE_VIOLATION, &SqlState::DUPLICATE_TABLE, &SqlState::DUPLICATE_OBJECT].map(Some).contains(&code)
}
