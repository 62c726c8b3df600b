//! A server without credentials of AWS.

mod mock;
mod place;
mod recovery;
mod refused;
