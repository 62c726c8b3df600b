//! Where a local root key is.

use std::path::Path;

use super::super::problem::Problem;
use super::context::{Context, given};
use crate::settings::RootKeySource;

/// The variable that names systemd's directory of credentials.
const CREDENTIALS_VARIABLE: &str = "CREDENTIALS_DIRECTORY";

/// Checks the source of a local root key in `section`.
pub fn root_key(
    file: Option<&str>,
    variable: Option<String>,
    section: &str,
    context: &Context<'_>,
) -> Result<Option<RootKeySource>, Problem> {
    let file_key = format!("{section}.root_key_file");
    let file = context.optional_path(file, &file_key)?;
    Ok(match (file, given(variable)) {
        (Some(_), Some(_)) => {
            let (name, place) = (context.layers.name_of(&file_key), context.layers.place_of(&file_key));
            let message = format!("two sources of the root key, expected one: {name} is at {place}");
            return Err(context.problem(&format!("{section}.root_key_env"), message));
        }
        (None, None) => None,
        (Some(file), None) => Some(match context.environment.first_of(&[CREDENTIALS_VARIABLE]) {
            Some(credentials) if is_inside(&file, Path::new(credentials)) => RootKeySource::Credential(file),
            _ => RootKeySource::File(file),
        }),
        (None, Some(variable)) => Some(RootKeySource::Environment(variable)),
    })
}

/// Returns whether a file lies in a directory.
pub fn is_inside(file: &Path, directory: &Path) -> bool {
    let full = |path: &Path| {
        path.canonicalize().or_else(|_| std::path::absolute(path)).unwrap_or_else(|_| path.to_owned())
    };
    full(file).starts_with(full(directory))
}
