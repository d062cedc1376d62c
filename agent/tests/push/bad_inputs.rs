//! Reports that are hostile or broken, over the real socket. Each test is named after its row of the set of bad inputs.

use super::*;
use std::time::Duration;

impl Client {
    /// Sends these bytes and gives what comes back until the connection is closed, one answer a line.
    async fn sends(mut self, bytes: &[u8], ends: bool) -> Vec<serde_json::Value> {
        // The agent may hang up in the middle: that is what some tests are about.
        let _ = self.0.write_all(bytes).await;
        if ends {
            let _ = self.0.shutdown().await;
        }
        let mut answers = Vec::new();
        let mut line = String::new();
        while self.0.read_line(&mut line).await.is_ok_and(|read| read > 0) {
            answers.push(serde_json::from_str(&line).expect("JSON"));
            line.clear();
        }
        answers
    }
}

/// The lines are refused for this reason, nothing is counted, and the next report is.
async fn refuses(lines: &[&[u8]], reason: &str) {
    for line in lines {
        let mut rig = Rig::new(still());
        let answers = rig.client().await.sends(line, true).await;
        let shown = String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
        assert_eq!(answers.len(), 1, "{shown}: {answers:?}");
        assert_eq!((&answers[0]["ok"], &answers[0]["reason"]), (&false.into(), &reason.into()), "{shown}");
        assert_eq!(rig.newest(), None, "{shown}");
        assert_eq!(rig.failures().values().sum::<u64>(), 1, "{shown}");
        rig.client().await.says(&items(1, true, 7)).await.expect("an answer");
        assert_eq!(count(rig.newest(), CountKind::Items), Some(7), "after {shown}");
    }
}

fn line(fields: &str) -> Vec<u8> {
    format!("{{\"seq\":1,\"cumulative\":true,\"model\":\"m\",{fields}}}\n").into_bytes()
}

#[tokio::test]
async fn b38_a_line_without_end_is_cut_at_the_limit_and_the_sender_let_go() {
    let rig = Rig::new(still());
    let mut client = rig.client().await;
    let mut sent = 0;
    // Until the agent hangs up; what lies in the socket's buffer comes on top of the limit.
    while sent < 64 << 20 && client.0.write_all(&[b'x'; 4096]).await.is_ok() {
        sent += 4096;
    }
    assert!(sent < 1 << 20, "{sent} bytes were taken");
    assert_eq!(rig.failures(), [("form", 1)].into());
}

