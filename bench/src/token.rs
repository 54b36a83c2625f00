//! Tokens for the users of a run.

use jsonwebtoken::{EncodingKey, Header};
use serde::Serialize;
use tern_runtime::clock::unix_millis;

/// No run is longer.
const SECONDS: i64 = 24 * 3600;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    exp: i64,
}

/// A token for the user, signed with the secret.
pub(crate) fn mint(secret: &[u8], user: &str) -> String {
    let claims = Claims { sub: user, exp: unix_millis() / 1000 + SECONDS };
    jsonwebtoken::encode(&Header::default(), &claims, &EncodingKey::from_secret(secret))
        .expect("HS256 signs with any secret, and claims of text and numbers have a JSON form")
}
