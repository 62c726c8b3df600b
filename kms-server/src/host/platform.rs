//! What this program is, and what it runs on, by the names that Go gives them.

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, as the build was told in the environment variable `KMS_COMMIT`.
pub const COMMIT: &str = match option_env!("KMS_COMMIT") {
    Some(commit) => commit,
    None => "<unknown>",
};

/// The operating system and the architecture by the names that Go gives them, as in `linux/amd64`.
pub fn platform() -> String {
    format!("{}/{}", go_os(), go_arch())
}

/// The operating system by the name that Go gives it.
pub fn go_os() -> &'static str {
    match std::env::consts::OS {
        "macos" => "darwin",
        other => other,
    }
}

/// The architecture by the name that Go gives it.
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
