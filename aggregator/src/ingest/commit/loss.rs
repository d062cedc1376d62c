//! What a declared loss changes: the mark moves on, and what comes after is joined to what came before.

use super::*;

impl Group<'_> {
    pub(super) fn lost(&mut self, ordinal: u32, stream: StreamId, gap: &StreamGap) -> Result<Reply, StoreError> {
        let acked = self.acked(ordinal);
        if gap.to > acked {
            if gap.from != acked + 1 {
                let refusal = Refusal::OutOfOrder { stream, sequence: gap.from, expected: acked + 1 };
                return Ok(Reply::Refused(refusal));
            }
            self.lose(ordinal, gap)?;
        }
        Ok(Reply::Ack { stream, sequence: self.acked(ordinal), rejects: Vec::new(), record: false })
    }

    fn lose(&mut self, ordinal: u32, gap: &StreamGap) -> Result<(), StoreError> {
        self.recall(ordinal)?;
        let bridges = self.intake.live.get(&ordinal).into_iter().flat_map(Live::tails).collect();
        self.catalog.bridges.insert(ordinal, bridges);
        self.bridges.insert(ordinal);
        let Some(fact) = self.catalog.streams.get(ordinal as usize).copied() else { return Ok(()) };
        let offset = gap.span.and_then(|span| self.catalog.boots.get(&(fact.node, span.boot)));
        let known = gap
            .span
            .zip(offset)
            .and_then(|(span, offset)| validate::map(span.first.0, *offset).zip(validate::map(span.last.0, *offset)));
        // Not known when: from the last stored instant until now, and from now on if there is none.
        let (from, to) = known.unwrap_or((fact.last.unwrap_or(self.now), self.now));
        let from = fact.last.map_or(from, |last| last.min(from));
        let to = to.min(self.now.plus_seconds(validate::FUTURE_SECONDS)).max(from);
        let key = GapKey { node: fact.node, from, ordinal, sequence: gap.from, index: 0 }.encode();
        let loss = GapFact::Lost { to, reason: gap.reason, last_sequence: gap.to, samples: gap.samples };
        self.changes.writes.put(Table::Gaps, key, loss.encode(&key));
        self.mark(fact.node, from, to);
        let count = gap.to - gap.from + 1;
        if let Some(fact) = self.catalog.streams.get_mut(ordinal as usize) {
            fact.acked = gap.to;
            fact.lost = fact.lost.saturating_add(count);
        }
        self.streams.insert(ordinal);
        self.intake.counters.add("records_lost_total", count);
        tracing::error!(stream = ordinal, records = count, values = gap.samples, "an agent lost records");
        Ok(())
    }

    /// Makes the last points of a stream complete: after a restart they are read back, latest record first.
    fn recall(&mut self, ordinal: u32) -> Result<(), StoreError> {
        let Some(stream) = self.catalog.streams.get(ordinal as usize).copied() else { return Ok(()) };
        let live = self.intake.live.entry(ordinal).or_default();
        if live.complete {
            return Ok(());
        }
        // Records of this group are not on the disk yet; their points are known and newer.
        let tails: HashSet<u32> = live.tails().map(|(series, _)| series).collect();
        let stored = self.catalog.series(ordinal).filter(|(series, _)| !tails.contains(series));
        let mut missing: HashMap<u32, &Arc<Subject>> = stored.collect();
        if !missing.is_empty() {
            self.book.records_backward(stream.node, ordinal, |record| {
                let mut found: HashMap<u32, StampedValue> = HashMap::new();
                for column in record.columns.iter().filter(|column| missing.contains_key(&column.series)) {
                    let last = column.points.last().copied();
                    let newer = |last: &StampedValue| found.get(&column.series).is_none_or(|one| one.0 < last.0);
                    if let Some(last) = last.filter(newer) {
                        found.insert(column.series, last);
                    }
                }
                for (series, last) in found {
                    if let Some(subject) = missing.remove(&series) {
                        live.recall(series, subject, last);
                    }
                }
                if missing.is_empty() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        for (series, last) in self.catalog.bridges.get(&ordinal).into_iter().flatten() {
            if let Some(subject) = missing.get(series) {
                live.recall(*series, subject, *last);
            }
        }
        live.complete = true;
        Ok(())
    }
}
