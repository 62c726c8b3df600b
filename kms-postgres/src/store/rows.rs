//! What the rows of an answer hold. The first column says whether the server takes writes.

use kms_core::primitives::SecretBytes;
use tokio_postgres::Row;

use crate::error::Failure;

/// Returns the second column of the one row: a record, if there is one.
pub fn record(rows: &[Row]) -> std::result::Result<Option<SecretBytes>, Failure> {
    let Some(row) = rows.first() else { return Err(Failure::Internal("a SELECT without a row".to_owned())) };
    let record: Option<Vec<u8>> = row.try_get(1)?;
    Ok(record.map(SecretBytes::new))
}

/// Returns the second and the third column of the one row.
pub fn flags(rows: &[Row]) -> std::result::Result<(bool, bool), Failure> {
    let Some(row) = rows.first() else { return Err(Failure::Internal("a SELECT without a row".to_owned())) };
    Ok((row.try_get(1)?, row.try_get(2)?))
}

/// Returns the second column of each row, where it has a value.
pub fn names(rows: &[Row]) -> std::result::Result<Vec<String>, Failure> {
    let mut names = Vec::with_capacity(rows.len());
    for row in rows {
        if let Some(name) = row.try_get(1)? {
            names.push(name);
        }
    }
    Ok(names)
}
