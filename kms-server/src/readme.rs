//! The example of README.md, as a test.

#[doc = include_str!("../README.md")]
struct Readme;
