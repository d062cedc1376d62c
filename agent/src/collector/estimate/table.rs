//! Thermal design power by CPU model name: CodeCarbon's table, and how a name is matched.
//!
//! Names are compared as lists of words after dropping what carries no identity. An exact match wins; else the row with
//! the most words that are all in the name, of at least two words with a digit among them. Rows of equal rank that
//! disagree are no match: a guess is not better than the stated default.

use joulebook_units::Milliwatts;
use std::collections::BTreeSet;

/// Version of the package the table is from.
pub const VERSION: &str = "3.3.2";
const TABLE: &str = include_str!("../../data/cpu_power.csv");

/// A row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The part as the table names it.
    pub name: &'static str,
    /// Its thermal design power.
    pub tdp: Milliwatts,
}

/// Finds the row of a CPU model name as `/proc/cpuinfo` gives it.
pub fn find(model: &str) -> Option<Row> {
    let wanted = words(model);
    let mut best: (usize, Vec<Row>) = (0, Vec::new());
    for row in rows() {
        let have = words(row.name);
        let rank = match () {
            () if have == wanted => usize::MAX,
            () if have.len() >= 2 && have.is_subset(&wanted) && names_a_part(&have) => have.len(),
            () => continue,
        };
        if rank > best.0 {
            best = (rank, Vec::new());
        }
        if rank == best.0 {
            best.1.push(row);
        }
    }
    let first = best.1.first()?.clone();
    best.1.iter().all(|row| row.tdp == first.tdp).then_some(first)
}

fn rows() -> impl Iterator<Item = Row> {
    TABLE.lines().filter(|line| !line.starts_with('#')).skip(1).filter_map(|line| {
        let (name, watts) = line.rsplit_once(',')?;
        Some(Row { name: name.trim_matches('"'), tdp: Milliwatts::from_watts(watts.parse().ok()?).ok()? })
    })
}

fn names_a_part(words: &BTreeSet<String>) -> bool {
    words.iter().any(|word| word.chars().any(|c| c.is_ascii_digit()))
}

/// Words that identify a part: lower case, without marks, clock rate, number of cores and words of every name.
fn words(name: &str) -> BTreeSet<String> {
    let name = name.to_lowercase().replace("(r)", " ").replace("(tm)", " ");
    let name = name.split(" with ").next().unwrap_or_default();
    let name = name.split('@').next().unwrap_or_default();
    name.split(|c: char| c.is_whitespace() || c == ',')
        .filter(|word| !word.is_empty() && !matches!(*word, "cpu" | "processor" | "apu"))
        .filter(|word| !word.ends_with("-core") && !word.ends_with("ghz"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watts(model: &str) -> Option<u64> {
        find(model).map(|row| row.tdp.0 / 1_000)
    }

    #[test]
    fn names_of_cpuinfo_find_their_row() {
        assert_eq!(watts("AMD EPYC 7763 64-Core Processor"), Some(280));
        assert_eq!(watts("AMD EPYC 9654 96-Core Processor"), Some(360));
        assert_eq!(watts("Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz"), Some(210));
    }

    #[test]
    fn a_name_without_a_part_number_matches_nothing() {
        assert_eq!(find("AMD EPYC"), None);
        assert_eq!(find("Intel(R) Xeon(R) Processor"), None);
        assert_eq!(find(""), None);
        assert_eq!(find("unknown"), None);
    }

    #[test]
    fn every_row_is_read() {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#')).count() - 1;
        assert_eq!(rows().count(), lines);
    }
}
