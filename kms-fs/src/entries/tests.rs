//! The entries against a map of the standard library, under random changes.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::*;

type Model = BTreeMap<String, Option<Vec<u8>>>;

/// A generator of numbers that are always the same for one seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }

    /// Names of all lengths; neighbours share their beginning.
    fn name(&mut self, of: usize) -> String {
        let n = self.below(of);
        match n % 4 {
            0 => format!("key-{n}"),
            1 => format!("{n:0>12}"),
            2 => format!(".v/{n:032x}/2"),
            _ => "ä".repeat(n % 40),
        }
    }

    fn value(&mut self) -> Option<Vec<u8>> {
        let len = match self.below(40) {
            0 => return None,
            1 => 20_000 + self.below(30_000),
            2..5 => self.below(6000),
            _ => 200 + self.below(60),
        };
        Some(vec![u8::try_from(len % 251).unwrap(); len])
    }
}

fn check(entries: &Entries, model: &Model) {
    assert_eq!(entries.len(), model.len());
    assert_eq!(entries.lost(), model.values().filter(|value| value.is_none()).count());
    assert!(entries.iter().eq(model.iter().map(|(name, value)| (name.as_str(), value.as_deref()))));
    assert!(entries.blocks.iter().all(|block| block.len() > 0));
}

#[test]
fn entries_are_those_of_a_map_after_any_changes() {
    for (seed, names) in [(1, 20), (2, 300), (3, 5000), (4, 5000)] {
        let mut random = Random(seed);
        let (mut entries, mut model) = (Entries::new(), Model::new());
        for step in 0..20_000 {
            let name = random.name(names);
            // Times of growth and times of decline.
            if random.below(10) < if step / 4000 % 2 == 0 { 8 } else { 2 } {
                let value = random.value();
                entries.insert(&name, value.as_deref());
                model.insert(name, value);
            } else {
                let expected = model.remove(&name).map(|value| value.map_or(0, |value| value.len()));
                assert_eq!(entries.remove(&name), expected);
            }
            let other = random.name(names);
            assert_eq!(entries.get(&other), model.get(&other).map(Option::as_deref));
            assert_eq!(entries.contains(&other), model.contains_key(&other));
            if step % 500 == 0 {
                check(&entries, &model);
            }
            if step % 50 == 0 {
                for start in [Bound::Included(other.as_str()), Bound::Excluded(&other), Bound::Unbounded] {
                    let expected = model.range::<str, _>((start, Bound::Unbounded)).map(|(name, _)| name);
                    assert!(entries.from(start).map(|(name, _)| name).eq(expected), "{start:?}");
                }
            }
        }
        check(&entries, &model);
        let again: Entries = model.iter().map(|(name, value)| (name, value.as_deref())).collect();
        assert!(again == entries);
        let (lower, upper) = model.iter().partition::<Vec<_>, _>(|(name, _)| name.as_str() < "key-2");
        let mut built = [lower, upper].map(|part| {
            let mut builder = Builder::default();
            for (name, value) in part {
                builder.push(name, value.as_deref());
            }
            builder.finish()
        });
        let upper = std::mem::take(&mut built[1]);
        built[0].append(upper);
        check(&built[0], &model);
        for parts in [1, 2, 3, 7, 100_000] {
            assert!(entries.parts(parts).flatten().eq(entries.iter()), "{parts} parts");
        }
        for name in model.keys() {
            assert!(entries.remove(name).is_some());
        }
        assert!(entries.blocks.is_empty() && entries == Entries::new() && entries.iter().next().is_none());
    }
}

#[test]
fn entries_in_any_order_cost_little_more_than_their_bytes() {
    let mut random = Random(9);
    let value = [7_u8; 256];
    for shuffled in [false, true] {
        let mut entries = Entries::new();
        let (mut bytes, mut numbers): (usize, Vec<usize>) = (0, (0..50_000).collect());
        if shuffled {
            (1..numbers.len()).rev().for_each(|at| numbers.swap(at, random.below(at + 1)));
        }
        for number in numbers {
            let name = format!("key-{number:06}");
            bytes += name.len() + value.len();
            entries.insert(&name, Some(&value));
        }
        let taken: usize = entries.blocks.iter().map(Block::taken).sum();
        let bound = if shuffled { bytes * 5 / 4 } else { bytes * 21 / 20 };
        entries.shrink();
        assert!(taken < bytes * 5 / 4, "{taken} of {bytes}");
        let taken: usize = entries.blocks.iter().map(Block::taken).sum();
        assert!(taken < bound.min(bytes * 21 / 20), "{taken} of {bytes} after a shrink");
    }
}

#[test]
fn what_is_too_long_to_be_kept_counts_as_lost() {
    let mut entries = Entries::new();
    entries.insert("a", Some(&vec![1; MAX_ENTRY_LEN + 1]));
    entries.insert("b", Some(&vec![1; MAX_ENTRY_LEN]));
    assert_eq!((entries.get("a"), entries.lost()), (Some(None), 1));
    assert_eq!(entries.get("b").flatten().map(<[u8]>::len), Some(MAX_ENTRY_LEN));
}
