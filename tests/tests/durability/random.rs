//! Random numbers that a seed repeats, and the number of rounds.

/// A generator of random numbers (SplitMix64).
#[derive(Clone)]
pub struct Random(u64);

impl Random {
    /// Creates a generator with the seed from `DURABILITY_SEED` or the clock, and prints the seed.
    pub fn seeded(test: &str) -> Self {
        let seed = match std::env::var("DURABILITY_SEED") {
            Ok(seed) => seed.parse().expect("DURABILITY_SEED is a number"),
            Err(_) => u64::from(std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()),
        };
        println!("{test}: DURABILITY_SEED={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws a number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    /// Returns true with this probability in percent.
    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// Returns `rounds` multiplied by `DURABILITY_TIMES`.
pub fn rounds(rounds: usize) -> usize {
    let times = std::env::var("DURABILITY_TIMES");
    times.map_or(rounds, |times| rounds * times.parse::<usize>().expect("DURABILITY_TIMES is a number"))
}
