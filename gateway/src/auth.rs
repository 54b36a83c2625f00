//! Tokens: JSON Web Tokens whose `sub` is the user.
//!
//! A key is a shared secret (HS256), an EdDSA public key, or one of a JSON Web Key Set. A token is tried against the
//! keys of its algorithm, and where both name a key id, of that id. Nothing here logs a token or any part of it.
//!
//! A key set may be behind a URL: the `refresher` fetches it, and a token only ever sees the keys that are there already.

mod key_set_url;
mod refresher;

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use tern_proto::limits::TOKEN_BYTES;
use tern_proto::{UserId, v1};
use tern_runtime::clock;

pub use self::key_set_url::{BadKeySetUrl, KeySetUrl};
use self::refresher::FetchedKeys;
pub use self::refresher::KeySetRefresher;

/// How far the clocks of the issuer and of this host may differ.
const LEEWAY: Duration = Duration::from_secs(60);

/// Checks tokens. Without any key it refuses them all.
#[derive(Debug, Default)]
pub struct TokenVerifier {
    keys: Vec<Key>,
    fetched: Arc<FetchedKeys>,
    /// Whom a token has to be for; without it, whom a token is for does not matter.
    audience: Option<String>,
}

#[derive(Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// A token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// Not a token, not by a known key, for another audience, or without the claims that are needed.
    #[error("the token is not valid")]
    Invalid,
    /// It was valid once.
    #[error("the token has expired")]
    Expired,
    /// Its `sub` is no user name.
    #[error("the token's sub is not a user name")]
    User,
}

/// A key cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadKey {
    /// An empty secret would let everybody in.
    #[error("the secret is empty")]
    EmptySecret,
    /// Not the PEM of an Ed25519 public key.
    #[error("not an Ed25519 public key in PEM: {0}")]
    Pem(String),
    /// Not a JSON Web Key Set.
    #[error("not a JSON Web Key Set: {0}")]
    KeySet(String),
    /// No key of the set can sign tokens in a way that is known here.
    #[error("the JSON Web Key Set has no key that can be used")]
    EmptyKeySet,
}

/// Times are seconds since 1970, possibly with a fraction.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
}

impl TokenVerifier {
    /// Also takes HS256 tokens signed with the secret.
    ///
    /// # Errors
    /// The secret is empty.
    pub fn with_secret(mut self, secret: &[u8]) -> Result<TokenVerifier, BadKey> {
        if secret.is_empty() {
            return Err(BadKey::EmptySecret);
        }
        self.keys.push(Key { id: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) });
        Ok(self)
    }

    /// Also takes EdDSA tokens of the Ed25519 public key.
    ///
    /// # Errors
    /// The bytes are not such a key in PEM.
    pub fn with_public_key(mut self, pem: &[u8]) -> Result<TokenVerifier, BadKey> {
        let key = DecodingKey::from_ed_pem(pem).map_err(|error| BadKey::Pem(error.to_string()))?;
        self.keys.push(Key { id: None, algorithm: Algorithm::EdDSA, key });
        Ok(self)
    }

    /// Also takes tokens of the keys of a JSON Web Key Set; keys of a kind that is not known are left out.
    ///
    /// # Errors
    /// The text is not a key set, or none of its keys can be used.
    pub fn with_key_set(mut self, json: &str) -> Result<TokenVerifier, BadKey> {
        self.keys.extend(keys_of_set(json.as_bytes())?);
        Ok(self)
    }

    /// Also takes tokens of the keys of the JSON Web Key Set at the URL, as last fetched by the refresher. Of two URLs the later
    /// one counts.
    pub fn with_key_set_url(self, url: KeySetUrl) -> (TokenVerifier, KeySetRefresher) {
        let fetched = Arc::<FetchedKeys>::default();
        let refresher = KeySetRefresher::new(url, Arc::clone(&fetched));
        (TokenVerifier { fetched, ..self }, refresher)
    }

    /// Takes only tokens whose `aud` is, or has among others, the audience.
    pub fn with_audience(self, audience: impl Into<String>) -> TokenVerifier {
        TokenVerifier { audience: Some(audience.into()), ..self }
    }

    /// The user whom the token names. A token of a key id that is not known has the key set fetched again, and is refused
    /// meanwhile.
    ///
    /// # Errors
    /// [`BadToken`] says why there is none.
    pub fn verify(&self, token: &str) -> Result<UserId, BadToken> {
        self.verify_at(token, clock::unix_millis() as f64 / 1000.0)
    }

    fn verify_at(&self, token: &str, now: f64) -> Result<UserId, BadToken> {
        if token.len() > TOKEN_BYTES {
            return Err(BadToken::Invalid);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| BadToken::Invalid)?;
        let fetched = self.fetched.current();
        let mut keys = self.keys.iter().chain(fetched.iter());
        let claims = keys
            .clone()
            .filter(|key| key.may_have_signed(&header))
            .find_map(|key| key.claims(token, self.audience.as_deref()));
        let Some(claims) = claims else {
            if header.kid.is_some() && !keys.any(|key| key.id == header.kid) {
                self.fetched.ask();
            }
            return Err(BadToken::Invalid);
        };
        let leeway = LEEWAY.as_secs_f64();
        if claims.nbf.is_some_and(|start| now + leeway < start) {
            return Err(BadToken::Invalid);
        }
        if claims.exp + leeway <= now {
            return Err(BadToken::Expired);
        }
        UserId::new(&claims.sub).map_err(|_| BadToken::User)
    }
}

