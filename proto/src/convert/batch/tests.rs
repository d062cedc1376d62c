use super::*;
use joulebook_units::GapReason;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::{option, sample::subsequence};

fn compressed(batch: &telemetry::Batch) -> Vec<u8> {
    zstd::bulk::compress(&batch.encode_to_vec(), COMPRESSION_LEVEL).expect("compresses")
}

fn valid() -> telemetry::Batch {
    telemetry::Batch {
        boot_id: vec![9; 16],
        first_row_boot_nanos: 1_000,
        row_step_nanos: vec![10, 10],
        wall_time_unix_nanos: 5,
        columns: vec![telemetry::Column { series_id: 1, deltas: vec![1, 2, 3], ..Default::default() }],
        gaps: Vec::new(),
    }
}

fn refused(change: impl FnOnce(&mut telemetry::Batch)) {
    let mut batch = valid();
    change(&mut batch);
    assert!(decode_batch(&compressed(&batch)).is_err(), "accepted: {batch:?}");
}

prop_compose! {
    /// Points of one column: some of the rows, moved a little, strictly ascending.
    fn columns(rows: Vec<BootNanos>)(
        series in 1u32..2048,
        chosen in subsequence(rows.clone(), 1..=rows.len()),
        moved in any::<bool>(),
        values in vec(0u64..1 << 62, rows.len()),
        age in option::of(1u64..100_000),
        first in 0u64..1 << 62,
    ) -> Column {
        let points: Vec<_> = chosen.iter().zip(&values).map(|(row, value)| {
            Point { at: BootNanos(row.0 - u64::from(moved) * 7), value: *value }
        }).collect();
        let start = points[0].at.0.min(rows[0].0);
        let previous = age.map(|age| Point { at: BootNanos(start - age), value: first });
        Column { series, previous, points }
    }
}

fn batches() -> impl Strategy<Value = Batch> {
    let rows = (1u64 << 20..1 << 60, vec(8u64..900_000_000, 0..64)).prop_map(|(first, steps)| {
        let mut at = first;
        let further = steps.into_iter().map(move |step| {
            at += step;
            BootNanos(at)
        });
        std::iter::once(BootNanos(first)).chain(further).collect::<Vec<_>>()
    });
    let gap =
        (1u32..99, 0u64..1 << 60, 0u64..1 << 60, 0u64..1 << 60, 0u64..1 << 60).prop_map(|(series, a, b, c, d)| {
            EnergyGap {
                series,
                from: BootNanos(a.min(b)),
                to: BootNanos(a.max(b)),
                reason: GapReason::AmbiguousWrap,
                low: Microjoules(c.min(d)),
                high: Microjoules(c.max(d)),
            }
        });
    rows.prop_flat_map(move |rows| {
        let columns = vec(columns(rows.clone()), 0..8);
        (Just(rows), columns, vec(gap.clone(), 0..4), any::<[u8; 16]>(), any::<i64>())
    })
    .prop_map(|(rows, columns, gaps, boot, wall)| Batch {
        boot: BootId(boot),
        wall: UnixNanos(wall),
        rows,
        columns,
        gaps,
    })
}

proptest! {
    #[test]
    fn a_batch_comes_back_as_it_was_sent(batch in batches()) {
        let payload = encode_batch(&batch).expect("valid");
        prop_assert_eq!(payload.samples, batch.samples());
        prop_assert_eq!(payload.hash, payload_hash(&payload.bytes));
        prop_assert_eq!(decode_batch(&payload.bytes).expect("valid"), batch);
    }

    #[test]
    fn hostile_bytes_are_refused_or_read_but_never_panic(bytes in vec(any::<u8>(), 0..512)) {
        let _ = decode_batch(&bytes);
        let frame = zstd::bulk::compress(&bytes, COMPRESSION_LEVEL).expect("compresses");
        if let Ok(batch) = decode_batch(&frame) {
            prop_assert!(batch.rows.len() <= Batch::MAX_ROWS && batch.samples() <= Batch::MAX_SAMPLES);
        }
    }

    #[test]
    fn one_changed_byte_never_panics(batch in batches(), at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let payload = encode_batch(&batch).expect("valid");
        let mut serialized = decompress(&payload.bytes).expect("valid");
        let index = at.index(serialized.len());
        serialized[index] = to;
        let _ = decode_batch(&zstd::bulk::compress(&serialized, COMPRESSION_LEVEL).expect("compresses"));
        let mut frame = payload.bytes.to_vec();
        let index = at.index(frame.len());
        frame[index] = to;
        let _ = decode_batch(&frame);
    }

    #[test]
    fn the_count_on_the_bytes_agrees_with_the_message(batch in batches()) {
        // Whatever prost would build has been counted: a limit below the real number refuses.
        let payload = encode_batch(&batch).expect("valid");
        let serialized = decompress(&payload.bytes).expect("valid");
        let (mut columns, mut values) = (0, 0);
        walk(&serialized, |field, value| {
            if field == 5 {
                columns += 1;
                walk(value.bytes(), |field, value| {
                    values += if field == 4 { value.varints() } else { 0 };
                    Ok(())
                })?;
            }
            Ok(())
        }).expect("valid");
        prop_assert_eq!((columns, values), (batch.columns.len(), batch.samples()));
    }
}

