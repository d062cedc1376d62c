//! What an answer of a BMC means for what is asked next: a document, a new login, a pause, or never again.

use super::route::environment;
use super::value::{ENCLOSURE_CEILING, Skip, text};
use super::{route, sensor};
use joulebook_units::Milliwatts;
use serde_json::Value;
use std::time::Duration;

/// Longest pause that a BMC can ask for.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

/// Why an answer is no document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The session has ended, or name and password are wrong.
    Unauthorised,
    /// Nothing now, but later: after this time, if the BMC says so.
    Later(Option<Duration>),
    /// No further session now.
    SessionLimit,
    /// Never: not there, not licensed, not allowed, or moved elsewhere.
    Permanent,
    /// Not JSON, or nested too deep to be one.
    NotJson,
}

/// Judges an answer.
///
/// # Errors
/// Why it is no document.
pub fn document(status: u16, retry_after: Option<&str>, body: &[u8]) -> Result<Value, Fault> {
    if status == 401 || (status >= 400 && says(body, "NoValidSession")) {
        return Err(Fault::Unauthorised);
    }
    if status >= 400 && is_session_limit(body) {
        return Err(Fault::SessionLimit);
    }
    match status {
        200..=299 => {}
        408 | 425 | 429 | 500 | 502..=599 => {
            let seconds = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
            return Err(Fault::Later(seconds.map(|pause| pause.min(LONGEST_PAUSE))));
        }
        // A redirect is not followed: the credentials are this BMC's.
        _ => return Err(Fault::Permanent),
    }
    // The parser refuses what is nested deeper than 128 levels, and a bare nan.
    let document: Value = serde_json::from_slice(body).map_err(|_| Fault::NotJson)?;
    if document.is_object() { Ok(document) } else { Err(Fault::NotJson) }
}

fn is_session_limit(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    text.contains("sessionlimitexceeded")
        || (text.contains("session")
            && ["maximum number", "limit of", "too many"].iter().any(|word| text.contains(word)))
}

fn says(body: &[u8], word: &str) -> bool {
    String::from_utf8_lossy(body).contains(word)
}

/// The power that one document shows by itself, whichever resource it is.
///
/// # Errors
/// Why it shows none.
pub fn power_of(document: &Value) -> Result<Milliwatts, Skip> {
    if document.get("PowerWatts").is_some() {
        return environment(document, ENCLOSURE_CEILING).map(|shown| shown.power);
    }
    if document.get("PowerControl").is_some() {
        let member = route::whole_member(document).ok_or(Skip::Missing)?;
        return route::consumed(document, member, ENCLOSURE_CEILING);
    }
    if document.get("Reading").is_some() {
        return sensor::power(document, ENCLOSURE_CEILING).map(|shown| shown.power);
    }
    // What has a reading of another name, of a supply say, or a list of members, shows no power of its own.
    match text(document, "PowerConsumedWatts") {
        Some(_) => Err(Skip::Type),
        None => super::value::watts(document.get("PowerConsumedWatts"), ENCLOSURE_CEILING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_nested_too_deep_is_no_document() {
        let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
        let deep = [br#"{"Reading":"#, &deep[..], b"}"].concat();
        assert_eq!(document(200, None, &deep), Err(Fault::NotJson));
    }

    #[test]
    fn a_pause_is_the_one_asked_for_up_to_an_hour() {
        let later = |status, after| document(status, after, b"{}").expect_err("no document");
        assert_eq!(later(429, Some("7")), Fault::Later(Some(Duration::from_secs(7))));
        assert_eq!(later(503, Some("999999")), Fault::Later(Some(LONGEST_PAUSE)));
        assert_eq!(later(503, Some("Wed, 21 Oct 2015 07:28:00 GMT")), Fault::Later(None));
        assert_eq!(
            (later(302, None), later(404, None), later(501, None)),
            (Fault::Permanent, Fault::Permanent, Fault::Permanent)
        );
    }
}
