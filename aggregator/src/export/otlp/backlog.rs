//! What waits for a receiver, bounded by its points: the oldest goes first, and is dropped first.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use std::collections::VecDeque;

/// What waits.
#[derive(Debug)]
pub(super) struct Backlog {
    limit: usize,
    waiting: VecDeque<(ExportMetricsServiceRequest, usize)>,
    points: usize,
}

impl Backlog {
    /// Room for so many points.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, waiting: VecDeque::new(), points: 0 }
    }

    /// Adds a message; returns how many points had to be dropped for it, or with it if it is larger than all the room.
    pub(super) fn add(&mut self, message: ExportMetricsServiceRequest, points: usize) -> usize {
        if points > self.limit {
            return points;
        }
        let mut dropped = 0;
        while self.points + points > self.limit {
            dropped += self.remove_first();
        }
        self.points += points;
        self.waiting.push_back((message, points));
        dropped
    }

    /// The oldest message.
    pub(super) fn first(&self) -> Option<(ExportMetricsServiceRequest, usize)> {
        self.waiting.front().cloned()
    }

    /// Removes it; returns its points.
    pub(super) fn remove_first(&mut self) -> usize {
        let points = self.waiting.pop_front().map_or(0, |(_, points)| points);
        self.points -= points;
        points
    }

    /// Points that wait.
    pub(super) fn points(&self) -> usize {
        self.points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics;

    fn message(number: &str) -> ExportMetricsServiceRequest {
        let one = ResourceMetrics { schema_url: number.to_owned(), ..ResourceMetrics::default() };
        ExportMetricsServiceRequest { resource_metrics: vec![one] }
    }

    fn first(backlog: &Backlog) -> Option<String> {
        backlog.first().map(|(message, _)| message.resource_metrics[0].schema_url.clone())
    }

    #[test]
    fn the_oldest_makes_room_and_every_dropped_point_is_told() {
        let mut backlog = Backlog::new(100);
        assert_eq!([backlog.add(message("1"), 60), backlog.add(message("2"), 40)], [0, 0]);
        assert_eq!(backlog.add(message("3"), 30), 60);
        assert_eq!((first(&backlog).as_deref(), backlog.points()), (Some("2"), 70));
        assert_eq!(backlog.add(message("4"), 101), 101, "what is larger than all the room drops nothing else");
        assert_eq!(backlog.add(message("5"), 100), 70);
        assert_eq!((backlog.remove_first(), backlog.points(), backlog.remove_first()), (100, 0, 0));
    }
}