#[test]
fn every_broken_rule_of_a_batch_is_refused() {
    assert!(decode_batch(&compressed(&valid())).is_ok());
    refused(|batch| batch.boot_id = vec![9; 15]);
    refused(|batch| batch.row_step_nanos = vec![10, 0]);
    refused(|batch| batch.row_step_nanos = vec![10, u64::MAX]);
    refused(|batch| batch.row_step_nanos = vec![10, Batch::MAX_SPAN_NANOS]);
    refused(|batch| batch.row_step_nanos = vec![1; 64]);
    refused(|batch| batch.columns[0].series_id = 0);
    refused(|batch| batch.columns[0].row_mask = 0b1011);
    refused(|batch| batch.columns[0].row_mask = 0b011);
    refused(|batch| batch.columns[0].deltas = vec![1, 2]);
    refused(|batch| batch.columns[0].offset_nanos = vec![0, 0]);
    refused(|batch| batch.columns[0].offset_nanos = vec![0, -10, 0]);
    refused(|batch| batch.columns[0].offset_nanos = vec![-2_000, 0, 0]);
    refused(|batch| batch.columns[0].previous = Some(telemetry::Previous { age_nanos: 1_001, value: 0 }));
    refused(|batch| batch.columns[0].previous = Some(telemetry::Previous { age_nanos: 0, value: 0 }));
    refused(|batch| batch.gaps = vec![telemetry::EnergyGap { series_id: 1, ..Default::default() }]);
}

#[test]
fn b55_a_value_that_leaves_its_range_is_read_as_one_that_nobody_accepts_and_spoils_no_other() {
    let mut batch = valid();
    batch.columns[0].deltas = vec![1, -2, 3];
    let values = |batch| decode_batch(&compressed(&batch)).expect("read").columns[0].points.clone();
    assert_eq!(values(batch.clone()).iter().map(|point| point.value).collect::<Vec<_>>(), [1, u64::MAX, 2]);
    batch.columns[0].previous = Some(telemetry::Previous { age_nanos: 5, value: u64::MAX });
    assert_eq!(values(batch).len(), 3);
}

#[test]
fn more_values_columns_or_gaps_than_allowed_are_refused_before_they_are_built() {
    let column = |deltas: usize| telemetry::Column { series_id: 1, deltas: vec![1; deltas], ..Default::default() };
    for batch in [
        telemetry::Batch { columns: vec![column(64); 65], row_step_nanos: vec![1; 63], ..valid() },
        telemetry::Batch { columns: vec![column(0); 4097], ..valid() },
        telemetry::Batch { gaps: vec![telemetry::EnergyGap::default(); 4097], ..valid() },
    ] {
        assert!(matches!(count(&batch.encode_to_vec()), Err(ConvertError::Limit { .. })));
    }
}

#[test]
fn a_frame_that_swells_over_one_mebibyte_is_refused() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], COMPRESSION_LEVEL).expect("compresses");
    assert!(bomb.len() < 16 << 10);
    assert!(decode_batch(&bomb).is_err());
    let barely = zstd::bulk::compress(&vec![0; MAX_PAYLOAD_BYTES + 1], COMPRESSION_LEVEL).expect("compresses");
    assert!(decompress(&barely).is_err());
    let fits = zstd::bulk::compress(&vec![0; MAX_PAYLOAD_BYTES], COMPRESSION_LEVEL).expect("compresses");
    assert_eq!(decompress(&fits).expect("fits").len(), MAX_PAYLOAD_BYTES);
}

#[test]
fn a_second_frame_or_a_cut_one_is_refused() {
    let frame = compressed(&valid());
    assert!(decode_batch(&[frame.as_slice(), frame.as_slice()].concat()).is_err());
    assert!((0..frame.len()).all(|end| decode_batch(&frame[..end]).is_err()));
}

#[test]
fn a_frame_that_failed_leaves_nothing_behind_for_the_next_one() {
    let good = compressed(&valid());
    let expected = decode_batch(&good).expect("read");
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], COMPRESSION_LEVEL).expect("compresses");
    for bad in [&good[..good.len() - 1], &good[..3], &[], &bomb, &[good.clone(), good.clone()].concat(), b"no frame"] {
        assert!(decode_batch(bad).is_err());
        assert_eq!(decode_batch(&good).expect("read after a bad one"), expected);
    }
}

#[test]
fn a_value_that_cannot_be_costs_its_batch_nothing() {
    let mut batch = decode_batch(&compressed(&valid())).expect("valid");
    batch.columns[0].points[2].value = u64::MAX;
    let told = encode_batch(&batch).expect("the others are good");
    assert_eq!(decode_batch(&told.bytes).expect("told"), batch);
}

#[test]
fn a_batch_that_breaks_a_rule_is_not_sent() {
    let good = decode_batch(&compressed(&valid())).expect("valid");
    let refused = |change: fn(&mut Batch)| {
        let mut batch = good.clone();
        change(&mut batch);
        assert!(encode_batch(&batch).is_err(), "encoded: {batch:?}");
    };
    refused(|batch| batch.rows.clear());
    refused(|batch| batch.rows.reverse());
    refused(|batch| batch.columns[0].points.reverse());
    refused(|batch| batch.columns[0].previous = Some(Point { at: BootNanos(1_001), value: 0 }));
    refused(|batch| batch.columns[0].points.push(Point { at: BootNanos(2_000), value: 9 }));
    refused(|batch| batch.columns[0].points.clear());
}

#[test]
fn points_between_rows_keep_their_own_times() {
    let mut batch = decode_batch(&compressed(&valid())).expect("valid");
    batch.columns[0].points = [1_009, 1_011].map(|at| Point { at: BootNanos(at), value: 4 }).to_vec();
    let payload = encode_batch(&batch).expect("valid");
    assert_eq!(decode_batch(&payload.bytes).expect("valid"), batch);
}
