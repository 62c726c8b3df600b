//! Configuration: read from a file, the environment and flags, checked, and brought into the form of
//! [`Settings`](crate::settings::Settings).
//!
//! A file takes these steps:
//!
//! 1. `encoding` decodes it, and `toml` or `yaml` reads it into a tree of values that know their lines (`node`).
//! 2. `former` brings the names of older releases of KES into those of today.
//! 3. `environment` and `flags` lie over it (`layers`), and `expand` replaces its references to variables.
//! 4. `extract` merges the layers and reads them into the schema: `schema` has the names, `value` the types.
//! 5. `resolve` checks what the values mean together, and creates the settings.
//!
//! A mistake is a [`Problem`], which names place and key. A [`Warning`] is a problem that does not prevent the start.

mod convert;
mod encoding;
mod environment;
mod expand;
mod extract;
mod flags;
mod former;
mod layers;
mod load;
mod log_level;
mod node;
mod origins;
mod problem;
mod resolve;
mod schema;
mod secrets;
mod toml;
mod value;
mod yaml;

pub use self::convert::{Converted, convert, convert_text};
pub use self::environment::Environment;
pub use self::flags::Flags;
pub use self::load::{Loaded, from_flags, load, load_key_store, load_text, load_with};
pub use self::origins::{Origin, Origins};
pub use self::problem::{Problem, Warning};
pub use self::resolve::parse_address;
pub use self::value::{parse_duration, parse_long_duration};
