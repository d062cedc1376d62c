//! What one record changes.

use super::*;

/// Adds up what is refused.
fn add(all: &mut BTreeMap<RejectReason, u64>, refused: BTreeMap<RejectReason, u64>) {
    for (reason, count) in refused {
        *all.entry(reason).or_default() += count;
    }
}

impl Group<'_> {
    pub(super) fn record(
        &mut self,
        ordinal: u32,
        stream: StreamId,
        sequence: u64,
        hash: [u8; 16],
        payload: &[u8],
        batch: Option<Box<Batch>>,
    ) -> Result<Reply, StoreError> {
        let acked = self.acked(ordinal);
        let values = batch.as_ref().map_or(1, |batch| u64::try_from(batch.samples()).unwrap_or(u64::MAX));
        if sequence <= acked {
            let rejects = self.again(ordinal, sequence, hash, payload, values)?;
            return Ok(Reply::Ack { stream, sequence: acked, rejects, record: true });
        }
        if sequence > acked + 1 {
            return Ok(Reply::Refused(Refusal::OutOfOrder { stream, sequence, expected: acked + 1 }));
        }
        let rejects = match batch {
            Some(batch) => self.batch(ordinal, sequence, *batch),
            None => BTreeMap::from([(RejectReason::Malformed, 1)]),
        };
        let key = Meta::Hash(ordinal, key::hash_slot(sequence)).encode();
        let fact = HashFact { sequence, hash }.encode(&key);
        self.changes.writes.put(Table::Meta, key, fact);
        self.hashes.push((ordinal, sequence, hash));
        if let Some(fact) = self.catalog.streams.get_mut(ordinal as usize) {
            fact.acked = sequence;
        }
        self.streams.insert(ordinal);
        self.applied += 1;
        let refused = |(reason, count): (RejectReason, u64)| Reject { sequence, reason, count };
        let rejects: Vec<Reject> = rejects.into_iter().map(refused).collect();
        self.count(ordinal, &rejects);
        Ok(Reply::Ack { stream, sequence, rejects, record: true })
    }

    /// A record whose number is stored already.
    fn again(
        &mut self,
        ordinal: u32,
        sequence: u64,
        hash: [u8; 16],
        payload: &[u8],
        values: u64,
    ) -> Result<Vec<Reject>, StoreError> {
        let own = self.hashes.iter().find(|known| (known.0, known.1) == (ordinal, sequence));
        let stored = match own {
            Some((_, _, hash)) => Some(*hash),
            None => {
                let key = Meta::Hash(ordinal, key::hash_slot(sequence)).encode();
                let value = self.book.store().get(Table::Meta, &key)?;
                let fact = value.map(|value| HashFact::decode(&key, &value)).transpose()?;
                fact.filter(|fact| fact.sequence == sequence).map(|fact| fact.hash)
            }
        };
        if stored.is_none_or(|stored| stored == hash) {
            self.intake.counters.add("duplicates_total", 1);
            return Ok(Vec::new());
        }
        tracing::error!(stream = ordinal, sequence, "a record's number was used before with other content");
        if self.intake.quarantined < QUARANTINED {
            self.intake.quarantined += 1;
            let key = key::quarantine(ordinal, sequence, self.now);
            self.changes.writes.put(Table::Quarantine, key, payload);
        }
        let rejects = vec![Reject { sequence, reason: RejectReason::SequenceConflict, count: values }];
        self.count(ordinal, &rejects);
        self.streams.insert(ordinal);
        Ok(rejects)
    }

    fn count(&mut self, ordinal: u32, rejects: &[Reject]) {
        for reject in rejects {
            let name = match reject.reason {
                RejectReason::Value => "rejected_value_total",
                RejectReason::Time => "rejected_time_total",
                RejectReason::Cardinality => "rejected_cardinality_total",
                RejectReason::UnknownSeries => "rejected_unknown_series_total",
                RejectReason::Malformed => "rejected_malformed_total",
                RejectReason::SequenceConflict => "seq_conflict_total",
            };
            let count = if reject.reason == RejectReason::SequenceConflict { 1 } else { reject.count };
            self.intake.counters.add(name, count);
            if let Some(fact) = self.catalog.streams.get_mut(ordinal as usize) {
                fact.rejected = fact.rejected.saturating_add(reject.count);
            }
        }
    }

    /// Stores what is good of a batch; says what is not.
    fn batch(&mut self, ordinal: u32, sequence: u64, batch: Batch) -> BTreeMap<RejectReason, u64> {
        let Some((offset, rows)) = self.place_rows(ordinal, &batch) else {
            let values = u64::try_from(batch.samples()).unwrap_or(u64::MAX);
            return BTreeMap::from([(RejectReason::Time, values)]);
        };
        let Some(node) = self.catalog.streams.get(ordinal as usize).map(|stream| stream.node) else {
            return BTreeMap::new();
        };
        let (first_row, times) = (rows.first().copied().unwrap_or_default(), self.times());
        let mut rejects = BTreeMap::new();
        let mut record = RowRecord { rows, columns: Vec::with_capacity(batch.columns.len()) };
        let mut current = self.take_out(node, ordinal);
        for column in batch.columns {
            let judged = match self.find(&mut current, column.series) {
                Ok(place) => {
                    let Some((subject, last)) = current.known(place) else { continue };
                    let judged = validate::column(column, Known { subject, last, first_row, times, offset });
                    if let Some(last) = judged.column.as_ref().map(|stored| stored.points.last().copied()) {
                        self.keep(&mut current, place, last);
                    }
                    judged
                }
                Err(reason) => Judged::none(&column, reason),
            };
            add(&mut rejects, judged.refused);
            record.columns.extend(judged.column);
        }
        for (gap, index) in batch.gaps.iter().zip(0u32..) {
            if let Err(reason) = self.gap(&mut current, (sequence, index), gap, offset) {
                *rejects.entry(reason).or_default() += 1;
            }
        }
        self.put_back(current);
        self.store(ordinal, sequence, batch.boot, offset, &record);
        rejects
    }

    /// What instants data may have now.
    fn times(&self) -> Times {
        Times { now: self.now, oldest: self.catalog.cut.oldest_row(self.now) }
    }

    /// Where the batch's boot clock lies on ours, and its rows there; `None` if that is out of time.
    fn place_rows(&mut self, ordinal: u32, batch: &Batch) -> Option<(i64, Vec<UnixNanos>)> {
        let stream = self.catalog.streams.get(ordinal as usize).copied()?;
        let first = i64::try_from(batch.rows.first()?.0).ok()?;
        let mut offset = match self.catalog.boots.get(&(stream.node, batch.boot)) {
            Some(offset) => *offset,
            // A boot that was over before we met the node: its own wall clock is all there is.
            None if self.times().hold(batch.wall) => batch.wall.0.checked_sub(first)?,
            None => return None,
        };
        // A clock that was measured anew never moves a stream backwards: the old measure holds until a pause lets the
        // new one pass what is stored, and a new boot begins where the old one ended.
        if let Some(last) = stream.last.filter(|last| first.saturating_add(offset) <= last.0) {
            offset = match stream.clock {
                Some((boot, before)) if boot == batch.boot => before,
                _ => last.0.checked_add(1)?.checked_sub(first)?,
            };
        }
        let rows: Option<Vec<_>> = batch.rows.iter().map(|row| validate::map(row.0, offset)).collect();
        let rows = rows?;
        let times = self.times();
        if !rows.iter().all(|row| times.hold(*row)) {
            return None;
        }
        if !self.catalog.boots.contains_key(&(stream.node, batch.boot)) {
            self.catalog.put_boot(stream.node, batch.boot, offset, &mut self.changes.writes);
        }
        Some((offset, rows))
    }

    /// Stores a gap that a record declares, by the record's number and its place there.
    fn gap(
        &mut self,
        current: &mut Current,
        (sequence, index): (u64, u32),
        gap: &EnergyGap,
        offset: i64,
    ) -> Result<(), RejectReason> {
        let place = self.find(current, gap.series)?;
        let is_energy = matches!(current.subject(place).map(|subject| &**subject), Some(Subject::Energy(_)));
        if !is_energy || gap.low > gap.high {
            return Err(RejectReason::Value);
        }
        let from = validate::map(gap.from.0, offset).ok_or(RejectReason::Time)?;
        let to = validate::map(gap.to.0, offset).ok_or(RejectReason::Time)?;
        if from > to || !self.times().hold(to) {
            return Err(RejectReason::Time);
        }
        self.keep(current, place, None);
        let (node, ordinal) = (current.node, current.ordinal);
        let key = GapKey { node, from, ordinal, sequence, index }.encode();
        let (low, high) = (gap.low.0, gap.high.0);
        let fact = GapFact::Energy { series: gap.series, to, reason: gap.reason, low, high };
        self.changes.writes.put(Table::Gaps, key, fact.encode(&key));
        self.mark(node, from, to);
        Ok(())
    }

    fn store(&mut self, ordinal: u32, sequence: u64, boot: BootId, offset: i64, record: &RowRecord) {
        let (Some(first_row), Some(span)) = (record.rows.first().copied(), record.span()) else { return };
        let Some(stream) = self.catalog.streams.get_mut(ordinal as usize) else { return };
        stream.last = stream.last.max(Some(span.1));
        stream.clock = Some((boot, offset));
        let number = stream.node;
        let row = RowKey { node: number, at: first_row, ordinal, sequence };
        let key = row.encode();
        self.changes.writes.put(Table::Rows, key, record.encode(&key));
        if span.0 < first_row.plus_seconds(-CELL_SECONDS) {
            let key = RowKey { at: span.1, ..row }.encode();
            self.changes.writes.put(Table::Long, key, LongFact { earliest: span.0, first_row }.encode(&key));
        }
        if let Some(node) = self.catalog.nodes.get_mut(number as usize)
            && node.fact.first_row.is_none_or(|first| first_row < first)
        {
            node.fact.first_row = Some(first_row);
            self.nodes.insert(number);
        }
        self.mark(number, span.0, span.1);
        let points = record.columns.iter().filter_map(|column| column.points.first()).map(|(at, _)| *at);
        let noted = self.catalog.hours.note(number, points.fold(first_row, UnixNanos::min), span.1);
        if noted.changes {
            self.changes.hours.insert(number);
        }
        // How late a meter at the input is read in an hour stands on the rows of the hour before.
        let has_wall = self.catalog.surroundings(number) != CELL_SURROUNDINGS_SECONDS;
        if let (true, Some(after)) = (has_wall, noted.after) {
            self.mark(number, after.start(), after.end());
        }
    }

    /// Marks every cell that rows from `from` to `to` decide about, at most those that data are accepted for.
    pub(super) fn mark(&mut self, node: u32, from: UnixNanos, to: UnixNanos) {
        let around = self.catalog.surroundings(node);
        let (from, to) = (from.plus_seconds(-around), to.plus_seconds(around));
        let mut start = from.max(self.times().oldest).floor_to(CELL_SECONDS);
        while start <= to {
            self.changes.marks.insert((node, start));
            start = start.plus_seconds(CELL_SECONDS);
        }
    }
}
