//! The time limit of a probe, which its steps share.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::Failure;

/// When a probe must be over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    started: Instant,
    limit: Duration,
}

impl Deadline {
    /// A deadline that ends `limit` from now.
    pub(super) fn after(limit: Duration) -> Self {
        Self { started: Instant::now(), limit }
    }

    /// Since when it runs.
    pub(super) fn started(self) -> Instant {
        self.started
    }

    /// Does `work` in what time is left. What goes wrong then begins with the name of the `step`.
    pub(super) async fn hold<T, E: Into<Failure>>(self, step: &str, work: impl Future<Output = Result<T, E>>) -> Result<T, Failure> {
        let left = self.limit.saturating_sub(self.started.elapsed());
        match tokio::time::timeout(left, work).await {
            Ok(result) => result.map_err(|error| error.into().during(step)),
            Err(_) => {
                let limit = humantime::format_duration(self.limit);
                Err(Failure::endpoint(format!("timed out after {limit}")).during(step))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_steps_share_one_limit() {
        let deadline = Deadline::after(Duration::from_secs(1));
        let step = |ms| async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            Ok::<_, Failure>(ms)
        };
        assert_eq!(deadline.hold("connect", step(900)).await, Ok(900));
        assert_eq!(deadline.hold("GET /", step(900)).await, Err(Failure::endpoint("GET /: timed out after 1s")));
        assert_eq!(deadline.started().elapsed(), Duration::from_secs(1));
    }
}
