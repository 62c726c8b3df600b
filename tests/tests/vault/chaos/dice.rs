//! Random numbers that a seed repeats.

/// Returns a random seed.
pub fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    kms_core::primitives::fill_random(&mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// A generator of random numbers (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % bound
    }
}
