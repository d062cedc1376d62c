//! The same material for another thread: slots of a question are independent of each other.

use super::{Gathered, Stored};

impl<'a> Gathered<'a> {
    /// What was gathered, as it was, with nothing read or learned yet.
    pub fn beside(&self) -> Gathered<'a> {
        Gathered {
            book: self.book,
            stored: Stored::new(self.book, (self.members.len(), self.window), self.memory.memory()),
            known: self.known.clone(),
            window: self.window,
            resolution_seconds: self.resolution_seconds,
            members: self.members.clone(),
            sites: self.sites.clone(),
            origins: self.origins.clone(),
            dirty: self.dirty.clone(),
            edges: self.edges.clone(),
            models: Default::default(),
            learned: Default::default(),
            now: self.now,
            cut: self.cut,
            memory: self.memory,
            unseen: Default::default(),
        }
    }
}
