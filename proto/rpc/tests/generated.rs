//! The committed code under `src/gen` is what the .proto files generate.
//!
//! It is committed so that a build needs neither protoc nor a code generator.
//! After a change of a .proto file: `TERN_UPDATE=1 cargo test -p tern-rpc --test generated`.

use std::path::{Path, PathBuf};

use prost::Message as _;

const FILES: [&str; 2] = ["tern.rpc.v1.rs", "descriptors.bin"];
const SOURCES: [&str; 4] =
    ["tern/rpc/v1/storage.proto", "tern/rpc/v1/sync.proto", "tern/rpc/v1/gateway.proto", "tern/rpc/v1/media.proto"];

fn generate(out: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let includes = [root.join("proto"), root.join("../proto")];
    let descriptors = protox::compile(SOURCES, includes).expect("the .proto files compile");
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec()).expect("the directory can be written");
    tonic_prost_build::configure()
        .out_dir(out)
        .extern_path(".tern.v1", "::tern_proto::v1")
        .bytes(".tern.rpc.v1.MediaPart.bytes")
        .bytes(".tern.rpc.v1.MediaOpened")
        .bytes(".tern.rpc.v1.MediaBytes")
        .bytes(".tern.rpc.v1.Hints.news")
        .bytes(".tern.rpc.v1.News.fresh")
        .compile_fds(descriptors)
        .expect("tonic generates the stubs");
    // Of the client's own messages nothing is generated here.
    let _ = std::fs::remove_file(out.join("tern.v1.rs"));
}

#[test]
fn committed_code_is_what_the_proto_files_generate() {
    let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/gen");
    if std::env::var_os("TERN_UPDATE").is_some() {
        generate(&committed);
        return;
    }
    let fresh = tempfile::tempdir().expect("a directory");
    generate(fresh.path());
    for file in FILES {
        let want = std::fs::read(fresh.path().join(file)).expect("it is generated");
        let have = std::fs::read(committed.join(file)).expect("it is committed");
        assert!(want == have, "src/gen/{file} is stale: run TERN_UPDATE=1 cargo test -p tern-rpc --test generated");
    }
}
