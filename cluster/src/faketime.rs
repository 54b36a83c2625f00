//! A library of the machine by which the clock of a process can be off.

use std::path::Path;

/// Where Debian has it for its machines, and where others do.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// Where libfaketime is, for `LD_PRELOAD`; `None` if it is not installed.
pub fn faketime() -> Option<&'static str> {
    LIBRARIES.into_iter().find(|path| Path::new(path).exists())
}
