//! Commands as a person can type them here.

use std::path::Path;

/// This program as it can be typed here.
pub(crate) fn program() -> String {
    let program = std::env::current_exe().unwrap_or_else(|_| "tern".into());
    let here = std::env::current_dir().ok();
    let below = here.and_then(|here| program.strip_prefix(here).ok());
    let typed = below.unwrap_or(&program);
    // A bare name would be looked up in PATH.
    let is_bare = typed.components().count() == 1;
    quoted(&if is_bare { Path::new(".").join(typed) } else { typed.to_owned() })
}

/// One word of a shell, in single quotes when it needs them.
pub(crate) fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%:,".contains(c);
    if text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_path_is_one_word_to_a_shell() {
        for path in ["/srv/tern-1.0/x", "/my data/x", "it's", "$HOME/*", "~", "a;b", "a=b", "\"\\\n"] {
            let echo = format!("printf %s {}", quoted(Path::new(path)));
            let said = std::process::Command::new("sh").args(["-c", &echo]).output().unwrap().stdout;
            assert_eq!(String::from_utf8(said).unwrap(), path);
        }
        assert_eq!(quoted(Path::new("/srv/tern-1.0/x")), "/srv/tern-1.0/x");
    }
}
