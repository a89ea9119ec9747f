//! stub
/// s
pub struct HealthChecks;
impl HealthChecks {
    /// s
    pub fn new() -> Self {
        Self
    }
    /// s
    pub fn reconcile(&mut self, _: &crate::routing::RoutingTable) {}
    /// s
    pub async fn stop(self) {}
}
