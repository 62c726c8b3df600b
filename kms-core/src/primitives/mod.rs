//! Building blocks: for code that seals, or that handles secrets, outside of a [`KeyRing`](crate::KeyRing).
//!
//! * [`SealingKey`] seals and opens under one key. [`Cipher`] is its algorithm, and a [`Fingerprint`] tells keys
//!   apart.
//! * [`SecretKey`] and [`SecretBytes`] hold secrets. They are wiped when they are dropped, and nothing prints them.
//!   [`fill_random`] draws random bytes from the operating system.
//! * [`open_file`] and [`read_secret_file`] read files that a configuration names. A [`Secret`] is a secret text of a
//!   configuration, and a [`SecretSource`] says where it comes from.
//! * [`lock_keys_in_memory`] keeps master keys from being swapped out.
//!
//! ```
//! use kms_core::primitives::{Cipher, SealingKey, SecretKey};
//!
//! let key = SealingKey::new(SecretKey::random()?, Cipher::preferred());
//! let sealed = key.seal(b"text", b"context")?;
//! assert_eq!(key.open(&sealed, b"context")?.expose(), b"text");
//! # Ok::<(), kms_core::Error>(())
//! ```

mod cipher;
mod file;
pub(crate) mod header;
mod legacy;
pub(crate) mod lock;
pub(crate) mod mac;
mod quote;
mod random;
pub(crate) mod seal;
mod secret;
mod secret_text;

pub(crate) use self::cipher::IV_LEN;
pub use self::cipher::{Cipher, Fingerprint};
#[cfg(unix)]
#[doc(hidden)]
pub use self::file::rename_new;
pub use self::file::{open_file, read_secret_file};
pub use self::lock::lock_keys_in_memory;
#[doc(hidden)]
pub use self::quote::{quote, texts};
pub use self::random::fill_random;
pub use self::seal::SealingKey;
pub use self::secret::{SecretBytes, SecretKey};
pub use self::secret_text::{Secret, SecretSource};
