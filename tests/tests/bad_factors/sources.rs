//! Sources that are down, whose quota is gone, or that do not know the zone.

use super::*;
use joulebook_tests::engine::free_ports;
use std::io::{Read, Write};
use std::net::TcpListener;

/// A server that refuses everything, as a provider of intensities does: of one zone it says that there is none, of others that
/// the quota is gone.
fn refusing() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // It ends with the test's process: it is asked a handful of times.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0u8; 4096];
            let read = stream.read(&mut head).unwrap_or(0);
            let nowhere = String::from_utf8_lossy(&head[..read]).contains("zone=NOWHERE");
            let (status, more, body) = match nowhere {
                true => ("404 Not Found", "", r#"{"message":"Zone NOWHERE does not exist."}"#),
                false => ("429 Too Many Requests", "Retry-After: 7200\r\n", r#"{"message":"quota exceeded"}"#),
            };
            let length = body.len();
            let _gone = write!(
                stream,
                "HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
    });
    port
}

fn series(name: &str, site: &str, zone: &str, port: u16, secret: &Path) -> String {
    format!(
        "[[factor]]\nname = \"{name}\"\nprovider = \"electricity_maps\"\nsites = [\"{site}\"]\nzone = \"{zone}\"\n\
         url = \"http://127.0.0.1:{port}\"\nsecret_file = \"{}\"\n",
        secret.display()
    )
}

#[test]
fn a_source_that_is_down_for_a_week_is_held_for_a_day_then_missing_or_the_table_of_its_kind() {
    let script = Script::ending(midnight(), 8, 1);
    let [closed] = free_ports().unwrap();
    let refusing = refusing();
    let rig = Rig::start(script, |folder| {
        let secret = write(folder, "token", "s3cret");
        std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let tables = "[site.fra]\npue = 1.3\nzone = \"FRA\"\n[site.iad]\npue = 1.2\nzone = \"USA\"\n";
        let production = format!(
            "[[factor]]\nname = \"mix\"\nprovider = \"json\"\nsites = [\"iad\"]\nkind = \"average_production\"\n\
             url = \"http://127.0.0.1:{closed}/mix\"\n"
        );
        [
            tables,
            &series("maps", "fra", "FR", closed, &secret),
            &series("quota", "elsewhere", "DE", refusing, &secret),
            &series("zoneless", "elsewhere", "NOWHERE", refusing, &secret),
            &production,
        ]
        .concat()
    });
    assert!(rig.failure("maps").contains("connecting to 127.0.0.1"), "{}", rig.failure("maps"));
    let quota = rig.failure("quota");
    assert!(quota.contains("429") && quota.contains("quota exceeded") && !quota.contains("s3cret"), "{quota}");
    let next = rig.series("quota").unwrap()["next_unix_nanos"].as_i64().unwrap();
    let pause = next / UnixNanos::PER_SECOND - Timestamp::now().as_second();
    assert!((7000..7300).contains(&pause), "it is left alone as long as it asks: {pause} s");
    let zoneless = rig.failure("zoneless");
    assert!(zoneless.contains("404") && zoneless.contains("does not exist"), "{zoneless}");

    // What it gave on the first day: the week after that it is down.
    let day = format!("start,end,value\n{},{},70\n", text(script.hour(0)), text(script.hour(24)));
    let path = rig.file("day.csv", &day);
    let words = ["factors", "push", "--series", "maps", "--kind", "average-consumption", "--basis", "lifecycle"];
    let of = ["--zone", "FR", "--source", "electricity_maps", path.to_str().unwrap()];
    rig.installation.text(&[&words[..], &of].concat()).unwrap();
    let on = |day: i64| day * 24 + 6..day * 24 + 7;
    let effective = |answer: &Value| number(&answer["intensity"]["effective_g_per_kwh"]);
    let (first, second, third) = (rig.of("chat", on(0), &[]), rig.of("chat", on(1), &[]), rig.of("chat", on(2), &[]));
    assert!(close(effective(&first), 70.0) && !flags(&first).contains(&"stale_intensity"), "{}", first["intensity"]);
    assert!(close(effective(&second), 70.0) && flags(&second).contains(&"stale_intensity"), "{}", second["intensity"]);
    for lost in [&third, &rig.of("chat", on(7), &[])] {
        assert!(lost["sci"]["value"].is_null() && flags(lost).contains(&"intensity_missing"), "{}", lost["sci"]);
        // The table of the country says what is produced: it does not take the place of what is consumed.
        assert!(lost["intensity"]["effective_g_per_kwh"].is_null(), "{}", lost["intensity"]);
    }
    // The whole of it has no score, and says how much is missing and between which grams.
    let whole = rig.of("chat", 0..8 * 24, &[]);
    assert!(whole["sci"]["value"].is_null(), "{}", whole["sci"]);
    let missing = number(&whole["intensity"]["missing_fraction"]);
    assert!(missing > 0.5 && missing < 0.9, "six of eight days: {missing}");

    // Behind a series of produced power stands the table of the same kind, and it says that it is one.
    let code = rig.of("code", on(2), &[]);
    let used = &code["intensity"]["uses"][0];
    assert!(code["sci"]["value"].is_f64(), "{}", code["sci"]);
    assert_eq!(
        (&code["intensity"]["kind"], &used["granularity"], &used["zone"]),
        (&serde_json::json!("average_production"), &serde_json::json!("year"), &serde_json::json!("USA"))
    );
    assert!(used["steps"].to_string().contains("series mix: no value then"), "{used}");
}
