//! Two scores side by side.

use super::sheet;
use crate::command::compare::Compared;
use crate::output::quantity::number;

/// One row each, and what the second is of the first.
pub(crate) fn comparison(compared: &Compared) -> String {
    let mut table = sheet(vec!["model version".to_owned(), compared.unit.clone(), "95 % interval".to_owned()]);
    for (name, [value, low, high]) in compared.names.iter().zip(compared.scores) {
        let interval = format!("{} … {}", number(Some(low)), number(Some(high)));
        table.add_row(vec![name.clone(), number(Some(value)), interval]);
    }
    let [first, second] = &compared.names;
    let doubt = match compared.within_intervals {
        true => "; the intervals overlap: it may be no difference",
        false => "",
    };
    let named = match compared.normalised.as_slice() {
        [] => String::new(),
        differences => format!("normalised; as they were asked they differ in {}\n", differences.join("; ")),
    };
    format!("{table}\n{second} is {} × {first}{doubt}\n{named}", number(Some(compared.ratio)))
}