#[tokio::test]
async fn b39_a_compressed_line_is_no_report() {
    refuses(&[b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\n"], "form").await;
}

#[tokio::test(start_paused = true)]
async fn b40_a_line_that_comes_byte_by_byte_is_given_up_after_five_seconds_in_all() {
    let mut rig = Rig::new(still());
    let mut slow = rig.client().await;
    let began = tokio::time::Instant::now();
    let report = items(1, true, 5);
    for byte in report.as_bytes() {
        if slow.0.write_all(&[*byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed() < Duration::from_secs(10), "still taken after {:?}", began.elapsed());
    }
    assert_eq!((rig.newest(), rig.failures()), (None, [("form", 1)].into()));
    // Silence between two lines is none of that.
    let mut patient = rig.client().await;
    for (seq, told) in [(1, 5), (2, 6)] {
        tokio::time::sleep(Duration::from_secs(60)).await;
        patient.says(&items(seq, true, told)).await.expect("an answer");
    }
    assert_eq!(count(rig.newest(), CountKind::Items), Some(6));
}

#[tokio::test]
async fn b41_more_model_versions_than_a_process_may_have_are_refused_and_the_others_go_on() {
    let mut rig = Rig::new(still());
    let report =
        |seq: u64, model: u64| format!(r#"{{"seq":{seq},"cumulative":true,"model":"m{model}","items":{seq}}}"#);
    let mut refused = 0;
    for seq in 1..=40 {
        let answer = rig.client().await.says(&report(seq, seq)).await.expect("an answer");
        refused += u64::from(answer["reason"] == "limit");
    }
    assert_eq!((refused, rig.failures()), (8, [("limit", 8)].into()));
    rig.newest();
    rig.client().await.says(&report(41, 1)).await.expect("an answer");
    assert_eq!(count(rig.newest(), CountKind::Items), Some(41));
}

#[tokio::test]
async fn b42_names_beyond_a_limit_are_refused() {
    let long = format!("{{\"seq\":1,\"cumulative\":true,\"model\":\"{}\",\"items\":1}}\n", "m".repeat(1 << 20));
    let field = line(&format!("\"{}\":1,\"items\":1", "f".repeat(10 << 10)));
    refuses(&[long.as_bytes(), &field], "form").await;
    let name = line(&format!("\"items\":1,\"model_version\":\"{}\"", "v".repeat(257)));
    refuses(&[&name], "value").await;
}

#[tokio::test]
async fn b43_a_sender_cannot_say_that_it_is_another_process_pod_or_node() {
    let fields = ["tenant", "node", "pod", "pid", "namespace", "workload", "target"];
    let lines: Vec<Vec<u8>> = fields.iter().map(|field| line(&format!("\"{field}\":\"other\",\"items\":1"))).collect();
    refuses(&lines.iter().map(Vec::as_slice).collect::<Vec<_>>(), "form").await;
    let mut rig = Rig::new(still());
    rig.client().await.says(&items(1, true, 1)).await.expect("an answer");
    let sample = rig.newest().expect("a sample");
    let own = i32::try_from(std::process::id()).expect("a pid");
    assert_eq!(sample.process.map(|process| process.pid), Some(own), "as the kernel says");
    assert!(sample.service.target.starts_with(&format!("push/{own}@")));
}

#[tokio::test]
async fn b44_a_value_that_is_no_count_refuses_its_report() {
    let no_numbers = ["NaN", "Infinity", "-Infinity", "-1", "1.5", "1e300", "\"7\""]
        .map(|value| line(&format!("\"items\":{value}")));
    refuses(&no_numbers.iter().map(Vec::as_slice).collect::<Vec<_>>(), "form").await;
    let too_much = [line("\"items\":9007199254740993"), line("\"busy_seconds\":1e300"), line("\"busy_seconds\":-1")];
    refuses(&too_much.iter().map(Vec::as_slice).collect::<Vec<_>>(), "value").await;
}

#[tokio::test]
async fn b45_a_cumulative_count_that_fell_counts_its_new_value_and_is_flagged_once() {
    let mut rig = Rig::new(still());
    for (seq, told, counted) in [(1, 100, 100), (2, 30, 130), (3, 31, 131)] {
        rig.client().await.says(&items(seq, true, told)).await.expect("an answer");
        assert_eq!(count(rig.newest(), CountKind::Items), Some(counted));
    }
    assert_eq!(rig.failures(), [("counter_reset", 1)].into());
}

#[tokio::test]
async fn b46_a_report_or_a_field_that_comes_twice_counts_once_or_not_at_all() {
    refuses(&[&line("\"items\":1,\"items\":2")], "form").await;
    let mut rig = Rig::new(still());
    for told in [5, 9] {
        rig.client().await.says(&items(1, true, told)).await.expect("an answer");
    }
    assert_eq!(count(rig.newest(), CountKind::Items), Some(5), "the number of a report is used once");
}

#[tokio::test]
async fn b47_a_line_that_is_damaged_or_something_else_counts_nothing() {
    let good = items(1, true, 5);
    let cut = &good.as_bytes()[..good.len() - 4];
    let utf8 = [&line("\"items\":1")[..20], b"\xff\xfe\n"].concat();
    refuses(&[cut, good.as_bytes(), &utf8, b"<!DOCTYPE html><html>Log in</html>\n", b"GET / HTTP/1.1\n"], "form").await;
}
