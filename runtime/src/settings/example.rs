//! Secrets that stand in examples, which whoever reads the same page knows.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// What is wrong with one, and what to do.
pub const EXAMPLE: &str = "is a secret that stands in examples: make one of your own, as with `openssl rand -hex 32`";

/// What a password is when nobody has chosen one.
const WHOLE: [&str; 15] = [
    "admin", "changeit", "default", "guest", "nats", "pass", "password", "postgres", "redis", "root", "secret", "tern",
    "test", "token", "user",
];
/// What stands in the place of a secret until somebody puts one there.
const PARTS: [&str; 6] = ["changeme", "changethis", "example", "insecure", "replaceme", "yoursecret"];
/// A secret of so many bytes with fewer different ones was typed with one finger.
const LONG: usize = 16;
const DIFFERENT: usize = 6;

/// Whether a secret is one that everybody knows. Digits and signs around and within it make no difference.
pub fn is_example(secret: &str) -> bool {
    let letters: String = secret.chars().filter(char::is_ascii_alphabetic).collect();
    let letters = letters.to_ascii_lowercase();
    let is_digits = !secret.is_empty() && secret.len() < LONG && secret.bytes().all(|byte| byte.is_ascii_digit());
    let mut bytes = secret.as_bytes().to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    let is_one_finger = secret.len() >= LONG && bytes.len() < DIFFERENT;
    is_one_finger || is_digits || WHOLE.contains(&letters.as_str()) || PARTS.iter().any(|part| letters.contains(part))
}

/// What may be a secret in a URL, or in several with commas between them: the user, which is a token of NATS, the password behind its colon, and that of a query.
pub(super) fn secrets_of(url: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let of_user = url.split("://").skip(1).map(|rest| {
        let before = rest.split('/').next().and_then(|host| host.rsplit_once('@')).map_or("", |(before, _)| before);
        match before.split_once(':') {
            Some((_, password)) => password,
            None if url.starts_with("postgres") => "",
            None => before,
        }
    });
    let of_query = url.split(['?', '&', ' ']).filter_map(|part| part.strip_prefix("password="));
    of_query
        .chain(of_user)
        .filter(|secret| !secret.is_empty())
        .map(|secret| percent_decode_str(secret).decode_utf8_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_examples_is_known() {
        for known in [
            "password",
            "Secret",
            "change-me",
            "CHANGE_ME_please_0123456789abcdef",
            "tern",
            "test1234",
            "guest!",
            "changeit",
            "12345678",
        ] {
            assert!(is_example(known), "{known}");
        }
        assert!(is_example(&"x".repeat(32)) && is_example(&"abc".repeat(11)));
        for own in ["correct horse", "q4Zs9u", "7c1be2a7f0d94d4ea2b6", "passwords-are-long-here-9f"] {
            assert!(!is_example(own), "{own}");
        }
    }

    #[test]
    fn the_secrets_of_a_url_are_found() {
        let found = |url| secrets_of(url).collect::<Vec<_>>();
        assert_eq!(found("redis://:pa:ss@host:6379/0"), ["pa:ss"]);
        assert_eq!(found("postgresql://user:p@ss@a:1,b:2/db?x=y@z"), ["p@ss"]);
        assert_eq!(found("nats://token@host"), ["token"]);
        assert_eq!(found("nats://a:one@h1:4222,nats://a:tw%6f@h2"), ["one", "two"]);
        assert_eq!(found("postgresql://host/db?user=x&password=y"), ["y"]);
        assert_eq!(found("host=a password=b"), ["b"]);
        for none in ["redis://host", "postgresql://user@host/db", "what"] {
            assert!(found(none).is_empty(), "{none}");
        }
    }
}
