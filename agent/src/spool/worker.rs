//! The thread that owns a spool's files, and what it may be asked.

use super::lanes::Lanes;
use super::{Counters, Item, LocalState, SpoolError, StreamState};
use joulebook_units::{Batch, StreamId, Subject};
use tokio::sync::{mpsc, oneshot, watch};

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, SpoolError>>;

/// What a spool may be asked.
pub(super) enum Request {
    Append {
        batch: Box<Batch>,
        local: LocalState,
        new_series: Vec<(u32, Subject)>,
        begins_stream: bool,
        reply: Reply<u64>,
    },
    WriteWaiting {
        reply: Reply<u64>,
    },
    Streams {
        reply: Reply<Vec<StreamState>>,
    },
    NextAfter {
        stream: StreamId,
        sequence: u64,
        reply: Reply<Item>,
    },
    Acked {
        stream: StreamId,
        sequence: u64,
        reply: Reply<()>,
    },
    DefinitionsFrom {
        stream: StreamId,
        ordinal: u64,
        reply: Reply<Vec<(u32, Subject)>>,
    },
    Close {
        reply: Reply<()>,
    },
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

/// Answers requests until the channel closes or the files can no longer be trusted.
pub(super) fn serve(mut lanes: Lanes, mut waiting: mpsc::Receiver<Request>, counters: &watch::Sender<Counters>) {
    while let Some(request) = waiting.blocking_recv() {
        let alive = match request {
            Request::Append { batch, local, new_series, begins_stream, reply } => {
                let result = lanes.append(&batch, &local, new_series, begins_stream);
                answer(reply, result, &lanes, counters)
            }
            Request::WriteWaiting { reply } => {
                let result = lanes.write_waiting();
                answer(reply, result, &lanes, counters)
            }
            Request::Streams { reply } => answer(reply, Ok(lanes.streams()), &lanes, counters),
            Request::NextAfter { stream, sequence, reply } => {
                let result = lanes.next_after(stream, sequence);
                answer(reply, result, &lanes, counters)
            }
            Request::Acked { stream, sequence, reply } => {
                let result = lanes.acked(stream, sequence);
                answer(reply, result, &lanes, counters)
            }
            Request::DefinitionsFrom { stream, ordinal, reply } => {
                let result = Ok(lanes.definitions_from(stream, ordinal));
                answer(reply, result, &lanes, counters)
            }
            Request::Close { reply } => {
                let result = lanes.save_cursors();
                drop(lanes);
                let _ = reply.send(result);
                return;
            }
        };
        if !alive {
            return;
        }
    }
    if let Err(error) = lanes.save_cursors() {
        tracing::warn!(%error, "the spool's cursor was not saved: some records will be sent again");
    }
}

/// Shows the counters if they changed (who watches them would else wake for its own questions), then sends the result;
/// false if the spool must stop.
fn answer<T>(
    reply: Reply<T>,
    result: Result<T, SpoolError>,
    lanes: &Lanes,
    counters: &watch::Sender<Counters>,
) -> bool {
    let now = lanes.counters();
    counters.send_if_modified(|shown| std::mem::replace(shown, now) != now);
    let alive = !result.as_ref().is_err_and(SpoolError::is_fatal);
    // An asker that went away does not need the answer; the work is done.
    let _ = reply.send(result);
    alive
}