/// The keys of a JSON Web Key Set that can be used; at least one.
fn keys_of_set(json: &[u8]) -> Result<Vec<Key>, BadKey> {
    let set: JwkSet = serde_json::from_slice(json).map_err(|error| BadKey::KeySet(error.to_string()))?;
    let keys: Vec<_> = set.keys.iter().filter_map(Key::from_jwk).collect();
    if keys.is_empty() { Err(BadKey::EmptyKeySet) } else { Ok(keys) }
}

impl Key {
    fn from_jwk(jwk: &Jwk) -> Option<Key> {
        let named = jwk.common.key_algorithm.map(Algorithm::try_from);
        let algorithm = match (named, &jwk.algorithm) {
            (Some(named), _) => named.ok()?,
            (None, AlgorithmParameters::OctetKey(_)) => Algorithm::HS256,
            (None, AlgorithmParameters::OctetKeyPair(_)) => Algorithm::EdDSA,
            (None, AlgorithmParameters::RSA(_)) => Algorithm::RS256,
            (None, AlgorithmParameters::EllipticCurve(key)) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
            (None, _) => return None,
        };
        let key = DecodingKey::from_jwk(jwk).ok().filter(|key| key.family() == algorithm.family())?;
        Some(Key { id: jwk.common.key_id.clone(), algorithm, key })
    }

    fn may_have_signed(&self, header: &Header) -> bool {
        let same_id = match (&self.id, &header.kid) {
            (Some(mine), Some(named)) => mine == named,
            _ => true,
        };
        self.algorithm == header.alg && same_id
    }

    /// The claims, if this key signed them for the audience. The times are left to the caller, whose clock is the one of the process.
    fn claims(&self, token: &str, audience: Option<&str>) -> Option<Claims> {
        let mut rules = Validation::new(self.algorithm);
        rules.validate_exp = false;
        match audience {
            Some(audience) => {
                rules.set_audience(&[audience]);
                rules.required_spec_claims.insert("aud".into());
            }
            None => rules.validate_aud = false,
        }
        jsonwebtoken::decode::<Claims>(token, &self.key, &rules).ok().map(|token| token.claims)
    }
}

