//! An explanation: every term of one score, and where every joule of its nodes went.

use super::super::quantity::{UNKNOWN, exact_joules, number};
use super::super::simulated::mark;
use super::{lag, marked_name, sheet};
use joulebook_proto::query::{ExplainResponse, NodeBalance};

/// The terms, then the conservation of every node.
pub(crate) fn explanation(explained: &ExplainResponse) -> String {
    let mut terms = sheet(["term", "formula", "value", "source"].map(str::to_owned).to_vec());
    for term in &explained.terms {
        let value = match (term.microjoules, term.value) {
            (Some(exact), None) => format!("{} J", exact_joules(exact)),
            (_, value @ Some(_)) => format!("{} {}", number(value), term.unit),
            (None, None) => UNKNOWN.to_owned(),
        };
        let name = format!("{}{}", term.name, mark(term.simulated, None));
        terms.add_row(vec![name, term.formula.clone(), value, term.source.clone()]);
    }
    let name = explained.answer.as_ref().map_or_else(|| UNKNOWN.to_owned(), marked_name);
    let mut text = format!("{name}\n{terms}\n");
    for balance in &explained.balances {
        text += &conservation(balance);
    }
    text + "next: the same as numbers for a program: --output json\n"
}

fn conservation(balance: &NodeBalance) -> String {
    let mut accounts = sheet(["account", "name", "energy (µJ)", "parts (µJ)"].map(str::to_owned).to_vec());
    for account in &balance.accounts {
        let parts: Vec<String> = account.parts.iter().map(|(part, energy)| format!("{part} {energy}")).collect();
        let cells = [account.account.clone(), account.name.clone(), account.microjoules.to_string(), parts.join(", ")];
        accounts.add_row(cells.to_vec());
    }
    let wall = match (balance.input_estimated, balance.measured_input_microjoules) {
        (false, _) => "wall",
        (true, 0) => "estimated input",
        (true, _) => "partly estimated input",
    };
    let mut left = format!("{wall} {} µJ", balance.input_microjoules);
    if balance.overcount_microjoules > 0 {
        left += &format!(" + overcount {} µJ", balance.overcount_microjoules);
    }
    let sum: Vec<String> = balance
        .accounts
        .iter()
        .map(|account| match account.name.as_str() {
            "" => format!("{} {}", account.account, account.microjoules),
            name => format!("{} {name} {}", account.account, account.microjoules),
        })
        .collect();
    let sources: Vec<String> =
        balance.source_microjoules.iter().map(|(source, energy)| format!("{source} {energy} µJ")).collect();
    let meters = balance.meters.iter().map(|meter| {
        let wall =
            if meter.wall_seconds > 0.0 { format!(", the wall for {} s", meter.wall_seconds) } else { String::new() };
        let late = meter.lag.as_ref().map_or_else(String::new, |own| format!(", late by {}", lag(own)));
        format!("\nbeside them: {} ({}{wall}{late}) {} µJ", meter.source_id, meter.layer, meter.microjoules)
    });
    let meters: String = meters.collect();
    let platform = match balance.platform_method.as_str() {
        "" | "none" => String::new(),
        method => format!("\nplatform: {}, ± {} µJ", method.replace('_', " "), balance.platform_bound_microjoules),
    };
    format!(
        "\nnode {}{}\n{accounts}\n{left} = Σ {}\nresidual {} µJ{platform}\nsources: {}{meters}\n",
        balance.node,
        mark(balance.simulated, None),
        sum.join(" + "),
        balance.residual_microjoules,
        sources.join(", "),
    )
}
