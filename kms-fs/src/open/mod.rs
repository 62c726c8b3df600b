//! Opening a store, making one, changing its root key, and accepting its losses.

mod first_start;
mod losses;
mod opening;
mod rotate;
mod stored;
mod unwrap;
mod with_roots;

pub use first_start::{Found, create_with_root_key_file, look};
pub use losses::accept_losses;
pub use opening::{FsStore, Opened, OpenedBare, open, open_bare};
pub use rotate::{rotate_root_key, rotate_root_key_file};
pub use with_roots::{FsForm, InHeader, OpenedWithRoots, forget_local_root, open_with_roots};
