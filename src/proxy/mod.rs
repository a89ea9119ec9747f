//! The data plane.
//!
//! | file | concept |
//! |---|---|
//! | [`forwarded`] | who the client is, and how endpoints are told |

pub mod forwarded;
