//! stub
use std::sync::Arc;
/// s
pub async fn serve(
    _: std::net::TcpListener,
    _: Arc<crate::control::status::Status>,
    _: Option<Arc<crate::metrics::Registry>>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    let _ = stop.wait_for(|s| *s).await;
}
