//! What a name stood for.

use super::super::quantity::UNKNOWN;
use super::sheet;
use jiff::Timestamp;
use joulebook_proto::query::{AliasEpoch, GetAliasHistoryResponse};

/// Characters of a digest that are shown.
const SHOWN: usize = 12;

/// What the name stood for at an instant, if one was asked for, and its history.
pub(crate) fn alias(
    name: &str,
    at: Option<&str>,
    moment: Option<&[AliasEpoch]>,
    history: &GetAliasHistoryResponse,
) -> String {
    let mut text = String::new();
    if let (Some(at), Some(moment)) = (at, moment) {
        for epoch in moment {
            text += &format!("at {at} {name} was {}\n", standing(epoch));
        }
        if moment.is_empty() {
            text += &format!("at {at} nothing was counted as {name} within a day before\n");
        }
    }
    if history.epochs.is_empty() {
        return text + "nothing was counted under this name in the window\nnext: joulebook sci --last 24h\n";
    }
    let header = ["from", "to", "version", "by", "weights", "set-up", "engine", "target", "node"];
    let mut table = sheet(header.map(str::to_owned).to_vec());
    for epoch in &history.epochs {
        table.add_row([
            instant(epoch.start_unix_nanos),
            instant(epoch.end_unix_nanos),
            known(epoch.version.as_deref()),
            epoch.version_source.clone(),
            short(epoch.weights.as_deref()),
            short(epoch.serving_config.as_deref()),
            epoch.engine.clone(),
            epoch.target.clone(),
            epoch.node.clone(),
        ]);
    }
    text + &format!("{table}\n{} epochs of {name} · known to {} s\n", history.epochs.len(), history.resolution_seconds)
}

fn standing(epoch: &AliasEpoch) -> String {
    let mut parts = vec![format!("version {} (by {})", known(epoch.version.as_deref()), epoch.version_source)];
    let more = [
        ("weights", &epoch.weights),
        ("of", &epoch.base),
        ("revision", &epoch.revision),
        ("set up as", &epoch.serving_configuration),
    ];
    parts.extend(more.iter().filter_map(|(word, value)| value.as_ref().map(|value| format!("{word} {value}"))));
    format!(
        "{} at {} ({}) on {}, counted from {} to {}",
        parts.join(", "),
        epoch.target,
        epoch.engine,
        epoch.node,
        instant(epoch.start_unix_nanos),
        instant(epoch.end_unix_nanos)
    )
}

fn known(value: Option<&str>) -> String {
    value.unwrap_or(UNKNOWN).to_owned()
}

fn short(digest: Option<&str>) -> String {
    let hex = digest.map(|digest| digest.rsplit(':').next().unwrap_or(digest).chars().take(SHOWN).collect());
    hex.unwrap_or_else(|| UNKNOWN.to_owned())
}

fn instant(nanos: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanos)).map_or_else(|_| UNKNOWN.to_owned(), |time| time.to_string())
}
