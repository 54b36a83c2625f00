//! Secrets that stand in examples, which whoever reads the same page knows.

/// What is wrong with one, and what to do.
pub const EXAMPLE: &str = "is a secret that stands in examples: make one of your own, as with `openssl rand -hex 32`";

/// What a password is when nobody has chosen one.
const WHOLE: [&str; 14] = [
    "admin", "default", "guest", "nats", "pass", "password", "postgres", "redis", "root", "secret", "tern", "test",
    "token", "user",
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
    let mut bytes = secret.as_bytes().to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    let is_one_finger = secret.len() >= LONG && bytes.len() < DIFFERENT;
    is_one_finger || WHOLE.contains(&letters.as_str()) || PARTS.iter().any(|part| letters.contains(part))
}

/// The password in a URL, if there is one: what stands between the colon after the user and the last `@` before the path.
pub(super) fn password_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (before, _) = rest.split('/').next()?.rsplit_once('@')?;
    before.split_once(':').map(|(_, password)| password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_in_examples_is_known() {
        for known in
            ["password", "Secret", "change-me", "CHANGE_ME_please_0123456789abcdef", "tern", "test1234", "guest!"]
        {
            assert!(is_example(known), "{known}");
        }
        assert!(is_example(&"x".repeat(32)) && is_example(&"abc".repeat(11)));
        for own in ["correct horse", "q4Zs9u", "7c1be2a7f0d94d4ea2b6", "passwords-are-long-here-9f"] {
            assert!(!is_example(own), "{own}");
        }
    }

    #[test]
    fn the_password_of_a_url_is_found() {
        assert_eq!(password_of("redis://:pa:ss@host:6379/0"), Some("pa:ss"));
        assert_eq!(password_of("postgresql://user:p@ss@a:1,b:2/db?x=y@z"), Some("p@ss"));
        for none in ["redis://host", "nats://token@host", "postgresql://user@host/db", "what"] {
            assert_eq!(password_of(none), None, "{none}");
        }
    }
}
