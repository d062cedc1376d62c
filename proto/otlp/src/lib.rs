//! What both daemons need to tell a receiver of OpenTelemetry: names, messages, a bounded queue, and the delivery.
//!
//! What cannot be delivered waits, up to a number of items (points, spans, records of a log); beyond it the oldest is dropped
//! and counted. Nothing else of a daemon waits for a receiver. Where no receiver is configured nothing of this runs.

pub mod http;
pub mod name;
pub mod point;
pub mod queue;
pub mod section;
pub mod send;
pub mod sender;
pub mod signal;
pub mod trace;

pub use queue::{Counts, Queue};
pub use section::{OtlpError, OtlpSection, Protocol};
pub use sender::{Sender, UnixClock};
pub use signal::{Message, Signal};
