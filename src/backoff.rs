//! Jittered exponential backoff: how long to wait before the next attempt. Pure: the random number is an argument, made by [`random`].

use std::time::Duration;

/// The delays between attempts: doubled after each one, from a minimum up to a maximum, and shortened by up to a half at random.
///
/// The randomness keeps many instances that lost the same server from coming back to it in step.
#[derive(Debug, Clone)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    /// Invariant: between `min` and `max`.
    ceiling: Duration,
}

impl Backoff {
    /// Delays that start at `min` and grow to `max`. A `max` below `min` counts as `min`.
    #[must_use]
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max: max.max(min), ceiling: min }
    }

    /// How long to wait before the next attempt: at least half of the current ceiling, at most all of it, as `random` says.
    pub fn next_delay(&mut self, random: u64) -> Duration {
        let half = self.ceiling / 2;
        self.ceiling = self.ceiling.saturating_mul(2).min(self.max);
        // The upper 32 bits as a share between zero and one.
        half + half.mul_f64((random >> 32) as f64 / f64::from(u32::MAX))
    }

    /// Starts again at the minimum, after an attempt that went well.
    pub fn reset(&mut self) {
        self.ceiling = self.min;
    }
}

/// A random number for jitter. Without randomness what began together stays in step, and is no less right.
#[must_use]
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    match aws_lc_rs::rand::fill(&mut bytes) {
        Ok(()) => u64::from_ne_bytes(bytes),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn doubles_up_to_the_maximum() {
        let mut backoff = Backoff::new(MS(50), MS(500));
        let delays: Vec<_> = (0..6).map(|_| backoff.next_delay(u64::MAX).as_millis()).collect();
        assert_eq!(delays, [50, 100, 200, 400, 500, 500]);
    }

    #[test]
    fn randomness_takes_at_most_half() {
        let mut backoff = Backoff::new(MS(100), MS(100));
        assert_eq!(backoff.next_delay(0), MS(50));
        let middle = backoff.next_delay(u64::MAX / 2);
        assert!((MS(74)..MS(76)).contains(&middle), "{middle:?}");
    }

    #[test]
    fn reset_starts_over() {
        let mut backoff = Backoff::new(MS(50), MS(500));
        backoff.next_delay(0);
        backoff.next_delay(0);
        backoff.reset();
        assert_eq!(backoff.next_delay(u64::MAX), MS(50));
    }

    #[test]
    fn survives_extremes() {
        let mut backoff = Backoff::new(Duration::MAX / 4, Duration::MAX / 2);
        for random in [0, u64::MAX, 1 << 40] {
            assert!(backoff.next_delay(random) <= Duration::MAX / 2);
        }
        assert_eq!(Backoff::new(MS(9), MS(1)).next_delay(u64::MAX), MS(8) + MS(1));
        assert_eq!(Backoff::new(Duration::ZERO, Duration::ZERO).next_delay(7), Duration::ZERO);
    }
}