impl BadToken {
    /// What it is on the wire.
    pub fn code(self) -> v1::Code {
        match self {
            BadToken::Invalid => v1::Code::BadToken,
            BadToken::Expired => v1::Code::TokenExpired,
            BadToken::User => v1::Code::BadDevice,
        }
    }
}

/// A token for the user, signed by HS256 with the secret, that expires after `ttl`.
pub fn mint(secret: &[u8], user: &UserId, ttl: Duration) -> String {
    let ttl = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
    mint_until(secret, user, (clock::unix_millis() / 1000).saturating_add(ttl))
}

fn mint_until(secret: &[u8], user: &UserId, exp: i64) -> String {
    #[derive(Serialize)]
    struct Minted<'a> {
        sub: &'a str,
        exp: i64,
    }
    let claims = Minted { sub: user.as_str(), exp };
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret))
        .expect("HS256 signs with any secret, and claims of text and numbers have a JSON form")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"a secret of the tests";
    const NOW: i64 = 1_800_000_000;

    fn alice() -> UserId {
        UserId::new("alice").unwrap()
    }

    fn verify(token: &str) -> Result<UserId, BadToken> {
        TokenVerifier::default().with_secret(SECRET).unwrap().verify_at(token, NOW as f64)
    }

    fn signed(claims: &serde_json::Value) -> String {
        jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(SECRET)).unwrap()
    }

    #[test]
    fn a_minted_token_names_its_user() {
        let verifier = TokenVerifier::default().with_secret(SECRET).unwrap();
        assert_eq!(verifier.verify(&mint(SECRET, &alice(), Duration::from_secs(60))), Ok(alice()));
    }

    #[test]
    fn a_token_lives_until_exp_and_the_leeway() {
        assert_eq!(verify(&mint_until(SECRET, &alice(), NOW - 59)), Ok(alice()));
        assert_eq!(verify(&mint_until(SECRET, &alice(), NOW - 60)), Err(BadToken::Expired));
    }

    #[test]
    fn what_is_no_token_of_ours_is_refused() {
        let good = mint_until(SECRET, &alice(), NOW + 60);
        let (body, _) = good.rsplit_once('.').unwrap();
        let long = "x".repeat(TOKEN_BYTES + 1);
        let foreign = mint_until(b"another", &alice(), NOW + 60);
        for bad in ["", "a.b.c", body, &format!("{body}."), &foreign, &long] {
            assert_eq!(verify(bad), Err(BadToken::Invalid), "{bad}");
        }
        assert_eq!(TokenVerifier::default().verify_at(&good, NOW as f64), Err(BadToken::Invalid));
    }

    #[test]
    fn an_expired_token_of_a_foreign_key_is_not_called_expired() {
        assert_eq!(verify(&mint_until(b"another", &alice(), NOW - 600)), Err(BadToken::Invalid));
    }

    #[test]
    fn claims_that_are_missing_or_early_or_no_user_are_refused() {
        let json = |text: &str| signed(&serde_json::from_str(text).unwrap());
        assert_eq!(verify(&json(r#"{"sub":"alice"}"#)), Err(BadToken::Invalid));
        assert_eq!(verify(&json(r#"{"exp":1900000000}"#)), Err(BadToken::Invalid));
        assert_eq!(verify(&json(r#"{"sub":"alice","exp":1900000000,"nbf":1800000061}"#)), Err(BadToken::Invalid));
        assert_eq!(verify(&json(r#"{"sub":"alice","exp":1900000000.5,"nbf":1800000059}"#)), Ok(alice()));
        assert_eq!(verify(&json(r#"{"sub":"a b","exp":1900000000}"#)), Err(BadToken::User));
    }

    #[test]
    fn an_audience_that_is_set_has_to_be_named() {
        let any = TokenVerifier::default().with_secret(SECRET).unwrap();
        let ours = TokenVerifier::default().with_secret(SECRET).unwrap().with_audience("tern");
        for (aud, is_ours) in [
            (None, false),
            (Some(serde_json::json!("tern")), true),
            (Some(serde_json::json!("other")), false),
            (Some(serde_json::json!(["other", "tern"])), true),
            (Some(serde_json::json!(["other"])), false),
            (Some(serde_json::json!(7)), false),
        ] {
            let mut claims = serde_json::json!({"sub": "alice", "exp": NOW + 60});
            if let Some(aud) = &aud {
                claims["aud"] = aud.clone();
            }
            let token = signed(&claims);
            assert_eq!(any.verify_at(&token, NOW as f64), Ok(alice()), "{aud:?}");
            let want = if is_ours { Ok(alice()) } else { Err(BadToken::Invalid) };
            assert_eq!(ours.verify_at(&token, NOW as f64), want, "{aud:?}");
        }
    }

    #[test]
    fn an_unsigned_token_is_refused() {
        // {"alg":"none","typ":"JWT"}.{"sub":"alice","exp":1900000000}.
        let token = "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbGljZSIsImV4cCI6MTkwMDAwMDAwMH0.";
        assert_eq!(verify(token), Err(BadToken::Invalid));
    }

    #[test]
    fn of_a_key_set_the_key_with_the_id_counts() {
        // The k of both is base64url: "first" and "second".
        let set = r#"{"keys":[{"kty":"oct","kid":"1","alg":"HS256","k":"Zmlyc3Q"},
                              {"kty":"oct","kid":"2","k":"c2Vjb25k"}, {"kty":"unheard of"}]}"#;
        let verifier = TokenVerifier::default().with_key_set(set).unwrap();
        let signed = |secret: &[u8], kid: &str| {
            let header = Header { kid: Some(kid.into()), ..Header::default() };
            let claims = serde_json::json!({"sub": "alice", "exp": NOW + 60});
            jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap()
        };
        let verify = |token: &str| verifier.verify_at(token, NOW as f64);
        assert_eq!(verify(&signed(b"first", "1")), Ok(alice()));
        assert_eq!(verify(&signed(b"second", "2")), Ok(alice()));
        assert_eq!(verify(&signed(b"second", "1")), Err(BadToken::Invalid));
        assert_eq!(verify(&signed(b"first", "3")), Err(BadToken::Invalid));
    }

    #[test]
    fn ed25519_keys_verify_and_do_not_serve_as_a_secret() {
        let verifier = TokenVerifier::default().with_public_key(PUBLIC.as_bytes()).unwrap();
        let claims = serde_json::json!({"sub": "alice", "exp": NOW + 60});
        let private = EncodingKey::from_ed_pem(PRIVATE.as_bytes()).unwrap();
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &private).unwrap();
        assert_eq!(verifier.verify_at(&token, NOW as f64), Ok(alice()));
        let confused = mint_until(PUBLIC.as_bytes(), &alice(), NOW + 60);
        assert_eq!(verifier.verify_at(&confused, NOW as f64), Err(BadToken::Invalid));
    }

    #[test]
    fn bad_keys_are_named() {
        assert_eq!(TokenVerifier::default().with_secret(b"").unwrap_err(), BadKey::EmptySecret);
        assert!(matches!(TokenVerifier::default().with_public_key(b"x").unwrap_err(), BadKey::Pem(_)));
        assert!(matches!(TokenVerifier::default().with_key_set("x").unwrap_err(), BadKey::KeySet(_)));
        let unknown = r#"{"keys":[{"kty":"unheard of"}]}"#;
        assert_eq!(TokenVerifier::default().with_key_set(unknown).unwrap_err(), BadKey::EmptyKeySet);
    }

    // A key pair of these tests alone.
    const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIEPnjcQcG7JAKOAVG1RzSmCJEKM0RnL/xVOVVpVabGc9\n-----END PRIVATE KEY-----\n";
    const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA6I4cPPArBpJmioVM2ZLqPyiz+L29JoTzM84VsfaOJiY=\n-----END PUBLIC KEY-----\n";
}
