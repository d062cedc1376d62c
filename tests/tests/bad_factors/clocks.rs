//! Local times over the night in which a clock is set back.

use super::*;
use jiff::civil::Weekday;
use std::fmt::Write;

/// The Sunday on which clocks in Europe were last set back: the last of an October.
fn set_back() -> UnixNanos {
    let today = Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let of = |year: i16| {
        let last = jiff::civil::date(year, 10, 31);
        let days = last.weekday().since(Weekday::Sunday);
        last.checked_sub(jiff::Span::new().days(days)).unwrap()
    };
    let this = of(today.year());
    let sunday = if this < today { this } else { of(today.year() - 1) };
    UnixNanos::from_seconds(sunday.to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second())
}

#[test]
fn local_times_meet_the_hours_that_they_name_and_the_hour_that_is_there_twice_is_not_made_up() {
    // The whole Sunday; its second hour, UTC, is the second one that is called 02:00 in Berlin.
    let sunday = set_back();
    let script = Script::ending(sunday.plus_seconds(DAY), 2, 24);
    let date = text(sunday)[..10].to_owned();
    let rig = Rig::start(script, |folder| {
        let mut local = "start,value\n".to_owned();
        for hour in 0..24 {
            writeln!(local, "{date}T{hour:02}:00:00,{}", 100 + hour).unwrap();
        }
        let mut offset = "start,value\n".to_owned();
        for (time, value) in
            [("01:00:00+02:00", 1), ("02:00:00+02:00", 2), ("02:00:00+01:00", 3), ("03:00:00+01:00", 4)]
        {
            writeln!(offset, "{date}T{time},{}", value * 100).unwrap();
        }
        let [local, offset] = [("local", local), ("offset", offset)].map(|(name, text)| write(folder, name, &text));
        let series = |name: &str, site: &str, path: &Path, more: &str| {
            format!(
                "[[factor]]\nname = \"{name}\"\nprovider = \"csv\"\nsites = [\"{site}\"]\nkind = \"average_consumption\"\n\
                 path = \"{}\"\n{more}",
                path.display()
            )
        };
        let zone = "mapping.time_zone = \"Europe/Berlin\"\n";
        format!(
            "[site.fra]\npue = 1.3\n[site.iad]\npue = 1.2\n{}{}",
            series("local", "fra", &local, zone),
            series("offset", "iad", &offset, "")
        )
    });
    for name in ["local", "offset"] {
        until("both files are read", || rig.series(name).is_some_and(|row| row["revisions"] == 1));
    }
    let rated = |model: &str, hour: i64| {
        let answer = rig.of(model, 24 + hour..25 + hour, &[]);
        let stale = flags(&answer).contains(&"stale_intensity");
        (number(&answer["intensity"]["effective_g_per_kwh"]), stale)
    };
    // UTC: 23:00 is 01:00 there, 00:00 is the first 02:00, 01:00 the second, 02:00 is 03:00.
    for (hour, expected, stale) in [(-1, 101.0, false), (0, 102.0, false), (1, 102.0, true), (2, 103.0, false)] {
        let (found, held) = rated("chat", hour);
        assert!(close(found, expected) && held == stale, "{hour}: {found} g/kWh, held {held}");
    }
    for (hour, expected) in [(-1, 100.0), (0, 200.0), (1, 300.0), (2, 400.0)] {
        let (found, held) = rated("embed", hour);
        assert!(close(found, expected) && !held, "{hour}: {found} g/kWh, held {held}");
    }
}
