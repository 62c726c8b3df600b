//! Histograms, and what can be read from them.

/// The counts of a histogram by upper bound. Each counts everything up to its bound.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram(Vec<(f64, f64)>);

/// A quantile, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quantile {
    /// About so many.
    About(f64),
    /// More than the highest bound.
    MoreThan(f64),
}

impl Histogram {
    /// Creates a histogram from pairs of an upper bound and the count up to it.
    pub fn new(buckets: impl IntoIterator<Item = (f64, f64)>) -> Self {
        let mut buckets: Vec<_> = buckets.into_iter().filter(|(bound, _)| !bound.is_nan()).collect();
        buckets.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        Self(buckets)
    }

    /// Returns the number of all observations.
    pub fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// Returns what was observed since `before`. A server that was started anew counts from zero again.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let is_same = self.0.len() == before.0.len() && self.count() >= before.count();
        if !is_same {
            return self.clone();
        }
        let pairs = self.0.iter().zip(&before.0);
        Self(pairs.map(|((bound, now), (_, before))| (*bound, now - before)).collect())
    }

    /// Adds the observations of another histogram. One with other bounds is left out, unless there are none yet.
    pub fn add(&mut self, other: &Self) {
        if self.0.is_empty() {
            self.0.clone_from(&other.0);
        } else if self.0.iter().map(|(bound, _)| bound).eq(other.0.iter().map(|(bound, _)| bound)) {
            for ((_, count), (_, more)) in self.0.iter_mut().zip(&other.0) {
                *count += more;
            }
        }
    }

    /// Returns a quantile as Prometheus computes it: values lie evenly between two bounds. Without observations there is none.
    pub fn quantile(&self, quantile: f64) -> Option<Quantile> {
        let count = self.count();
        if count <= 0.0 {
            return None;
        }
        let rank = quantile * count;
        let (mut low, mut below) = (0.0, 0.0);
        for &(bound, up_to) in &self.0 {
            if up_to >= rank && up_to > below {
                let share = (rank - below) / (up_to - below);
                let is_last = bound.is_infinite();
                return Some(if is_last {
                    Quantile::MoreThan(low)
                } else {
                    Quantile::About(low + (bound - low) * share)
                });
            }
            (low, below) = (bound, up_to);
        }
        None
    }
}

impl Quantile {
    /// Returns the seconds.
    pub fn seconds(self) -> f64 {
        match self {
            Self::About(seconds) | Self::MoreThan(seconds) => seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(counts: &[f64]) -> Histogram {
        Histogram::new([0.001, 0.01, 0.1, f64::INFINITY].into_iter().zip(counts.iter().copied()))
    }

    #[test]
    fn quantiles_lie_between_bounds() {
        let all = histogram(&[50.0, 90.0, 100.0, 100.0]);
        assert_eq!(all.quantile(0.5), Some(Quantile::About(0.001)));
        assert_eq!(all.quantile(0.25), Some(Quantile::About(0.0005)));
        let Some(Quantile::About(seconds)) = all.quantile(0.99) else { panic!("{all:?}") };
        assert!((seconds - 0.091).abs() < 1e-9, "{seconds}");
        assert_eq!(histogram(&[0.0, 0.0, 0.0, 2.0]).quantile(0.5), Some(Quantile::MoreThan(0.1)));
        assert_eq!(histogram(&[0.0; 4]).quantile(0.5), None);
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn what_came_since_is_a_difference_unless_the_server_began_anew() {
        let (before, now) = (histogram(&[1.0, 2.0, 3.0, 4.0]), histogram(&[2.0, 4.0, 6.0, 8.0]));
        assert_eq!(now.since(&before), histogram(&[1.0, 2.0, 3.0, 4.0]));
        assert_eq!(before.since(&now), before);
        assert_eq!(now.since(&Histogram::default()), now);
        let mut sum = Histogram::default();
        sum.add(&before);
        sum.add(&before);
        assert_eq!(sum, now);
        sum.add(&Histogram::new([(1.0, 1.0)]));
        assert_eq!(sum, now);
    }
}
