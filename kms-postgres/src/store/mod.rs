//! Records as rows of one table.

mod doubts;
mod postgres_store;
mod read;
mod rows;
mod transaction;

pub use postgres_store::PostgresStore;
