//! The time that a route gives to a request as a whole, kept while its response is on its way to the client.
//!
//! When a client does not read, hyper does not ask the body of the response for more, so the body cannot end itself. What polls hyper
//! can: with HTTP/1.1 that is the connection, which ends with the request; with HTTP/2 it is the task of the stream, whose end makes the
//! h2 crate forget what is queued and send RST_STREAM with CANCEL.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;

use super::alarm::Alarm;
use super::client::Client;

/// Spawns the streams of one HTTP/2 connection, for hyper.
#[derive(Clone)]
pub(crate) struct Streams(pub(crate) Rc<Client>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        tokio::task::spawn_local(UntilOver { client: self.0.clone(), deadline: None, stream });
    }
}

pin_project! {
    /// Runs a stream to its end, or until the time of its request is over. Not an async function, which would hold the stream twice.
    struct UntilOver<F> {
        client: Rc<Client>,
        deadline: Option<Rc<Alarm>>,
        #[pin]
        stream: F,
    }
}

impl<F: Future<Output = ()>> Future for UntilOver<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let polled = this.stream.poll(cx);
        // What is there now began in this poll, so it is of this stream.
        if let Some(begun) = this.client.deadline.take() {
            *this.deadline = Some(begun);
        }
        match this.deadline {
            Some(deadline) if polled.is_pending() && deadline.poll(cx) => Poll::Ready(()),
            _ => polled,
        }
    }
}
