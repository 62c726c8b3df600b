//! The name by which the program was called. As `kes` it does what scripts of KES expect.

use std::path::Path;

use super::colour::Colour;
use super::output::Output;
use crate::config::Environment;

/// A name of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Its own name.
    Kms,
    /// The name of KES.
    Kes,
}

impl Name {
    /// Returns the name by which this process was started.
    pub fn of_this_process() -> Self {
        std::env::args_os().next().map_or(Self::Kms, |program| Self::of(Path::new(&program)))
    }

    /// Returns the name for the path of a program. A release's file such as `kes-linux-amd64` is KES, too.
    fn of(program: &Path) -> Self {
        let file = program.file_name().unwrap_or_default().to_string_lossy();
        if file == "kes" || file.starts_with("kes-") { Self::Kes } else { Self::Kms }
    }

    /// Returns the name as users type it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kms => "kms",
            Self::Kes => "kes",
        }
    }
}

/// The things that every command knows of its call, beside its own arguments.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The environment variables of the process.
    pub environment: &'a Environment,
    /// The name by which the program was called.
    pub name: Name,
    /// When the command prints in colours.
    pub colour: Colour,
}

impl Call<'_> {
    /// Returns whether the program was called as `kes`.
    pub fn is_kes(self) -> bool {
        self.name == Name::Kes
    }

    /// Returns the same call, in which `CLICOLOR_FORCE` colours output into a pipe, too.
    pub fn with_forced_colours(self) -> Self {
        let colour = if self.colour == Colour::Auto { Colour::AutoOrForced } else { self.colour };
        Self { colour, ..self }
    }

    /// Returns the output of the command, which prints JSON if `json`.
    pub fn output(self, json: bool) -> Output {
        Output::coloured(json, self.colour)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_program_tells_its_name() {
        for kes in ["kes", "/kes", "./bin/kes", "/opt/kes-linux-amd64"] {
            assert_eq!(Name::of(Path::new(kes)), Name::Kes, "{kes}");
        }
        for kms in ["kms", "/usr/local/bin/kms", "/opt/kes/kms", "keskms", ""] {
            assert_eq!(Name::of(Path::new(kms)), Name::Kms, "{kms}");
        }
    }
}
