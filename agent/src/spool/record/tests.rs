use super::*;

fn local() -> LocalState {
    let baseline = Baseline { series: 1, raw: 2, value: 3, at: BootNanos(4), epoch: 5 };
    LocalState { boot: BootId([1; 16]), at: BootNanos(6), wall: UnixNanos(-7), baselines: vec![baseline] }
}

fn extent() -> Extent {
    let span = LostSpan { boot: BootId([2; 16]), first: BootNanos(8), last: BootNanos(9) };
    Extent { samples: 10, span }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_bytes_are_those_of_version_one() {
    let lost = Losses { records: 3, samples: 4 };
    let header = Header { stream: StreamId([0xab; 16]), first_sequence: 258, epoch: 2, lost };
    let bytes = encode_header(&header);
    assert_eq!(bytes.len(), HEADER_BYTES);
    assert_eq!(
        hex(&bytes[..60]),
        "4a4253504f4f4c0001000000abababababababababababababababab\
         0201000000000000020000000000000003000000000000000400000000000000"
    );
    let frame = encode_frame(Kind::Batch, 258, &encode_batch(&extent(), &local(), b"wire")).expect("short");
    assert_eq!(
        hex(&frame[..frame.len() - 4]),
        "750000000100000002010000000000006d000000\
         010a00000002020202020202020202020202020202\
         08000000000000000900000000000000\
         0101010101010101010101010101010106000000000000\
         00f9ffffffffffffff01000000010000000200000000000000\
         03000000000000000400000000000000050000000000000077697265"
    );
    let gap = StreamGap { from: 1, to: 2, reason: LossReason::Corrupt, samples: 3, span: None };
    assert_eq!(
        hex(&encode_gap(&gap, lost)),
        "010000000000000002000000000000000203000000000000000003000000000000000400000000000000"
    );
    let cursor = encode_mark(CURSOR_MAGIC, StreamId([0xab; 16]), 7);
    assert_eq!(hex(&cursor[..32]), "4a42435552535231abababababababababababababababab0700000000000000");
    assert_eq!(decode_mark(CURSOR_MAGIC, &cursor), Some((StreamId([0xab; 16]), 7)));
    assert_eq!(decode_mark(EPOCH_MAGIC, &cursor), None);
}

#[test]
fn every_part_comes_back_as_it_was_written() {
    let header = Header { stream: StreamId([1; 16]), first_sequence: 1, epoch: 1, lost: Losses::default() };
    assert_eq!(decode_header(&encode_header(&header)), Ok(header));
    let payload = encode_batch(&extent(), &local(), b"wire");
    let frame = encode_frame(Kind::Batch, 9, &payload).expect("short");
    let back = decode_frame(&frame).expect("whole");
    assert_eq!((back.kind, back.sequence, back.size()), (Kind::Batch, 9, frame.len()));
    let parts = decode_batch(back.payload).expect("ours");
    assert_eq!(parts, BatchParts { extent: extent(), local: local(), wire: b"wire" });
    for span in [None, Some(extent().span)] {
        let gap = StreamGap { from: 1, to: 2, reason: LossReason::NoSpace, samples: 3, span };
        let lost = Losses { records: 5, samples: 6 };
        assert_eq!(decode_gap(&encode_gap(&gap, lost)), Some((gap, lost)));
    }
}

#[test]
fn any_flipped_bit_is_seen() {
    let header =
        encode_header(&Header { stream: StreamId([1; 16]), first_sequence: 1, epoch: 1, lost: Losses::default() });
    let frame = encode_frame(Kind::Gap, 9, b"payload").expect("short");
    for bit in 0..header.len() * 8 {
        let mut bytes = header.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_header(&bytes).is_err());
    }
    for bit in 0..frame.len() * 8 {
        let mut bytes = frame.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_frame(&bytes), Err(FrameFault::Damaged), "bit {bit}");
    }
}

#[test]
fn a_cut_frame_is_torn_and_zeros_end_a_segment() {
    let frame = encode_frame(Kind::Dictionary, 9, b"payload").expect("short");
    (1..frame.len()).for_each(|end| assert_eq!(decode_frame(&frame[..end]), Err(FrameFault::Torn)));
    assert_eq!(decode_frame(&[]), Err(FrameFault::End));
    assert_eq!(decode_frame(&[0; 4096]), Err(FrameFault::End));
}

#[test]
fn a_newer_version_is_told_from_damage() {
    let header = Header { stream: StreamId([1; 16]), first_sequence: 1, epoch: 1, lost: Losses::default() };
    let mut bytes = encode_header(&header);
    bytes.truncate(60);
    bytes[8] = 2;
    assert_eq!(decode_header(&seal(bytes)), Err(HeaderFault::Newer(2)));
}

#[test]
fn a_payload_over_the_limit_is_not_framed() {
    assert!(encode_frame(Kind::Batch, 1, &vec![0; MAX_PAYLOAD_BYTES]).is_some());
    assert!(encode_frame(Kind::Batch, 1, &vec![0; MAX_PAYLOAD_BYTES + 1]).is_none());
}

#[test]
fn a_slot_of_losses_comes_back_and_any_flipped_bit_is_seen() {
    let gap = |from, span| StreamGap { from, to: from + 2, reason: LossReason::NoSpace, samples: 3, span };
    let (lost, earlier) = (Losses { records: 5, samples: 6 }, Losses { records: 7, samples: 8 });
    let gaps = vec![gap(1, None), gap(9, Some(extent().span))];
    let (stream, retired) = (StreamId([1; 16]), Some(StreamId([2; 16])));
    let slot = LossSlot { turn: 3, stream, epoch: 4, highest: 11, lost, earlier, retired, gaps };
    let mut bytes = encode_loss_slot(&slot).expect("few gaps");
    let length = bytes.len();
    bytes.resize(LOSS_SLOT_BYTES, 0);
    assert_eq!(decode_loss_slot(&bytes), Some(slot.clone()));
    for bit in 0..length * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_loss_slot(&bytes), None, "bit {bit}");
    }
    let many = |count: usize| LossSlot { gaps: vec![gap(1, Some(extent().span)); count], ..slot.clone() };
    assert!(encode_loss_slot(&many(LOSS_GAPS)).is_some_and(|bytes| bytes.len() <= LOSS_SLOT_BYTES));
    assert_eq!(encode_loss_slot(&many(LOSS_GAPS + 1)), None);
}
