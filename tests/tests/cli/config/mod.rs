//! What a config may contain, and how its mistakes are reported.

mod example;
mod meaning;
mod mistakes;
mod start;
