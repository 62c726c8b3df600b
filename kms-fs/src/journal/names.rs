//! What a journal says last about each name.

use super::line::Says;

/// A line about a name.
#[derive(Clone, Copy)]
pub struct Line<'a> {
    pub batch: u64,
    pub says: Says<'a>,
    pub len: u32,
}

/// The last line about each name, in the order of the names.
#[derive(Default)]
pub struct Names<'a>(Vec<(&'a str, Line<'a>)>);

impl<'a> Names<'a> {
    /// Sorts lines that come in the order of the journal. The last one about a name decides.
    pub fn of(lines: Vec<(&'a str, Line<'a>)>) -> Self {
        // A journal that was written anew is in order.
        if lines.is_sorted_by(|(before, _), (name, _)| before < name) {
            return Self(lines);
        }
        let last = last_of_each(lines.len(), |n| lines[n].0);
        Self(last.into_iter().map(|n| lines[n]).collect())
    }

    pub fn get(&self, name: &str) -> Option<&Line<'a>> {
        let at = self.0.binary_search_by(|(found, _)| (*found).cmp(name)).ok()?;
        Some(&self.0[at].1)
    }

    /// Returns names and lines in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &Line<'a>)> {
        self.0.iter().map(|(name, line)| (*name, line))
    }
}

/// Sorts `count` lines by their names. Returns the number of the last line about each name.
pub fn last_of_each<'a>(count: usize, name: impl Fn(usize) -> &'a str) -> Vec<usize> {
    // The names lie all over the journal, so eight bytes of each are compared first: those after the beginning that all
    // of them share.
    let first = if count == 0 { b"" } else { name(0).as_bytes() };
    let shared = (0..count).fold(first.len(), |shared, n| {
        first[..shared].iter().zip(name(n).as_bytes()).take_while(|(a, b)| a == b).count()
    });
    let bytes_of = |n: usize| {
        let mut bytes = [0; 8];
        for (byte, found) in bytes.iter_mut().zip(&name(n).as_bytes()[shared..]) {
            *byte = *found;
        }
        u64::from_be_bytes(bytes)
    };
    let mut order: Vec<(u64, usize)> = (0..count).map(|n| (bytes_of(n), n)).collect();
    order.sort_unstable_by(|one, other| {
        let names = || name(one.1).cmp(name(other.1));
        one.0.cmp(&other.0).then_with(names).then(one.1.cmp(&other.1))
    });
    let is_last = |at: usize| {
        order.get(at + 1).is_none_or(|next| next.0 != order[at].0 || name(next.1) != name(order[at].1))
    };
    (0..count).filter(|at| is_last(*at)).map(|at| order[at].1).collect()
}

#[cfg(test)]
#[cfg(not(feature = "model"))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn the_last_line_about_a_name_decides_in_any_order() {
        let shared = ["", "key-", "a-long-beginning-of-all-names-"];
        let ends = ["", "a", "b", "\0", "a\0", "0123456789", "01234567", "012345678", "ä", "zz", "z"];
        for shared in shared {
            let names: Vec<String> = ends.iter().map(|end| format!("{shared}{end}")).collect();
            let mut lines = Vec::new();
            for n in 0..200_usize {
                let line = Line { batch: n as u64, says: Says::Deleted, len: 1 };
                lines.push((names[(n * n + n / 7) % names.len()].as_str(), line));
            }
            for len in 0..lines.len() {
                let expected: BTreeMap<&str, u64> =
                    lines[..len].iter().map(|(name, line)| (*name, line.batch)).collect();
                let found = Names::of(lines[..len].to_vec());
                let in_order = found.iter().map(|(name, line)| (name, line.batch));
                assert!(in_order.eq(expected.iter().map(|(name, batch)| (*name, *batch))));
                for name in &names {
                    let found = found.get(name).map(|line| line.batch);
                    assert_eq!(found, expected.get(name.as_str()).copied(), "{name}");
                }
            }
        }
    }
}
