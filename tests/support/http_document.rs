//! An HTTP server of one document. It knows what it told: who has that already is told so (`If-None-Match`, `If-Modified-Since`), and who
//! would rather wait for something else does (`Prefer: wait=30`).

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::stub::{Asked, Say, Stub};

/// A server whose answer can be changed, and what it was asked.
pub struct Document {
    stub: Stub,
    held: Held,
}

#[derive(Clone)]
struct Held {
    say: watch::Sender<Say>,
    is_frozen: watch::Sender<bool>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Document {
    /// A server that gives this answer.
    pub async fn start(say: Say) -> Self {
        let held = Held { say: watch::Sender::new(say), is_frozen: watch::Sender::new(false), asked: Arc::default() };
        Self { stub: held.serve(SocketAddr::from(([127, 0, 0, 1], 0))).await, held }
    }

    pub fn stub(&self) -> &Stub {
        &self.stub
    }

    /// Gives another answer from now on, also to those who wait for it.
    pub fn say(&self, say: Say) {
        self.held.say.send_replace(say);
    }

    /// The answer as it is.
    pub fn said(&self) -> Say {
        self.held.say.borrow().clone()
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.held.asked.lock().expect("nobody panics with it").clone()
    }

    /// Goes down with all its connections.
    pub fn stop(&mut self) {
        self.stub.stop();
    }

    /// Comes up again, at the same address.
    pub async fn run(&mut self) {
        self.stub = self.held.serve(self.stub.address).await;
    }

    /// Whether nothing is answered. What was asked meanwhile is answered afterwards.
    pub fn freeze(&self, is_frozen: bool) {
        self.held.is_frozen.send_replace(is_frozen);
    }
}

impl Held {
    async fn serve(&self, address: SocketAddr) -> Stub {
        let held = self.clone();
        let handler = move |asked: Asked| {
            held.asked.lock().expect("nobody panics with it").push(asked.clone());
            let held = held.clone();
            async move { held.answer(&asked).await }
        };
        Stub::start_at(address, handler).await
    }

    async fn answer(&self, asked: &Asked) -> Say {
        let (mut says, mut is_frozen) = (self.say.subscribe(), self.is_frozen.subscribe());
        // Senders are here: there is always an answer.
        let _ = is_frozen.wait_for(|is_frozen| !is_frozen).await;
        if let Some(wait) = asked.field("prefer").and_then(|prefer| prefer.strip_prefix("wait=")?.parse().ok()) {
            let _ = tokio::time::timeout(Duration::from_secs(wait), says.wait_for(|say| !is_known(say, asked))).await;
            let _ = is_frozen.wait_for(|is_frozen| !is_frozen).await;
        }
        let say = says.borrow().clone();
        if is_known(&say, asked) { Say::Whole(304, String::new(), String::new()) } else { say }
    }
}

/// Whether who asks has it already.
fn is_known(say: &Say, asked: &Asked) -> bool {
    let is_known = |field: &str, told: &str| match (say, asked.field(field)) {
        (Say::Whole(200, fields, _), Some(value)) => fields.contains(&format!("{told}: {value}\r\n")),
        _ => false,
    };
    is_known("if-none-match", "ETag") || is_known("if-modified-since", "Last-Modified")
}
