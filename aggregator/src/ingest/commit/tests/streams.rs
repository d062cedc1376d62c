//! How many streams and series a node may have: enough to drain older streams beside the live one, for years.

use super::*;

/// A stream of the test's own, by number.
fn stream(number: usize) -> StreamId {
    let byte = |value: usize| u8::try_from(value % 256).expect("below 256");
    let mut id = [7; 16];
    (id[0], id[1]) = (byte(number), byte(number / 256));
    StreamId(id)
}

/// The first record of a stream, of one value.
fn first(rig: &Rig, stream: StreamId) -> Request {
    match rig.request(1, steady(rig.now - 2..rig.now - 1, 1..2)) {
        Request::Record { session, sequence, hash, payload, batch, .. } => {
            Request::Record { session, stream, sequence, hash, payload, batch }
        }
        other => other,
    }
}

#[test]
fn streams_that_bring_nothing_any_more_are_not_counted() {
    let mut rig = Rig::new(Arc::new(MemoryStore::new()));
    for number in 0..STREAMS {
        assert!(matches!(rig.say("gpu-1", 1, stream(number)), Reply::Opened(_)), "stream {number}");
        let series = vec![(1, energy("rapl/1"))];
        assert_eq!(rig.apply(Request::Define(rig.session, stream(number), series)), Reply::Done);
        let request = first(&rig, stream(number));
        assert!(matches!(rig.apply(request), Reply::Ack { sequence: 1, .. }), "stream {number}");
    }
    let one_more = stream(STREAMS);
    assert_eq!(rig.say("gpu-1", 1, one_more), Reply::Refused(Refusal::TooManyStreams));
    rig.now += u64::try_from(ACCEPTED_SECONDS).expect("positive") + 1;
    assert!(matches!(rig.say("gpu-1", 1, one_more), Reply::Opened(_)));
}

#[test]
fn an_older_stream_is_drained_beside_a_live_one_with_as_many_series() {
    let cap = u32::try_from(ACTIVE_SERIES).expect("small");
    let mut rig = Rig::new(Arc::new(MemoryStore::new()));
    let mut rejects = Vec::new();
    for number in 0..3 {
        assert!(matches!(rig.say("gpu-1", 1, stream(number)), Reply::Opened(_)));
        let series = (1..=cap).map(|series| (series, energy(&format!("rapl/{series}")))).collect();
        assert_eq!(rig.apply(Request::Define(rig.session, stream(number), series)), Reply::Done);
        let batch = steady(rig.now - 2..rig.now - 1, 1..cap + 1);
        let Request::Record { session, sequence, hash, payload, .. } = rig.request(1, batch.clone()) else {
            panic!("not a record")
        };
        let batch = Some(Box::new(batch));
        match rig.apply(Request::Record { session, stream: stream(number), sequence, hash, payload, batch }) {
            Reply::Ack { rejects: refused, .. } => rejects.push(refused.iter().map(|reject| reject.count).sum::<u64>()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(rejects, [0, 0, u64::from(cap)], "two streams are taken whole, a third is refused");
}
