//! The committed code under `src/gen` is what the .proto files generate.
//!
//! It is committed so that a build needs neither protoc nor a code generator.
//! After a change of a .proto file: `TERN_UPDATE=1 cargo test -p tern-proto --test generated`.

use std::path::{Path, PathBuf};

use prost::Message as _;

const FILES: [&str; 2] = ["tern.v1.rs", "tern.v1.serde.rs"];

fn generate(out: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let descriptors = protox::compile(["tern/v1/client.proto"], [&root]).expect("the .proto files compile");
    let bytes = descriptors.encode_to_vec();
    prost_build::Config::new().out_dir(out).compile_fds(descriptors).expect("prost generates the messages");
    pbjson_build::Builder::new()
        .register_descriptors(&bytes)
        .expect("the descriptors decode")
        .out_dir(out)
        .build(&[".tern.v1"])
        .expect("pbjson generates the JSON mapping");
}

#[test]
fn committed_code_is_what_the_proto_files_generate() {
    let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("TERN_UPDATE").is_some() {
        generate(&committed);
        return;
    }
    let fresh = tempdir();
    generate(&fresh);
    for file in FILES {
        let want = std::fs::read_to_string(fresh.join(file)).unwrap();
        let have = std::fs::read_to_string(committed.join(file)).unwrap();
        assert!(want == have, "src/gen/{file} is stale: run TERN_UPDATE=1 cargo test -p tern-proto --test generated");
    }
    std::fs::remove_dir_all(fresh).unwrap();
}

fn tempdir() -> PathBuf {
    let dir = std::env::temp_dir().join(format!("tern-proto-gen-{}", std::process::id()));
    std::fs::create_dir_all(&dir).expect("the temporary directory can be written");
    dir
}
