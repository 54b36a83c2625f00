//! The client library: links, bounded retries, local store, receipts.
