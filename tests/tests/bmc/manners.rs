//! Rows B28 to B31, and what else a BMC may expect of a guest: few logins, few sessions, no hurry, no password for
//! strangers.

use joulebook_agent::collector::Collector;
use joulebook_agent::collector::redfish::gate::Limits;
use joulebook_aggregator::certificate::Subject;
use joulebook_hwsim::redfish::fault::Fault;
use joulebook_hwsim::redfish::shape::Shape;
use joulebook_tests::tls::{Ca, replace};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;

use crate::rig::{Heard, INTERVAL, Rig, boot, fingerprint, first_failure, shows, until};

/// Time in which a collector that does not wait would have asked often.
const LONG: Duration = INTERVAL.saturating_mul(15);

/// Reads for a while.
fn for_a_while(collector: &mut joulebook_agent::collector::redfish::Redfish, heard: &mut Heard) {
    let begin = boot();
    until(collector, heard, |_| boot() - begin > LONG);
}

#[test]
fn b28_a_rotated_password_is_read_from_its_file_once_and_a_wrong_one_is_not_tried_again() {
    let rig = Rig::new();
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| heard.readings.len() > 2);
    assert_eq!(rig.bmc.logins().len(), 1, "one session for all requests");
    // Rotated at the BMC and in the file: the next request is refused, and the new password works at once.
    rig.write_password("second");
    rig.bmc.set_password("second");
    let count = heard.readings.len();
    until(&mut collector, &mut heard, |heard| heard.readings.len() > count + 3);
    assert_eq!((rig.bmc.logins().len(), heard.reasons()), (2, Vec::new()));
    // Rotated at the BMC only: one login, refused, and then a pause of at least a minute.
    rig.bmc.set_password("third");
    until(&mut collector, &mut heard, |heard| heard.reasons().contains(&"unauthorised"));
    for_a_while(&mut collector, &mut heard);
    assert_eq!(rig.bmc.logins().len(), 3, "{:?}", rig.bmc.logins());
    assert_eq!(heard.reasons().iter().filter(|reason| **reason == "unauthorised").count(), 1, "told once");
    assert!(heard.failures.iter().all(|failure| !failure.why.contains("second")), "no password in a message");
}

#[test]
fn b28_after_the_pause_the_new_password_is_taken_from_the_file() {
    let mut rig = Rig::new();
    rig.section.limits = Limits { pause: LONG, ..Limits::default() };
    rig.bmc.set_password("second");
    let mut collector = rig.start();
    assert_eq!(first_failure(&mut collector).reason, "unauthorised");
    rig.write_password("second");
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| !heard.readings.is_empty());
    let logins = rig.bmc.logins();
    assert_eq!(logins.len(), 2);
    assert!(logins[1].at - logins[0].at >= LONG, "{logins:?}");
}

#[test]
fn b28_sessions_that_end_at_once_cost_five_logins_and_no_more() {
    let rig = Rig::new();
    // The BMC makes sessions and knows none of them a moment later.
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| !heard.readings.is_empty());
    for _ in 0..8 {
        rig.bmc.set_password("first");
        // A value may have been on its way.
        let count = heard.readings.len();
        let enough = |heard: &Heard| heard.readings.len() > count + 2 || heard.reasons().contains(&"stale");
        until(&mut collector, &mut heard, enough);
    }
    for_a_while(&mut collector, &mut heard);
    assert_eq!(rig.bmc.logins().len(), 5, "{:?}", rig.bmc.logins());
}

#[test]
fn b29_a_full_table_of_sessions_is_left_alone_for_a_minute() {
    let rig = Rig::new();
    rig.fault(Fault::SessionLimit);
    let mut collector = rig.start();
    assert_eq!(first_failure(&mut collector).reason, "session_limit");
    for_a_while(&mut collector, &mut Heard::default());
    assert_eq!(rig.bmc.logins().len(), 1);
    assert_eq!(rig.bmc.asked().len(), 1, "nothing else is asked meanwhile");
}

#[test]
fn b29_a_hundred_starts_leave_no_session_behind() {
    let rig = Rig::new();
    for _ in 0..100 {
        let mut collector = rig.start();
        let mut heard = Heard::default();
        until(&mut collector, &mut heard, |heard| !heard.readings.is_empty());
        drop(collector);
        assert_eq!(rig.bmc.sessions().0, 0);
    }
    let (now, most) = rig.bmc.sessions();
    assert!(now == 0 && most <= 2, "{now} sessions, at most {most}");
}

#[test]
fn b30_a_certificate_that_nothing_vouches_for_is_refused_before_a_password_is_sent() {
    let mut rig = Rig::new();
    let strange = Ca::new();
    // Another certificate than the pinned one.
    rig.section.fingerprint = Some(fingerprint(&strange.server()));
    let failure = first_failure(&mut rig.start());
    assert_eq!(failure.reason, "certificate");
    assert!(failure.why.contains("not the configured"), "{failure}");
    // A CA that did not issue it.
    rig.section.fingerprint = None;
    rig.section.ca = Some(rig.path("ca.pem"));
    replace(&rig.path("ca.pem"), strange.certificate());
    assert_eq!(first_failure(&mut rig.start()).reason, "certificate");
    // The right CA, and the wrong name.
    let other = Subject::server("elsewhere", &["elsewhere.example"], &[]);
    rig.bmc.set_certificate(shows(&rig.ca.issue(&other)));
    replace(&rig.path("ca.pem"), rig.ca.certificate());
    assert_eq!(first_failure(&mut rig.start()).reason, "certificate");
    assert_eq!(rig.bmc.asked(), [], "nothing was asked, no password was sent");
    // The right CA and the right name.
    rig.bmc.set_certificate(shows(&rig.ca.server()));
    let mut heard = Heard::default();
    until(&mut rig.start(), &mut heard, |heard| !heard.readings.is_empty());
}

