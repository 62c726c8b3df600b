//! By which name the program was called: as `kes` it is what scripts of KES expect, wherever the two differ.

use std::path::Path;

use super::colour::Colour;
use super::output::Output;
use crate::config::Environment;

/// A name of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Its own.
    Kms,
    /// That of KES.
    Kes,
}

impl Name {
    /// Returns the name by which this process was started.
    pub fn of_this_process() -> Self {
        std::env::args_os().next().map_or(Self::Kms, |program| Self::of(Path::new(&program)))
    }

    /// Takes it from the path of a program: `kes`, or the name of a release's file such as `kes-linux-amd64`.
    fn of(program: &Path) -> Self {
        let file = program.file_name().unwrap_or_default().to_string_lossy();
        if file == "kes" || file.starts_with("kes-") { Self::Kes } else { Self::Kms }
    }

    /// Returns it as it is typed.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kms => "kms",
            Self::Kes => "kes",
        }
    }
}

/// What a command knows of its call beside its own arguments.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// The variables of the process.
    pub environment: &'a Environment,
    /// The name of the program.
    pub name: Name,
    /// When results are coloured.
    pub colour: Colour,
}

impl Call<'_> {
    /// Tells whether scripts of KES are served.
    pub fn is_kes(self) -> bool {
        self.name == Name::Kes
    }

    /// Returns the same call of a command whose colours `CLICOLOR_FORCE` brings into a pipe.
    pub fn with_forced_colours(self) -> Self {
        let colour = if self.colour == Colour::Auto { Colour::AutoOrForced } else { self.colour };
        Self { colour, ..self }
    }

    /// Returns where the result goes, as JSON if `json`.
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
