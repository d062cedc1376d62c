//! A poller beside a node's own agent: each has its own session, epoch and streams, and the agent's word on the node stands.

use super::*;
use joulebook_units::{Scope, SourceState};

/// Streams of the poller.
const OUTSIDE: StreamId = StreamId([8; 16]);

/// A meter of a layer, as a poller tells of it.
fn wall(id: &str, scope: Option<Layer>) -> Source {
    let Subject::Energy(part) = energy(id) else { panic!("energy") };
    let scope = scope.map(|layer| Scope { layer, name: String::new(), members: Vec::new() });
    Source { component: Component::Wall, collector: "redfish".to_owned(), scope, ..Source::clone(&part) }
}

impl Rig {
    fn outside(&mut self, poller: &str, epoch: u64, stream: StreamId) -> Reply {
        self.poller = Some(poller.to_owned());
        let reply = self.say("gpu-1", epoch, stream);
        self.poller = None;
        reply
    }

    fn on(&mut self, session: u64, stream: StreamId, batch: Batch) -> Reply {
        let Request::Record { sequence, hash, payload, batch, .. } = self.request(1, batch) else {
            panic!("not a record")
        };
        self.apply(Request::Record { session, stream, sequence, hash, payload, batch })
    }
}

#[test]
fn a_poller_and_an_agent_of_a_node_have_sessions_side_by_side() {
    let mut rig = Rig::open();
    let agent = rig.session;
    assert!(matches!(rig.outside("east", 1, OUTSIDE), Reply::Opened(_)));
    let east = rig.session;
    let series = vec![(1, Subject::Energy(wall("east/redfish/wall", None).into()))];
    assert_eq!(rig.apply(Request::Define(east, OUTSIDE, series)), Reply::Done);
    rig.session = agent;
    assert_eq!(rig.record(1, steady(901..906, 1..2)), acked(1));
    assert!(
        matches!(rig.on(east, OUTSIDE, steady(901..906, 1..2)), Reply::Ack { sequence: 1, rejects, .. } if rejects.is_empty())
    );
    rig.session = agent;
    assert_eq!(rig.record(2, steady(906..911, 1..2)), acked(2), "nobody fenced the agent");

    // A newer session of the poller fences the older one, and an older epoch cannot come in.
    rig.session = 100;
    assert!(matches!(rig.outside("east", 2, OUTSIDE), Reply::Opened(_)));
    assert_eq!(rig.on(east, OUTSIDE, steady(906..911, 1..2)), Reply::Refused(Refusal::Fenced));
    assert_eq!(rig.outside("east", 1, OUTSIDE), Reply::Refused(Refusal::Fenced));
    rig.session = agent;
    assert_eq!(rig.record(3, steady(911..916, 1..2)), acked(3));

    let node = rig.book.nodes().remove(0);
    assert_eq!((node.connected, node.session_epoch, node.inventory.agent_version.as_str()), (true, 1, "1.2.3"));
    let pollers: Vec<_> = node.pollers.iter().map(|poller| (poller.name.as_str(), poller.connected)).collect();
    assert_eq!(pollers, [("east", true)]);
    assert_eq!(rig.book.status().streams.iter().filter(|stream| stream.poller.is_some()).count(), 1);
}

#[test]
fn a_stream_belongs_to_who_opened_it_first() {
    let mut rig = Rig::open();
    assert_eq!(rig.outside("east", 1, STREAM), Reply::Refused(Refusal::ForeignStream(STREAM)), "the agent's");
    assert!(matches!(rig.outside("east", 1, OUTSIDE), Reply::Opened(_)));
    assert_eq!(rig.outside("west", 1, OUTSIDE), Reply::Refused(Refusal::ForeignStream(OUTSIDE)), "another poller's");
    assert_eq!(rig.say("gpu-1", 1, OUTSIDE), Reply::Refused(Refusal::ForeignStream(OUTSIDE)), "not the agent's");
    let marks = |rig: &Rig, poller: Option<&str>| {
        let poller = poller.map(|name| name.parse::<PollerName>().expect("a name"));
        rig.book.marks(&"gpu-1".parse().expect("a name"), poller.as_ref(), &[OUTSIDE]).is_some()
    };
    assert_eq!([marks(&rig, Some("east")), marks(&rig, Some("west")), marks(&rig, None)], [true, false, false]);
}

#[test]
fn what_a_poller_says_of_hardware_and_parts_is_not_taken() {
    let mut rig = Rig::open();
    let agents = rig.book.nodes()[0].inventory.clone();
    assert!(matches!(rig.outside("east", 1, OUTSIDE), Reply::Opened(_)));
    assert_eq!(rig.book.nodes()[0].inventory, agents, "the node is what its agent says");
    let session = rig.session;
    let series = vec![
        (1, Subject::Energy(wall("wall", None).into())),
        (2, Subject::Energy(wall("chassis", Some(Layer::Enclosure)).into())),
        (3, energy("rapl/1")),
        (4, Subject::Energy(wall("main", Some(Layer::Site)).into())),
        (5, Subject::Energy(wall("psys", Some(Layer::Board)).into())),
        (6, Subject::NodeMemoryUsed),
    ];
    assert_eq!(rig.apply(Request::Define(session, OUTSIDE, series)), Reply::Done);
    let Reply::Ack { rejects, .. } = rig.on(session, OUTSIDE, steady(901..906, 1..7)) else { panic!("acknowledged") };
    assert_eq!(rejects, [Reject { sequence: 1, reason: RejectReason::UnknownSeries, count: 20 }]);
    assert_eq!(rig.counters.all().get("poller_series_refused_total"), Some(&4));
}

#[test]
fn a_poller_is_known_after_a_restart_and_its_meters_are_among_the_nodes_sources() {
    let mut rig = Rig::open();
    rig.session += 1;
    let mut told = inventory("gpu-1");
    let state =
        SourceState { source: wall("east/redfish/wall", None).into(), unavailable: Some("no answer".to_owned()) };
    told.sources = vec![state.clone()];
    let (boot_time, now) = (BootNanos(rig.now * SECOND), rig.clock());
    let opening = Opening {
        inventory: told,
        poller: Some("east".parse().expect("a name")),
        epoch: 3,
        boot: BootId([9; 16]),
        boot_time,
        wall: now,
        received: now,
        streams: vec![OUTSIDE],
    };
    assert!(matches!(rig.apply(Request::Open(rig.session, Box::new(opening))), Reply::Opened(_)));
    let rig = Rig { now: rig.now, ..Rig::new(Arc::clone(&rig.store)) };
    let node = rig.book.nodes().remove(0);
    assert_eq!(node.sources().collect::<Vec<_>>(), [&state]);
    assert!(!node.pollers[0].connected && node.inventory.sources.is_empty());
}
