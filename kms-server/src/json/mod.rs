//! JSON as KES reads and writes it.

mod read;
mod write;

pub use self::read::{Malformed, array_of_members, members};
pub use self::write::{
    Displayed, base64_len, is_escaped_by_go, line, push, push_base64, push_with, write_escaped,
};
