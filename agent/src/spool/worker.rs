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

/// Owns the files, and answers requests until the channel closes or the files can no longer be trusted.
pub(super) struct Worker {
    pub(super) lanes: Lanes,
    pub(super) waiting: mpsc::Receiver<Request>,
    pub(super) counters: watch::Sender<Counters>,
}

impl Worker {
    pub(super) fn serve_on_thread(mut self) {
        while let Some(request) = self.waiting.blocking_recv() {
            match self.handle(request) {
                Some(worker) => self = worker,
                None => return,
            }
        }
        self.end();
    }

    pub(super) async fn serve_on_runtime(mut self) {
        while let Some(request) = self.waiting.recv().await {
            match self.handle(request) {
                Some(worker) => self = worker,
                None => return,
            }
        }
        self.end();
    }

    /// Carries a request out; none if the spool must stop.
    fn handle(mut self, request: Request) -> Option<Self> {
        let alive = match request {
            Request::Append { batch, local, new_series, begins_stream, reply } => {
                let result = self.lanes.append(&batch, &local, new_series, begins_stream);
                self.answer(reply, result)
            }
            Request::WriteWaiting { reply } => {
                let result = self.lanes.write_waiting();
                self.answer(reply, result)
            }
            Request::Streams { reply } => {
                let streams = self.lanes.streams();
                self.answer(reply, Ok(streams))
            }
            Request::NextAfter { stream, sequence, reply } => {
                let result = self.lanes.next_after(stream, sequence);
                self.answer(reply, result)
            }
            Request::Acked { stream, sequence, reply } => {
                let result = self.lanes.acked(stream, sequence);
                self.answer(reply, result)
            }
            Request::DefinitionsFrom { stream, ordinal, reply } => {
                let result = Ok(self.lanes.definitions_from(stream, ordinal));
                self.answer(reply, result)
            }
            Request::Close { reply } => {
                let result = self.lanes.save_cursors();
                drop(self);
                let _ = reply.send(result);
                return None;
            }
        };
        alive.then_some(self)
    }

    /// Shows the counters if they changed (who watches them would else wake for its own questions), then sends the
    /// result; false if the spool must stop.
    fn answer<T>(&self, reply: Reply<T>, result: Result<T, SpoolError>) -> bool {
        let now = self.lanes.counters();
        self.counters.send_if_modified(|shown| std::mem::replace(shown, now) != now);
        let alive = !result.as_ref().is_err_and(SpoolError::is_fatal);
        // An asker that went away does not need the answer; the work is done.
        let _ = reply.send(result);
        alive
    }

    /// Nobody asks any more.
    fn end(mut self) {
        if let Err(error) = self.lanes.save_cursors() {
            tracing::warn!(%error, "the spool's cursor was not saved: some records will be sent again");
        }
    }
}
