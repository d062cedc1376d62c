//! Wall clocks of nodes that differ from ours.

use super::*;

#[test]
fn a_wrong_wall_clock_is_told_of_and_moves_nothing() {
    let hour = 3_600;
    let decade = 10 * 365 * 86_400;
    for (wrong, skewed, events) in [
        (0, false, 0),
        (2, false, 0),
        (-3, true, 0),
        (599, true, 0),
        (-hour, true, 1),
        (hour, true, 1),
        (decade, true, 1),
        (-decade, true, 1),
    ] {
        let mut rig = Rig::open();
        let wall = rig.clock().plus_seconds(wrong);
        rig.say_at("gpu-1", 1, STREAM, wall);
        let mut batch = steady(901..906, 1..2);
        batch.wall = wall;
        assert_eq!(rig.record(1, batch), acked(1), "{wrong} s");
        assert_eq!(rig.energy("rapl/1"), 5_000_000);
        let told = rig.book.status().nodes[0].clone();
        let last = UnixNanos::from_seconds(BOOTED + 905);
        assert_eq!(told.last_row, Some(last), "placed by our clock");
        assert_eq!(told.clock_skew_nanos, wrong * 1_000_000_000);
        assert_eq!(told.clock_skew_nanos.unsigned_abs() > SKEW_NANOS, skewed);
        assert_eq!(rig.counters.all().get("clock_skew_events_total").copied().unwrap_or(0), events, "{wrong} s");
    }
}
