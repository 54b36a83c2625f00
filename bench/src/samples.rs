//! Measured times and their percentiles.

use serde::Serialize;

/// Times, kept whole: a minute at 50,000 a second takes 12 MB.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    micros: Vec<u32>,
}

/// The two percentiles that the bench reports, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
}

impl Samples {
    /// Keeps a time, to the microsecond.
    pub(crate) fn record(&mut self, nanos: u64) {
        self.micros.push(u32::try_from(nanos.saturating_add(500) / 1000).unwrap_or(u32::MAX));
    }

    /// Takes in those of another.
    pub(crate) fn append(&mut self, mut others: Samples) {
        self.micros.append(&mut others.micros);
    }

    pub(crate) fn len(&self) -> usize {
        self.micros.len()
    }

    pub(crate) fn clear(&mut self) {
        self.micros.clear();
    }

    /// The median and the 99th percentile; `None` without any sample.
    pub(crate) fn spread(&mut self) -> Option<Spread> {
        self.micros.sort_unstable();
        Some(Spread { p50: self.percentile(50)?, p99: self.percentile(99)? })
    }

    /// The smallest sample that `percent` of all are not above. The samples are sorted.
    fn percentile(&self, percent: usize) -> Option<f64> {
        let rank = (self.micros.len() * percent).div_ceil(100);
        let micros = self.micros.get(rank.saturating_sub(1))?;
        Some(f64::from(*micros) / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(micros: impl IntoIterator<Item = u64>) -> Option<Spread> {
        let mut samples = Samples::default();
        micros.into_iter().for_each(|micros| samples.record(micros * 1000));
        samples.spread()
    }

    #[test]
    fn percentiles_are_samples() {
        assert_eq!(spread([]), None);
        assert_eq!(spread([7]), Some(Spread { p50: 0.007, p99: 0.007 }));
        assert_eq!(spread((1..=100).rev()), Some(Spread { p50: 0.05, p99: 0.099 }));
        assert_eq!(spread([1, 2, 3000]), Some(Spread { p50: 0.002, p99: 3.0 }));
    }

    #[test]
    fn a_sample_is_rounded_to_the_microsecond() {
        let mut samples = Samples::default();
        samples.record(1_499);
        samples.record(u64::MAX);
        assert_eq!(samples.spread(), Some(Spread { p50: 0.001, p99: f64::from(u32::MAX) / 1000.0 }));
    }
}