#[test]
fn b30_the_danger_is_explicit_and_stands_in_the_source() {
    let mut rig = Rig::new();
    rig.section.fingerprint = None;
    assert!(rig.section.settings().is_none(), "there is no silent insecure");
    rig.section.danger_accept_any_certificate = true;
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| !heard.readings.is_empty());
    let states = collector.discover();
    assert!(states[0].source.basis.contains("certificate not verified"), "{states:?}");
}

#[test]
fn b30_a_certificate_that_changes_is_refused_and_named() {
    let rig = Rig::new();
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| !heard.readings.is_empty());
    let another = rig.ca.server();
    rig.bmc.set_certificate(shows(&another));
    // The connection that is there is cut: the next one meets the new certificate.
    rig.fault(Fault::ResetConnection);
    until(&mut collector, &mut heard, |heard| heard.reasons().contains(&"certificate"));
    let failure = heard.failures.iter().find(|failure| failure.reason == "certificate").expect("it is there");
    assert!(failure.why.contains(&fingerprint(&another)), "{failure}");
}

#[test]
fn b31_no_redirect_is_followed() {
    let rig = Rig::new();
    let met = Arc::new(AtomicU64::new(0));
    let listener = rig.block_on(TcpListener::bind("127.0.0.1:0")).expect("a port");
    let stranger = listener.local_addr().expect("an address");
    let counted = Arc::clone(&met);
    rig.spawn(async move {
        while listener.accept().await.is_ok() {
            counted.fetch_add(1, Ordering::SeqCst);
        }
    });
    for to in
        [format!("https://{stranger}/x"), format!("http://{stranger}/x"), "http://169.254.169.254/latest".to_owned()]
    {
        rig.fault(Fault::Redirect(to));
        let failure = first_failure(&mut rig.start());
        assert_eq!(failure.reason, "not_supported", "{failure}");
    }
    assert_eq!(met.load(Ordering::SeqCst), 0, "nobody else was asked");
    assert!(rig.bmc.asked().iter().any(|asked| asked.status == 302));
}

#[test]
fn a_slow_bmc_costs_a_row_nothing() {
    let mut rig = Rig::new();
    rig.section.request_timeout = INTERVAL * 2;
    rig.fault(Fault::Slow(5_000));
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| heard.failures.len() >= 2);
    assert!(heard.reasons().iter().all(|reason| *reason == "timeout"), "{:?}", heard.reasons());
    assert!(heard.longest < Duration::from_millis(500), "{:?}", heard.longest);
    // One that takes its time within the limit is read all the same.
    rig.fault(Fault::Slow(20));
    rig.section.request_timeout = Duration::from_secs(10);
    until(&mut rig.start(), &mut heard, |heard| heard.readings.len() > 2);
}

#[test]
fn retry_after_is_honoured() {
    let rig = Rig::with(Shape::plain(), |_| {});
    for fault in [Fault::Unavailable(Some(1)), Fault::TooMany(1)] {
        rig.fault(fault);
        let before = rig.bmc.asked().len();
        let mut collector = rig.start();
        let mut heard = Heard::default();
        until(&mut collector, &mut heard, |heard| heard.reasons().len() == 2);
        assert_eq!(heard.reasons(), ["busy", "busy"]);
        let asked = rig.bmc.asked();
        assert!(asked[before + 1].at - asked[before].at >= Duration::from_secs(1), "{asked:?}");
    }
}

#[test]
fn a_bmc_without_sessions_is_asked_with_name_and_password() {
    let rig = Rig::with(Shape::plain(), |options| options.sessions = false);
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| heard.readings.len() > 2);
    assert_eq!(rig.bmc.logins().len(), 1, "sessions are tried once");
    assert_eq!(heard.reasons(), Vec::<&str>::new());
}

#[test]
fn connections_that_are_closed_or_reset_are_made_anew() {
    let rig = Rig::new();
    let mut collector = rig.start();
    let mut heard = Heard::default();
    until(&mut collector, &mut heard, |heard| heard.readings.len() > 2);
    for fault in [Fault::ResetConnection, Fault::Refuse] {
        rig.fault(fault);
        let failures = heard.failures.len();
        until(&mut collector, &mut heard, |heard| heard.failures.len() > failures);
        rig.bmc.set_fault(None);
        let count = heard.readings.len();
        until(&mut collector, &mut heard, |heard| heard.readings.len() > count + 2);
    }
    assert_eq!(rig.bmc.logins().len(), 1, "the session outlives its connection");
}
