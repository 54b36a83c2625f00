//! The reference passes the contract that it specifies.

use std::sync::Arc;

use async_trait::async_trait;
use tern_storage::Storage;
use tern_storage::contract::Place;
use tern_storage::contract::retention::RULES;
use tern_storage::reference::Reference;

/// In memory: every opening is a new store.
struct Memory;

#[async_trait]
impl Place for Memory {
    async fn open(&self) -> Arc<dyn Storage> {
        Arc::new(Reference::default().with_rules(RULES))
    }
}

tern_storage::contract_cases!(Memory);
tern_storage::retention_cases!(Memory);

/// A store that forgets each result at the next send.
struct Forgetful;

#[async_trait]
impl Place for Forgetful {
    async fn open(&self) -> Arc<dyn Storage> {
        Arc::new(Reference::new(1, -1))
    }
}

/// The comparison can fail.
#[tokio::test]
#[should_panic(expected = "seed 0")]
async fn a_forgetful_store_differs_from_the_reference() {
    tern_storage::contract::random::histories_equal_the_reference(&Forgetful).await;
}
