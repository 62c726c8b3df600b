//! The token: obtained by a login, renewed in time, and replaced when Vault no longer knows it.

mod gate;
mod grant;
mod keeper;
mod login;
mod token;

pub use keeper::Auth;
pub use token::{Lease, Token};
