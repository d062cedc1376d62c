//! The streams of a session, and whose turn it is to send.
//!
//! After an outage live data has a stream of its own and older streams are drained beside it, one after the other. Of
//! the records that may be under way either side may have four fifths, so that neither waits for the other.

use crate::spool::StreamState;
use joulebook_units::StreamId;
use std::collections::VecDeque;

/// A stream of a session.
#[derive(Debug)]
pub struct Lane {
    /// The stream.
    pub stream: StreamId,
    /// Highest number sent or declared lost.
    pub position: u64,
    /// Highest number assigned, as far as it is known; the live stream's rises.
    pub highest: u64,
    /// Definitions below this ordinal are sent.
    pub defined: u64,
    /// Numbers of the records sent and not acknowledged.
    pub unacknowledged: VecDeque<u64>,
}

/// The streams of a session, oldest first, the live one last. Never empty.
#[derive(Debug)]
pub struct LaneSet(Vec<Lane>);

impl Lane {
    /// A stream of which nothing is sent yet.
    pub fn new(state: &StreamState) -> Self {
        let (stream, highest) = (state.stream, state.highest);
        Self { stream, position: 0, highest, defined: 0, unacknowledged: VecDeque::new() }
    }

    fn waits(&self) -> bool {
        self.position < self.highest
    }
}

impl LaneSet {
    /// The streams of a session; `None` without one.
    pub fn new(streams: &[StreamState]) -> Option<Self> {
        (!streams.is_empty()).then(|| Self(streams.iter().map(Lane::new).collect()))
    }

    /// The one with this identity.
    pub fn get_mut(&mut self, stream: &[u8]) -> Option<&mut Lane> {
        self.0.iter_mut().find(|lane| lane.stream.0 == stream)
    }

    /// All of them.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Lane> {
        self.0.iter_mut()
    }

    /// The live one.
    pub fn live_mut(&mut self) -> &mut Lane {
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// Adds a newer stream, which is the live one from now on.
    pub fn push(&mut self, lane: Lane) {
        self.0.push(lane);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Records sent and not acknowledged.
    pub fn under_way(&self) -> usize {
        self.0.iter().map(|lane| lane.unacknowledged.len()).sum()
    }

    /// The stream that sends next, if `allowed` records may be under way in all and one of them is not yet.
    pub fn turn(&mut self, allowed: usize) -> Option<&mut Lane> {
        let (live, under_way) = (self.0.len() - 1, self.under_way());
        if under_way >= allowed {
            return None;
        }
        let older = self.0[..live].iter().position(Lane::waits);
        let share = (allowed * 4 / 5).max(1);
        let of_live = self.0[live].unacknowledged.len();
        if self.0[live].waits() && (older.is_none() || of_live < share) {
            return self.0.get_mut(live);
        }
        // With nothing live under way a last place is kept free for it, so that it never waits for a round trip.
        older.filter(|_| under_way - of_live < share).and_then(|index| self.0.get_mut(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(streams: &[(u8, u64)]) -> LaneSet {
        let state =
            |(id, highest): &(u8, u64)| StreamState { stream: StreamId([*id; 16]), highest: *highest, acked: 0 };
        LaneSet::new(&streams.iter().map(state).collect::<Vec<_>>()).expect("some")
    }

    /// Sends whatever may be sent; gives how many records of each stream are under way then.
    fn sent(set: &mut LaneSet, allowed: usize) -> Vec<usize> {
        while let Some(lane) = set.turn(allowed) {
            lane.position += 1;
            lane.unacknowledged.push_back(lane.position);
        }
        set.iter_mut().map(|lane| lane.unacknowledged.len()).collect()
    }

    #[test]
    fn one_stream_has_every_place() {
        assert_eq!(sent(&mut set(&[(1, 1000)]), 64), [64]);
        assert_eq!(sent(&mut set(&[(1, 3)]), 64), [3]);
    }

    #[test]
    fn neither_old_nor_live_data_has_more_than_four_fifths_while_the_other_waits() {
        assert_eq!(sent(&mut set(&[(1, 1000), (2, 1000)]), 64), [13, 51]);
        assert_eq!(sent(&mut set(&[(1, 1000), (2, 0)]), 64), [51, 0], "places are kept free for live data");
        assert_eq!(sent(&mut set(&[(1, 1000), (2, 1000)]), 5), [1, 4]);
        assert_eq!(sent(&mut set(&[(1, 1000), (2, 1000)]), 0), [0, 0]);
    }

    #[test]
    fn older_streams_go_one_after_the_other() {
        let mut set = set(&[(1, 10), (2, 1000), (3, 1)]);
        assert_eq!(sent(&mut set, 64), [10, 41, 1]);
    }
}
