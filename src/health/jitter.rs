//! Randomness that keeps checks which began together from running in step.

use std::time::Duration;

/// `interval`, give or take a tenth, as `random` says.
pub(super) fn jittered(interval: Duration, random: u64) -> Duration {
    // The upper 32 bits as a share between zero and one.
    let share = (random >> 32) as f64 / f64::from(u32::MAX);
    let tenth = interval / 10;
    (interval - tenth).saturating_add(tenth.mul_f64(2.0 * share))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_tenth_either_way() {
        let check = |random, expected_ms| assert_eq!(jittered(Duration::from_secs(2), random).as_millis(), expected_ms);
        check(0, 1_800);
        check(u64::MAX, 2_200);
        check(1 << 63, 2_000);
    }

    #[test]
    fn survives_extremes() {
        assert_eq!(jittered(Duration::ZERO, u64::MAX), Duration::ZERO);
        assert_eq!(jittered(Duration::MAX, u64::MAX), Duration::MAX);
    }
}
