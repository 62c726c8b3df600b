//! The examples of README.md, as tests.

#[doc = include_str!("../README.md")]
struct Readme;
