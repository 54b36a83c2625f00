//! What this repository does not have, as tests. Each one holds a sentence of ARCHITECTURE.md.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of the longest file that is still read from top to bottom.
const FILE_LINES: usize = 600;
/// The crates of the workspace, by directory.
const MEMBERS: [&str; 14] = [
    "proto",
    "proto/rpc",
    "runtime",
    "runtime/postgres",
    "gateway",
    "sync-service",
    "media-service",
    "storage-service",
    "client",
    "tern",
    "tests",
    "xtask",
    "bench",
    "cluster",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below the members' directories and `docs` with this extension; no generated ones and no build output.
fn files(extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open: Vec<_> = MEMBERS.iter().chain(&["docs"]).map(|member| root().join(member)).collect();
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() && !["target", "gen"].contains(&name) {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no files with .{extension}");
    found
}

/// Rust files with what they hold, without this one: it names what it forbids.
fn sources() -> Vec<(PathBuf, String)> {
    let files = files("rs").into_iter().filter(|path| !path.ends_with("xtask/tests/tidy.rs"));
    files.map(|path| (path.clone(), read(path))).collect()
}

/// The files of [`sources`] that hold one of these, relative to the root.
fn holding(needles: &[&str]) -> Vec<String> {
    let hits = sources().into_iter().filter(|(_, text)| needles.iter().any(|needle| text.contains(needle)));
    hits.map(|(path, _)| path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()).collect()
}

/// The names in one table of a crate's manifest.
fn table(member: &str, header: &str) -> Vec<String> {
    let manifest = read(Path::new(member).join("Cargo.toml"));
    let lines = manifest.lines().skip_while(|line| *line != header).skip(1).take_while(|line| !line.starts_with('['));
    let names = lines.filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn dependencies(member: &str) -> Vec<String> {
    table(member, "[dependencies]")
}

#[test]
fn the_member_list_here_is_the_workspaces() {
    let manifest = read("Cargo.toml");
    let list = manifest.split("members = [").nth(1).and_then(|rest| rest.split(']').next()).unwrap();
    let members: Vec<_> = list.split('"').skip(1).step_by(2).collect();
    assert_eq!(members, MEMBERS);
}

#[test]
fn the_gateway_never_opens_a_store() {
    let dependencies = dependencies("gateway");
    assert!(dependencies.contains(&"tern-sync".to_owned()), "{dependencies:?}");
    for store in ["tern-storage", "redb", "rusqlite"] {
        assert!(!dependencies.contains(&store.to_owned()), "gateway depends on {store}");
    }
}

#[test]
fn only_the_services_that_keep_something_know_redb() {
    for member in MEMBERS.iter().filter(|member| !["storage-service", "media-service"].contains(member)) {
        assert!(!dependencies(member).contains(&"redb".to_owned()), "{member} depends on redb");
    }
}

#[test]
fn only_the_media_service_knows_images_and_objects() {
    for member in MEMBERS.iter().filter(|member| **member != "media-service") {
        for known in ["image", "mozjpeg", "fast_image_resize", "object_store"] {
            assert!(!dependencies(member).contains(&known.to_owned()), "{member} depends on {known}");
        }
    }
}

#[test]
fn only_the_sync_service_knows_redis() {
    for member in MEMBERS.iter().filter(|member| **member != "sync-service") {
        assert!(!dependencies(member).contains(&"redis".to_owned()), "{member} depends on redis");
    }
}

#[test]
fn only_the_services_that_keep_something_know_the_database() {
    let keepers = ["runtime/postgres", "storage-service", "media-service"];
    for member in MEMBERS.iter().filter(|member| !keepers.contains(member)) {
        for known in ["tokio-postgres", "tern-postgres"] {
            assert!(!dependencies(member).contains(&known.to_owned()), "{member} depends on {known}");
        }
    }
}

#[test]
fn traces_are_told_by_the_runtime_alone() {
    let is_of_traces = |name: &String| name.contains("opentelemetry");
    // The command that takes traces knows their messages, and nothing else of it.
    let known = |member: &str| match member {
        "runtime" => 4,
        "tern" => 1,
        _ => 0,
    };
    for member in MEMBERS {
        let count = dependencies(member).iter().filter(|name| is_of_traces(name)).count();
        assert_eq!(count, known(member), "{member}");
    }
}

#[test]
fn proto_has_no_runtime_and_no_io() {
    let allowed = ["bytes", "pbjson", "prost", "serde", "thiserror"];
    assert_eq!(dependencies("proto"), allowed);
}

#[test]
fn the_client_library_and_the_checker_know_no_service() {
    for member in ["client", "tests"] {
        for service in ["tern-gateway", "tern-sync", "tern-media", "tern-storage"] {
            assert!(!dependencies(member).contains(&service.to_owned()), "{member} depends on {service}");
        }
    }
}

#[test]
fn the_bench_knows_no_service() {
    for service in ["tern-gateway", "tern-sync", "tern-media", "tern-storage", "tern-client"] {
        assert!(!dependencies("bench").contains(&service.to_owned()), "bench depends on {service}");
    }
}

#[test]
fn only_the_clock_reads_the_wall_clock() {
    assert_eq!(holding(&["SystemTime::now", "UNIX_EPOCH.elapsed", "Utc::now"]), ["runtime/src/clock.rs"]);
}

#[test]
fn no_file_is_too_long_to_read() {
    for (path, text) in sources() {
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES, "{} has {lines} lines: which noun in it wants a file?", path.display());
    }
}

#[test]
fn no_test_is_ignored() {
    assert_eq!(holding(&["#[ignore"]), Vec::<String>::new());
}

#[test]
fn no_c_library_of_another_crypto_provider_comes_in() {
    // The lock file also names what stands behind features that nobody asks for.
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let asked = ["tree", "--workspace", "--locked", "--prefix", "none", "--format", "{p}"];
    let tree = Command::new(cargo).args(asked).current_dir(root()).output().unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let is_there = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    assert!(is_there("aws-lc-rs"));
    for unwanted in ["ring", "openssl-sys", "native-tls"] {
        assert!(!is_there(unwanted), "{unwanted} comes in");
    }
}

#[test]
fn planted_faults_are_on_only_where_asked_for() {
    for member in MEMBERS {
        let manifest = read(Path::new(member).join("Cargo.toml"));
        let lines: Vec<_> =
            manifest.lines().filter(|line| line.contains("planted-faults") && !line.starts_with('#')).collect();
        let own = |line: &&str| line.starts_with("planted-faults = [");
        assert!(lines.iter().all(own), "{member}/Cargo.toml: {lines:?}");
    }
    assert!(table("runtime", "[features]").contains(&"planted-faults".to_owned()));
}

#[test]
fn the_pages_for_people_name_every_crate() {
    for page in ["README.md", "ARCHITECTURE.md"] {
        let text = read(page);
        for member in MEMBERS {
            assert!(
                text.contains(&format!("`{member}`")) || text.contains(&format!("`{member}/")),
                "{page} misses {member}"
            );
        }
    }
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut pages = files("md");
    pages.extend(["README.md", "ARCHITECTURE.md"].map(|page| root().join(page)));
    for page in pages {
        let text = read(&page);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let outside = link.is_empty() || link.contains("://");
            assert!(outside || page.parent().unwrap().join(link).exists(), "{}: {link} is not there", page.display());
        }
    }
}

#[test]
fn every_setting_is_in_the_operators_page() {
    let page = read("docs/operations.md");
    let places = [
        "tern/src/standalone/settings.rs",
        "gateway/src/setup.rs",
        "gateway/src/main.rs",
        "sync-service/src/main.rs",
        "media-service/src/main.rs",
        "media-service/src/setup.rs",
        "storage-service/src/setup.rs",
        "storage-service/src/main.rs",
        "runtime/src/logs.rs",
        "runtime/src/metrics.rs",
        "runtime/src/traces.rs",
        "sync-service/src/remote/settings.rs",
        "proto/rpc/src/serve.rs",
    ];
    let code: String = places.map(read).concat();
    // What stands in a trace looks the same.
    let is_noted = |text: &&str| text.starts_with("service.") || text.starts_with("tern.");
    let names = code.split('"').skip(1).step_by(2).filter(|text| is_setting(text) && !is_noted(text));
    let names: Vec<_> = names.collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/operations.md misses {name}");
    }
}

#[test]
fn every_reported_outage_is_tried_by_tests_that_exist() {
    let page = read("docs/checker.md");
    let table = page.split("## 9. ").nth(1).unwrap();
    let code: String = files("rs").iter().map(read).collect();
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| case")).collect();
    assert_eq!(rows.len(), 16);
    for row in rows {
        let tests = row.split('`').skip(1).step_by(2).filter(|name| name.contains('_'));
        for name in tests {
            assert!(code.contains(&format!("fn {name}(")), "docs/checker.md: there is no {name}");
        }
    }
}

/// Two words of lower case with a dot between them.
fn is_setting(text: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    text.split_once('.').is_some_and(|(section, name)| word(section) && word(name))
}
