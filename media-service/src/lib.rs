//! Assembles parts into images and audio; the crate holds its place until media is built.
