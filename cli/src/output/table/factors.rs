//! Series of factors.

use super::care::instant;
use super::sheet;
use joulebook_proto::admin::FactorSeriesStatus;

/// One row a series, and below them why a source fails.
pub(crate) fn factors(series: &[FactorSeriesStatus]) -> String {
    if series.is_empty() {
        return "there are no series of factors: none is configured, and none was pushed\n".to_owned();
    }
    let header = ["series", "what", "zone", "source", "from", "to", "revisions"];
    let mut table = sheet(header.map(str::to_owned).to_vec());
    let mut failures = String::new();
    for row in series {
        let subject = row.series.clone().unwrap_or_default();
        let words = [&subject.quantity, &subject.kind, &subject.basis];
        let words: Vec<&str> = words.into_iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
        let at = |nanos: Option<i64>| nanos.map_or_else(|| "none".to_owned(), instant);
        table.add_row(vec![
            subject.name.clone(),
            words.join(" "),
            subject.zone,
            if row.provider.is_empty() { subject.source } else { row.provider.clone() },
            at(row.first_unix_nanos),
            at(row.last_unix_nanos),
            row.revisions.to_string(),
        ]);
        if !row.failure.is_empty() {
            let next = at(row.next_unix_nanos);
            failures += &format!("{}: {}; asked again {next}\n", subject.name, row.failure);
        }
    }
    format!("{table}\n{failures}")
}
