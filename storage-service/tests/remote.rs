//! Storage over gRPC passes the contract: the reference behind two servers, whose replies go through two replicas in turn.

use std::sync::Arc;

use async_trait::async_trait;
use tern_rpc::Serving;
use tern_runtime::shutdown;
use tern_storage::contract::Place;
use tern_storage::contract::retention::RULES;
use tern_storage::reference::Reference;
use tern_storage::{Storage, remote};
use tokio::net::TcpListener;

/// Every opening is a new store behind new servers.
struct Behind;

#[async_trait]
impl Place for Behind {
    async fn open(&self) -> Arc<dyn Storage> {
        let store: Arc<dyn Storage> = Arc::new(Reference::default().with_rules(RULES));
        let mut places = Vec::new();
        for _ in 0..2 {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            places.push(listener.local_addr().expect("bound").to_string());
            let routes = remote::routes(store.clone());
            tokio::spawn(async move {
                let (_never, stop) = shutdown::channel();
                tern_rpc::serve(listener, routes, Serving { reflection: true }, stop).await
            });
        }
        Arc::new(remote::Client::new(places.join(",").parse().expect("a target")))
    }
}

tern_storage::contract_cases!(Behind);
tern_storage::retention_cases!(Behind);
