//! The units of the cases: the table of tests/golden/README.md. Conversions only; no constant of the product.

use std::fmt;

/// Name, dimension, factor to the dimension's base (µJ, W, s, g, bytes, ratio, devices, units of function).
const ATOMS: &[(&str, &str, f64)] = &[
    ("uJ", "energy", 1.0),
    ("mJ", "energy", 1e3),
    ("J", "energy", 1e6),
    ("kJ", "energy", 1e9),
    ("Wh", "energy", 3.6e9),
    ("kWh", "energy", 3.6e12),
    ("MWh", "energy", 3.6e15),
    ("W", "power", 1.0),
    ("ms", "time", 1e-3),
    ("s", "time", 1.0),
    ("h", "time", 3_600.0),
    ("d", "time", 86_400.0),
    ("g", "mass", 1.0),
    ("kg", "mass", 1e3),
    ("t", "mass", 1e6),
    ("GB", "memory", 1e9),
    ("GiB", "memory", 1_073_741_824.0),
    ("1", "", 1.0),
    ("%", "", 0.01),
    ("bool", "bool", 1.0),
    ("name", "name", 1.0),
    ("GPU", "capacity", 1.0),
    ("slice", "capacity", 1.0),
    ("vCPU", "capacity", 1.0),
    ("core", "capacity", 1.0),
    ("unit", "function", 1.0),
    ("request", "function", 1.0),
    ("token", "function", 1.0),
    ("prompt", "function", 1.0),
    ("inference", "function", 1.0),
    ("image", "function", 1.0),
    ("interaction", "function", 1.0),
    ("FLOP", "function", 1.0),
    ("parameter", "function", 1.0),
];

/// A unit: what it measures and how many base units it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    text: String,
    dimension: String,
    above: f64,
    below: f64,
    /// Functional units that it names, as spelled.
    pub functions: Vec<String>,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.text)
    }
}

impl Unit {
    /// Reads a unit: atoms joined by `*`, a number before them, one `/`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (above, below) = match text.split_once('/') {
            Some((above, below)) => (above, Some(below)),
            None => (text, None),
        };
        let mut functions = Vec::new();
        let (mut dimension, top) = product(text, above, &mut functions)?;
        let mut bottom = 1.0;
        if let Some(below) = below {
            let (under, factor) = product(text, below, &mut functions)?;
            if under.is_empty() {
                return Err(format!("unit `{text}` is not understood"));
            }
            dimension = format!("{dimension}/{under}");
            bottom = factor;
        }
        Ok(Self { text: text.to_owned(), dimension, above: top, below: bottom, functions })
    }

    /// Whether values of one can be given in the other.
    pub fn fits(&self, other: &Self) -> bool {
        self.dimension == other.dimension
    }

    /// A value of this unit in `to`. Equal units leave it as it is, to the last bit.
    pub fn convert(&self, value: f64, to: &Self) -> Result<f64, String> {
        if !self.fits(to) {
            return Err(format!("{self} is no unit of {to}"));
        }
        if self.above.to_bits() == to.above.to_bits() && self.below.to_bits() == to.below.to_bits() {
            return Ok(value);
        }
        Ok(value * (self.above * to.below) / (self.below * to.above))
    }
}

fn product(text: &str, part: &str, functions: &mut Vec<String>) -> Result<(String, f64), String> {
    let (scale, atoms) = match part.split_once(' ') {
        Some((number, atoms)) => (number.parse::<f64>().ok().filter(|scale| *scale > 0.0), atoms),
        None => (Some(1.0), part),
    };
    let mut factor =
        scale.filter(|scale| scale.is_finite()).ok_or_else(|| format!("unit `{text}` is not understood"))?;
    let mut dimensions = Vec::new();
    for atom in atoms.split('*') {
        let found = ATOMS.iter().find(|(name, _, _)| *name == atom);
        let (name, dimension, size) = found.ok_or_else(|| format!("unit `{text}` is not understood"))?;
        factor *= size;
        dimensions.push(*dimension);
        if *dimension == "function" {
            functions.push((*name).to_owned());
        }
    }
    dimensions.sort_unstable();
    Ok((dimensions.join("*"), factor))
}

#[test]
fn units_convert_within_their_dimension_only() {
    let unit = |text| Unit::parse(text).unwrap();
    let convert = |value, from, to| unit(from).convert(value, &unit(to)).unwrap();
    assert!((convert(1.0, "kWh", "kJ") - 3_600.0).abs() < 1e-9);
    assert!((convert(0.4, "kg/kWh", "g/kWh") - 400.0).abs() < 1e-9);
    assert!((convert(1.0, "kg/1e9 token", "g/unit") - 1e-6).abs() < 1e-18);
    assert!((convert(2.0, "GPU*h", "GPU*s") - 7_200.0).abs() < 1e-9);
    assert!((convert(50.0, "%", "1") - 0.5).abs() < 1e-12);
    assert!(unit("kWh").convert(1.0, &unit("W")).is_err());
    for unknown in ["furlong", "g/", "J/1", "1e9token", "x token", "-1 token", "J/s/s", ""] {
        assert!(Unit::parse(unknown).is_err(), "{unknown}");
    }
}
