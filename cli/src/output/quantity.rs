//! Numbers for reading: a unit that suits a whole column, four significant digits, `unknown` for what is not known.

/// What stands where a value is not known.
pub(crate) const UNKNOWN: &str = "unknown";

/// A unit and how many base units it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Unit {
    /// Symbol for the header.
    pub(crate) symbol: &'static str,
    size: f64,
}

const ENERGY: [Unit; 4] = [
    Unit { symbol: "MJ", size: 1e6 },
    Unit { symbol: "kJ", size: 1e3 },
    Unit { symbol: "J", size: 1.0 },
    Unit { symbol: "mJ", size: 1e-3 },
];
const MASS: [Unit; 5] = [
    Unit { symbol: "kg", size: 1e3 },
    Unit { symbol: "g", size: 1.0 },
    Unit { symbol: "mg", size: 1e-3 },
    Unit { symbol: "µg", size: 1e-6 },
    Unit { symbol: "ng", size: 1e-9 },
];

/// The unit of energy in which the largest of `joules` reads best.
pub(crate) fn energy_unit(joules: impl IntoIterator<Item = Option<f64>>) -> Unit {
    suited(&ENERGY, Unit { symbol: "J", size: 1.0 }, joules)
}

/// The unit of mass in which the largest of `grams` reads best.
pub(crate) fn mass_unit(grams: impl IntoIterator<Item = Option<f64>>) -> Unit {
    suited(&MASS, Unit { symbol: "g", size: 1.0 }, grams)
}

fn suited(units: &[Unit], fallback: Unit, values: impl IntoIterator<Item = Option<f64>>) -> Unit {
    let largest = values.into_iter().flatten().fold(0.0f64, |largest, value| largest.max(value.abs()));
    if largest <= 0.0 {
        return fallback;
    }
    units.iter().find(|unit| largest >= unit.size).or(units.last()).copied().unwrap_or(fallback)
}

/// A value given in base units, in `unit`.
pub(crate) fn show(value: Option<f64>, unit: Unit) -> String {
    number(value.map(|value| value / unit.size))
}

/// A plain number.
pub(crate) fn number(value: Option<f64>) -> String {
    let Some(value) = value else { return UNKNOWN.to_owned() };
    let size = value.abs();
    if size > 0.0 && !(1e-3..1e9).contains(&size) {
        return format!("{value:.3e}");
    }
    let decimals = [(1000.0, 0), (100.0, 1), (10.0, 2), (1.0, 3), (0.1, 4)];
    let decimals = decimals.iter().find(|(from, _)| size >= *from).map_or(5, |(_, decimals)| *decimals);
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A share as a percentage.
pub(crate) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| UNKNOWN.to_owned(), |share| format!("{:.1} %", share * 100.0))
}

/// Whole microjoules, exactly, in joules with six decimals.
pub(crate) fn exact_joules(microjoules: u64) -> String {
    format!("{}.{:06}", microjoules / 1_000_000, microjoules % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_has_the_unit_of_its_largest_value() {
        let unit = energy_unit([Some(2500.0), None, Some(3.0)]);
        assert_eq!(
            (unit.symbol, show(Some(2500.0), unit), show(Some(3.0), unit)),
            ("kJ", "2.5".into(), "0.003".into())
        );
        assert_eq!(mass_unit([Some(4.2e-5)]).symbol, "µg");
        assert_eq!(mass_unit([None]).symbol, "g");
    }

    #[test]
    fn what_is_not_known_is_never_shown_as_zero() {
        assert_eq!((number(None), percent(None)), ("unknown".into(), "unknown".into()));
        assert_eq!(number(Some(0.0)), "0");
    }

    #[test]
    fn energies_are_shown_exactly_to_the_microjoule() {
        assert_eq!(exact_joules(u64::MAX), "18446744073709.551615");
        assert_eq!(exact_joules(1), "0.000001");
    }
}
