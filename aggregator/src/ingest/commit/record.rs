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
            Some(batch) => self.batch(ordinal, sequence, &batch)?,
            None => BTreeMap::from([(RejectReason::Malformed, 1)]),
        };
        let key = Meta::Hash(ordinal, key::hash_slot(sequence)).encode();
        self.changes.writes.put(Table::Meta, key.clone(), HashFact { sequence, hash }.encode(&key));
        if let Some(live) = self.intake.live.get_mut(&ordinal) {
            live.hashes.insert(sequence, hash);
            live.hashes.retain(|old, _| old.saturating_add(Meta::HASHES) > sequence);
        }
        if let Some(fact) = self.catalog.streams.get_mut(ordinal as usize) {
            fact.acked = sequence;
        }
        self.streams.insert(ordinal);
        self.intake.counters.add("records_applied_total", 1);
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
        let stored = match self.intake.live.get(&ordinal).and_then(|live| live.hashes.get(&sequence)) {
            Some(hash) => Some(*hash),
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
    fn batch(&mut self, ordinal: u32, sequence: u64, batch: &Batch) -> Result<BTreeMap<RejectReason, u64>, StoreError> {
        let values = u64::try_from(batch.samples()).unwrap_or(u64::MAX);
        let Some((offset, rows)) = self.place_rows(ordinal, batch) else {
            return Ok(BTreeMap::from([(RejectReason::Time, values)]));
        };
        let Some(stream) = self.catalog.streams.get(ordinal as usize).copied() else { return Ok(BTreeMap::new()) };
        let first_row = rows.first().copied().unwrap_or_default();
        let mut rejects = BTreeMap::new();
        let mut record = RowRecord { rows, columns: Vec::with_capacity(batch.columns.len()) };
        for column in &batch.columns {
            let subject = match self.subject(stream.node, ordinal, column.series) {
                Ok(subject) => subject,
                Err(reason) => {
                    add(&mut rejects, Judged::none(column, reason).refused);
                    continue;
                }
            };
            let last = self.last_point(ordinal, column.series);
            let times = self.times();
            let judged = validate::column(column, Known { subject: &subject, last, first_row, times, offset });
            add(&mut rejects, judged.refused);
            if let Some(stored) = judged.column {
                self.keep(stream.node, ordinal, column.series, subject, stored.points.last().copied());
                record.columns.push(stored);
            }
        }
        for (gap, index) in batch.gaps.iter().zip(0u32..) {
            if let Err(reason) = self.gap(ordinal, sequence, index, gap, offset) {
                *rejects.entry(reason).or_default() += 1;
            }
        }
        self.store(ordinal, sequence, batch.boot, offset, &record);
        Ok(rejects)
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

    fn subject(&mut self, node: u32, ordinal: u32, series: u32) -> Result<Arc<Subject>, RejectReason> {
        let live = self.intake.live.entry(ordinal).or_default();
        if live.conflicting.contains(&series) {
            return Err(RejectReason::UnknownSeries);
        }
        let subject = self.catalog.subject(ordinal, series).or_else(|| live.defined.get(&series).cloned());
        let subject = subject.ok_or(RejectReason::UnknownSeries)?;
        let active = self.intake.active.entry(node).or_default();
        if !active.contains_key(&(ordinal, series)) && is_full(active, ordinal) {
            let oldest = self.now.plus_seconds(-ACTIVE_SECONDS);
            active.retain(|_, seen| *seen >= oldest);
            if is_full(active, ordinal) {
                return Err(RejectReason::Cardinality);
            }
        }
        Ok(subject)
    }

    fn last_point(&self, ordinal: u32, series: u32) -> Option<StampedValue> {
        let live = self.intake.live.get(&ordinal)?.tails.get(&series);
        live.or_else(|| self.catalog.bridges.get(&ordinal)?.get(&series)).copied()
    }

    /// Notes that a column of the series is stored.
    fn keep(&mut self, node: u32, ordinal: u32, series: u32, subject: Arc<Subject>, last: Option<StampedValue>) {
        let live = self.intake.live.entry(ordinal).or_default();
        if live.defined.remove(&series).is_some() {
            self.catalog.put_series(ordinal, series, subject, &mut self.changes.writes);
        }
        live.tails.extend(last.map(|last| (series, last)));
        self.intake.active.entry(node).or_default().insert((ordinal, series), self.now);
        if let Some(bridges) = self.catalog.bridges.get_mut(&ordinal)
            && bridges.remove(&series).is_some()
        {
            self.bridges.insert(ordinal);
        }
    }

    fn gap(
        &mut self,
        ordinal: u32,
        sequence: u64,
        index: u32,
        gap: &EnergyGap,
        offset: i64,
    ) -> Result<(), RejectReason> {
        let node = self.catalog.streams.get(ordinal as usize).map(|stream| stream.node).unwrap_or_default();
        let subject = self.subject(node, ordinal, gap.series)?;
        if !matches!(*subject, Subject::Energy(_)) || gap.low > gap.high {
            return Err(RejectReason::Value);
        }
        let from = validate::map(gap.from.0, offset).ok_or(RejectReason::Time)?;
        let to = validate::map(gap.to.0, offset).ok_or(RejectReason::Time)?;
        if from > to || !self.times().hold(to) {
            return Err(RejectReason::Time);
        }
        self.keep(node, ordinal, gap.series, subject, None);
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

/// Whether a stream may have no further series now.
fn is_full(active: &HashMap<(u32, u32), UnixNanos>, stream: u32) -> bool {
    // The count of one stream is needed only once the node's is that high.
    active.len() >= ACTIVE_SERIES
        && (active.len() >= ACTIVE_OF_NODE
            || active.keys().filter(|(ordinal, _)| *ordinal == stream).count() >= ACTIVE_SERIES)
}
