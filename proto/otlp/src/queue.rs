//! What waits for a receiver, bounded by its items: the oldest goes first, and is dropped first.
//!
//! Every item that was put in is in exactly one of the counts, whatever happens to it.

use crate::signal::Message;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What became of the items that were put in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// They were delivered.
    pub sent: u64,
    /// They were dropped, because the receiver was away for too long.
    pub overflow: u64,
    /// The receiver refused them.
    pub refused: u64,
    /// They wait, or are on the way.
    pub waiting: u64,
    /// Messages that are tried again.
    pub retries: u64,
}

/// What waits.
#[derive(Debug)]
pub struct Queue {
    limit: usize,
    state: Mutex<State>,
    added: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Message>,
    /// Items that wait, those of the message on the way included.
    items: usize,
    counts: Counts,
}

impl State {
    fn take_first(&mut self) -> Option<Message> {
        self.waiting.pop_front()
    }
}

impl Queue {
    /// Room for so many items.
    pub fn new(limit: usize) -> Self {
        Self { limit, state: Mutex::default(), added: Notify::new() }
    }

    /// Puts a message in line. The oldest that wait make room for it; it is dropped itself if they cannot.
    pub fn add(&self, message: Message) {
        let mut state = self.state();
        while state.items + message.items > self.limit && message.items <= self.limit {
            let Some(oldest) = state.take_first() else { break };
            state.items -= oldest.items;
            state.counts.overflow += oldest.items as u64;
        }
        if state.items + message.items > self.limit {
            state.counts.overflow += message.items as u64;
            return;
        }
        state.items += message.items;
        state.waiting.push_back(message);
        drop(state);
        self.added.notify_one();
    }

    /// Counts items that never became a message.
    pub fn lost(&self, items: u64) {
        self.state().counts.overflow += items;
    }

    /// What became of everything.
    pub fn counts(&self) -> Counts {
        let state = self.state();
        Counts { waiting: state.items as u64, ..state.counts }
    }

    /// Waits until something is in line.
    pub(crate) async fn filled(&self) {
        loop {
            let added = self.added.notified();
            if !self.state().waiting.is_empty() {
                return;
            }
            added.await;
        }
    }

    /// Takes the oldest out, to be sent: it goes on counting as waiting until one of the three below is told.
    pub(crate) fn take(&self) -> Option<Message> {
        self.state().take_first()
    }

    /// The receiver has it, but for some items.
    pub(crate) fn delivered(&self, message: &Message, rejected: usize) {
        let mut state = self.state();
        let rejected = rejected.min(message.items);
        state.items -= message.items;
        state.counts.sent += (message.items - rejected) as u64;
        state.counts.refused += rejected as u64;
    }

    /// The receiver will never have it.
    pub(crate) fn refused(&self, message: &Message) {
        self.delivered(message, message.items);
    }

    /// It waits again, before all others.
    pub(crate) fn put_back(&self, message: Message) {
        let mut state = self.state();
        state.counts.retries += 1;
        state.waiting.push_front(message);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(number: u8, items: usize) -> Message {
        Message { body: Bytes::from(vec![number]), items }
    }

    fn known(queue: &Queue) -> [u64; 4] {
        let Counts { sent, overflow, refused, waiting, .. } = queue.counts();
        [sent, overflow, refused, waiting]
    }

    #[test]
    fn the_oldest_makes_room_and_every_dropped_item_is_told() {
        let queue = Queue::new(100);
        queue.add(message(1, 60));
        queue.add(message(2, 40));
        assert_eq!(known(&queue), [0, 0, 0, 100]);
        queue.add(message(3, 30));
        assert_eq!(known(&queue), [0, 60, 0, 70]);
        queue.add(message(4, 101));
        assert_eq!(known(&queue), [0, 161, 0, 70], "what is larger than all the room drops nothing else");
        queue.add(message(5, 100));
        assert_eq!(known(&queue), [0, 231, 0, 100]);
        assert_eq!(queue.take(), Some(message(5, 100)));
    }

    #[test]
    fn what_is_on_the_way_is_not_dropped_and_counts_as_waiting_until_it_is_known() {
        let queue = Queue::new(100);
        queue.add(message(1, 60));
        let under_way = queue.take().expect("in line");
        queue.add(message(2, 30));
        queue.add(message(3, 40));
        assert_eq!(known(&queue), [0, 30, 0, 100], "2 makes room for 3");
        queue.add(message(4, 90));
        assert_eq!(known(&queue), [0, 30 + 40 + 90, 0, 60], "nothing makes room for 4");
        queue.put_back(under_way);
        let again = queue.take().expect("in line");
        queue.delivered(&again, 7);
        assert_eq!((known(&queue), queue.counts().retries), ([53, 160, 7, 0], 1));
        queue.add(message(5, 10));
        queue.refused(&queue.take().expect("in line"));
        assert_eq!(known(&queue), [53, 160, 17, 0]);
    }
}
