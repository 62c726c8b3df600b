//! The program's version, and its platform by the names that Go uses.

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit of the build, from the environment variable `KMS_COMMIT` at build time.
pub const COMMIT: &str = match option_env!("KMS_COMMIT") {
    Some(commit) => commit,
    None => "<unknown>",
};

/// Returns the operating system and the architecture by Go's names, as in `linux/amd64`.
pub fn platform() -> String {
    format!("{}/{}", go_os(), go_arch())
}

/// Returns the operating system by Go's name.
pub fn go_os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// Returns the architecture by Go's name.
pub fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}
