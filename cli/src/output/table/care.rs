//! Answers of administration.

use super::sheet;
use jiff::Timestamp;
use joulebook_proto::admin::{BackupInfo, GetStatusResponse, NodeStatus, PollerStatus};

/// Who the aggregator is, one row a node, and its counters.
pub(crate) fn status(status: &GetStatusResponse) -> String {
    let mut text = format!(
        "aggregator {} · database {} · schema {} · {} cells to settle\n",
        status.version, status.cluster_id, status.schema_version, status.dirty_cells
    );
    let header = ["node", "connected", "last row", "acked", "lost records", "refused values", "pollers"];
    let mut nodes = sheet(header.map(str::to_owned).to_vec());
    for node in &status.nodes {
        let sum = |of: fn(&joulebook_proto::admin::StreamStatus) -> u64| node.streams.iter().map(of).sum::<u64>();
        nodes.add_row(vec![
            node.node.clone(),
            if node.connected { "yes" } else { "no" }.to_owned(),
            last_row(node),
            sum(|stream| stream.acked_sequence).to_string(),
            sum(|stream| stream.lost_records).to_string(),
            sum(|stream| stream.rejected_samples).to_string(),
            pollers(node),
        ]);
    }
    text += &format!("{nodes}\n");
    let mut counters: Vec<_> = status.counters.iter().collect();
    counters.sort();
    for (name, count) in counters {
        text += &format!("{name} {count}\n");
    }
    text
}

/// Names of the pollers of a node, and of those that are not connected that they are not.
fn pollers(node: &NodeStatus) -> String {
    let name = |poller: &PollerStatus| match poller.connected {
        true => poller.name.clone(),
        false => format!("{} (not connected)", poller.name),
    };
    node.pollers.iter().map(name).collect::<Vec<_>>().join(", ")
}

fn last_row(node: &NodeStatus) -> String {
    node.last_row_unix_nanos.map_or_else(|| "none".to_owned(), instant)
}

/// One row a backup.
pub(crate) fn backups(backups: &[BackupInfo]) -> String {
    if backups.is_empty() {
        return "there are no finished backups\nnext: joulebook admin backup\n".to_owned();
    }
    let mut table = sheet(["backup", "made", "files", "bytes"].map(str::to_owned).to_vec());
    for backup in backups {
        table.add_row(vec![
            backup.number.to_string(),
            instant(backup.made_unix_nanos),
            backup.files.to_string(),
            backup.bytes.to_string(),
        ]);
    }
    format!("{table}\n")
}

pub(super) fn instant(nanos: i64) -> String {
    let at = Timestamp::from_nanosecond(nanos.into());
    at.map_or_else(|_| format!("{nanos} ns"), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}
