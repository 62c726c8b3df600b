//! The order that a block of `ARCHITECTURE.md` gives: the top floor first.

/// Names by floor.
pub struct Floors(Vec<Vec<String>>);

impl Floors {
    /// Reads the block that begins with ```` ```text NAME ````.
    ///
    /// Each line is a floor. Its names are separated by single spaces; a note follows after two spaces.
    pub fn of(markdown: &str, name: &str) -> Self {
        let start = format!("```text {name}");
        let mut lines = markdown.lines().skip_while(|line| line.trim_end() != start);
        assert!(lines.next().is_some(), "ARCHITECTURE.md has no block {start}");
        let floors = lines.take_while(|line| !line.starts_with("```")).filter(|line| !line.trim().is_empty());
        Self(floors.map(floor).collect())
    }

    /// Returns the number of floors above the name's own; `None` if the block lacks the name.
    pub fn depth(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|floor| floor.iter().any(|of| of == name))
    }

    /// Returns all names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(String::as_str)
    }
}

fn floor(line: &str) -> Vec<String> {
    let names = line.split_once("  ").map_or(line, |(names, _)| names);
    names.split_whitespace().map(|name| name.trim_end_matches('/').to_owned()).collect()
}

#[test]
fn a_block_is_read_with_its_notes() {
    let markdown = "# A\n```text other\nz\n```\n```text rooms\nmain lib\ncli/     the command line\n\nb c  both\n```\nd\n";
    let floors = Floors::of(markdown, "rooms");
    assert_eq!(floors.names().collect::<Vec<_>>(), ["main", "lib", "cli", "b", "c"]);
    assert_eq!(
        [floors.depth("lib"), floors.depth("cli"), floors.depth("c"), floors.depth("z")],
        [Some(0), Some(1), Some(2), None]
    );
}

#[test]
#[should_panic(expected = "has no block `")]
fn a_block_that_is_missing_is_told() {
    Floors::of("```text\nmain\n```\n", "rooms");
}
