//! The inputs of a case in the product's own types: renamed and converted, nothing more.
//!
//! The product counts energy in whole µJ. A case in other units than µJ is counted in the finest decimal part of a µJ in
//! which its energies fit, so that its tolerance tests the rule and not the rounding; a case in µJ is counted in µJ.

use std::collections::BTreeMap;

use joulebook_units::{GramsCo2e, GramsCo2ePerKwh, Joules, Microjoules, Milliwatts, Pue, Share, UnixNanos, Window};

use crate::outputs::Outputs;
use crate::unit::Unit;

/// An input as the case gives it.
#[derive(Debug, Clone)]
pub enum Given {
    Scalar(Option<f64>, Unit),
    Map(BTreeMap<String, Option<f64>>, Unit),
    Names(BTreeMap<String, Option<String>>),
    Nested(BTreeMap<String, BTreeMap<String, Option<f64>>>, Unit),
    Series(Vec<(i64, i64, Option<f64>)>, Unit),
    Points(Vec<(i64, Option<f64>)>, Unit),
    Policy(String),
}

/// Why a rule gave nothing.
#[derive(Debug)]
pub enum Stop {
    /// An input that every output needs is not disclosed.
    Undefined,
    /// The case cannot be asked of the product.
    Wrong(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

pub type Run<T> = Result<T, Stop>;

/// All inputs of a case.
#[derive(Debug)]
pub struct Inputs {
    given: BTreeMap<String, Given>,
    per_microjoule: f64,
}

/// Most counted energy: a tenth of what the product's integer holds, since rules add.
const MOST_COUNTED: f64 = 1e18;
const FINEST: i32 = 9;

impl Inputs {
    pub fn new(given: BTreeMap<String, Given>) -> Result<Self, String> {
        let per_microjoule = resolution(&given)?;
        let functions: std::collections::BTreeSet<String> = BTreeMap::from_iter(given.iter())
            .values()
            .filter_map(|given| given.unit())
            .filter(|unit| unit.functions.len() == 1)
            .flat_map(|unit| unit.functions.clone())
            .collect();
        let sizes = ["parameter", "token"].map(str::to_owned);
        if functions.len() > 1 && !functions.iter().all(|function| sizes.contains(function)) {
            return Err(format!("functional units {functions:?} are mixed"));
        }
        Ok(Self { given, per_microjoule })
    }

    pub fn outputs(&self) -> Outputs {
        Outputs::new(self.per_microjoule)
    }

    pub fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    pub fn policy(&self, name: &str) -> Option<&str> {
        match self.given.get(name) {
            Some(Given::Policy(word)) => Some(word),
            _ => None,
        }
    }

    /// A scalar in `unit`; absent if it is left out or not disclosed.
    pub fn known(&self, name: &str, unit: &str) -> Run<Option<f64>> {
        match self.given.get(name) {
            Some(Given::Scalar(value, from)) => {
                Ok(value.map(|value| from.convert(value, &Unit::parse(unit)?)).transpose()?)
            }
            None => Ok(None),
            other => Err(Stop::Wrong(format!("`{name}` is {other:?}"))),
        }
    }

    /// An optional scalar: absent if left out, undefined if not disclosed.
    pub fn optional(&self, name: &str, unit: &str) -> Run<Option<f64>> {
        match self.known(name, unit)? {
            None if self.has(name) => Err(Stop::Undefined),
            value => Ok(value),
        }
    }

    /// A scalar that the rule cannot do without.
    pub fn number(&self, name: &str, unit: &str) -> Run<f64> {
        self.known(name, unit)?.ok_or(Stop::Undefined)
    }

    pub fn joules(&self, name: &str) -> Run<Joules> {
        self.number(name, "J").map(Joules)
    }

    /// Energy counted in the case's parts of a µJ.
    pub fn energy(&self, name: &str) -> Run<Microjoules> {
        Ok(Microjoules(whole(self.number(name, "uJ")? * self.per_microjoule)?))
    }

    pub fn known_energy(&self, name: &str) -> Run<Option<Microjoules>> {
        let energy = self.known(name, "uJ")?;
        Ok(energy.map(|energy| whole(energy * self.per_microjoule)).transpose()?.map(Microjoules))
    }

    pub fn power(&self, name: &str) -> Run<Milliwatts> {
        self.known_power(name)?.ok_or(Stop::Undefined)
    }

    /// Power in the parts of a mW that go with the case's parts of a µJ.
    pub fn known_power(&self, name: &str) -> Run<Option<Milliwatts>> {
        let power = self.known(name, "W")?;
        Ok(power.map(|power| whole(power * 1e3 * self.per_microjoule)).transpose()?.map(Milliwatts))
    }

    pub fn nanos(&self, name: &str) -> Run<u64> {
        self.known_nanos(name)?.ok_or(Stop::Undefined)
    }

    pub fn known_nanos(&self, name: &str) -> Run<Option<u64>> {
        let seconds = self.known(name, "s")?;
        Ok(seconds.map(|seconds| whole(seconds * 1e9)).transpose()?)
    }

    pub fn grams(&self, name: &str) -> Run<GramsCo2e> {
        self.number(name, "g").map(GramsCo2e)
    }

    pub fn intensity(&self, name: &str) -> Run<GramsCo2ePerKwh> {
        refused(GramsCo2ePerKwh::new(self.number(name, "g/kWh")?))
    }

    pub fn pue(&self, name: &str) -> Run<Pue> {
        refused(Pue::new(self.number(name, "1")?))
    }

    pub fn optional_pue(&self, name: &str) -> Run<Option<Pue>> {
        if self.has(name) { self.pue(name).map(Some) } else { Ok(None) }
    }

    pub fn share(&self, name: &str) -> Run<Share> {
        refused(Share::new(self.number(name, "1")?))
    }

    pub fn flag(&self, name: &str) -> Run<bool> {
        Ok(self.number(name, "bool")? > 0.0)
    }

    /// A map in `unit`, empty if left out. A value that is not disclosed is absent in it.
    pub fn known_map(&self, name: &str, unit: &str) -> Run<BTreeMap<String, Option<f64>>> {
        match self.given.get(name) {
            Some(Given::Map(map, from)) => {
                let to = Unit::parse(unit)?;
                let convert = |value: &Option<f64>| value.map(|value| from.convert(value, &to)).transpose();
                Ok(map.iter().map(|(key, value)| Ok((key.clone(), convert(value)?))).collect::<Result<_, String>>()?)
            }
            None => Ok(BTreeMap::new()),
            other => Err(Stop::Wrong(format!("`{name}` is {other:?}"))),
        }
    }

    /// A map in `unit`, all of whose values the rule needs.
    pub fn map(&self, name: &str, unit: &str) -> Run<BTreeMap<String, f64>> {
        let entries = self.known_map(name, unit)?.into_iter();
        entries.map(|(key, value)| value.map(|value| (key, value)).ok_or(Stop::Undefined)).collect()
    }

    /// A map of whole numbers: of `unit` divided by `parts`.
    pub fn counted(&self, name: &str, unit: &str, parts: f64) -> Run<BTreeMap<String, u64>> {
        let entries = self.map(name, unit)?.into_iter();
        entries.map(|(key, value)| Ok((key, whole(value * parts)?))).collect()
    }

    /// Energies that are known, counted.
    pub fn counted_known(&self, name: &str) -> Run<BTreeMap<String, u64>> {
        let known = self.known_map(name, "uJ")?.into_iter().filter_map(|(key, value)| value.map(|value| (key, value)));
        known.map(|(key, value)| Ok((key, whole(value * self.per_microjoule)?))).collect()
    }

    /// A whole number of µJ.
    pub fn whole_microjoules(&self, name: &str) -> Run<u64> {
        Ok(whole(self.number(name, "uJ")?)?)
    }

    /// A whole number: of `unit` divided by `parts`.
    pub fn whole(&self, name: &str, unit: &str, parts: f64) -> Run<u64> {
        Ok(whole(self.number(name, unit)? * parts)?)
    }

    pub fn energies(&self, name: &str) -> Run<BTreeMap<String, u64>> {
        self.counted(name, "uJ", self.per_microjoule)
    }

    pub fn powers(&self, name: &str) -> Run<BTreeMap<String, u64>> {
        self.counted(name, "W", 1e3 * self.per_microjoule)
    }

    pub fn names(&self, name: &str) -> Run<&BTreeMap<String, Option<String>>> {
        match self.given.get(name) {
            Some(Given::Names(names)) => Ok(names),
            other => Err(Stop::Wrong(format!("`{name}` is {other:?}"))),
        }
    }

    pub fn nested(&self, name: &str, unit: &str) -> Run<BTreeMap<String, BTreeMap<String, f64>>> {
        let Some(Given::Nested(nested, from)) = self.given.get(name) else {
            return Err(Stop::Wrong(format!("`{name}` is not nested")));
        };
        let to = Unit::parse(unit)?;
        let mut converted: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for (outer, inner) in nested {
            let mine = converted.entry(outer.clone()).or_default();
            for (key, value) in inner {
                mine.insert(key.clone(), from.convert(value.ok_or(Stop::Undefined)?, &to)?);
            }
        }
        Ok(converted)
    }

    /// A series in `unit`; a value that is not disclosed is absent.
    pub fn series(&self, name: &str, unit: &str) -> Run<Vec<(Window, Option<f64>)>> {
        let Some(Given::Series(series, from)) = self.given.get(name) else {
            return Err(Stop::Wrong(format!("`{name}` is no series")));
        };
        let to = Unit::parse(unit)?;
        let interval = |(start, end, value): &(i64, i64, Option<f64>)| {
            let window = Window::new(UnixNanos(*start), UnixNanos(*end)).ok_or("an interval ends before it starts")?;
            Ok((window, value.map(|value| from.convert(value, &to)).transpose()?))
        };
        Ok(series.iter().map(interval).collect::<Result<_, String>>()?)
    }

    pub fn energy_series(&self, name: &str) -> Run<Vec<(Window, Option<u64>)>> {
        let counted = |value: Option<f64>| value.map(|value| whole(value * self.per_microjoule)).transpose();
        let series = self.series(name, "uJ")?.into_iter();
        Ok(series.map(|(window, value)| Ok((window, counted(value)?))).collect::<Result<_, String>>()?)
    }

    /// Points of energy or power, counted like scalars of their kind; each is needed.
    pub fn points(&self, name: &str, unit: &str) -> Run<Vec<(i64, u64)>> {
        let Some(Given::Points(points, from)) = self.given.get(name) else {
            return Err(Stop::Wrong(format!("`{name}` are no points")));
        };
        let (to, parts) = (Unit::parse(unit)?, if unit == "W" { 1e3 } else { 1.0 } * self.per_microjoule);
        let mut counted = Vec::new();
        for (at, value) in points {
            counted.push((*at, whole(from.convert(value.ok_or(Stop::Undefined)?, &to)? * parts)?));
        }
        Ok(counted)
    }

    /// Joules on the scale of counted energy, for rules that mix them with it.
    pub fn counted_joules(&self, name: &str) -> Run<Joules> {
        Ok(Joules(self.number(name, "J")? * self.per_microjoule))
    }
}

impl Given {
    fn unit(&self) -> Option<&Unit> {
        match self {
            Self::Scalar(_, unit) | Self::Map(_, unit) | Self::Nested(_, unit) => Some(unit),
            Self::Series(_, unit) | Self::Points(_, unit) => Some(unit),
            Self::Names(_) | Self::Policy(_) => None,
        }
    }

    /// Sum of all values in `unit`, if that is what they are in.
    fn sum(&self, unit: &Unit) -> Result<f64, String> {
        let values: Vec<f64> = match self {
            Self::Scalar(value, _) => value.iter().copied().collect(),
            Self::Map(map, _) => map.values().flatten().copied().collect(),
            Self::Series(series, _) => series.iter().filter_map(|(_, _, value)| *value).collect(),
            Self::Points(points, _) => points.iter().filter_map(|(_, value)| *value).collect(),
            Self::Names(_) | Self::Nested(..) | Self::Policy(_) => Vec::new(),
        };
        match self.unit() {
            Some(from) if from.fits(unit) => from.convert(values.iter().map(|value| value.abs()).sum(), unit),
            _ => Ok(0.0),
        }
    }

    /// Seconds between the first and the last instant.
    fn span(&self) -> f64 {
        let at: Vec<i64> = match self {
            Self::Series(series, _) => series.iter().flat_map(|(start, end, _)| [*start, *end]).collect(),
            Self::Points(points, _) => points.iter().map(|(at, _)| *at).collect(),
            _ => Vec::new(),
        };
        let span = at.iter().max().unwrap_or(&0).saturating_sub(*at.iter().min().unwrap_or(&0));
        std::time::Duration::from_nanos(span.unsigned_abs()).as_secs_f64()
    }
}

/// Counted parts of a µJ: 1 where energy is given in µJ, else the finest decimal part in which all of it fits.
fn resolution(given: &BTreeMap<String, Given>) -> Result<f64, String> {
    let [micro, watt, second] = ["uJ", "W", "s"].map(|text| Unit::parse(text).expect("a unit"));
    if given.values().filter_map(Given::unit).any(|unit| *unit == micro) {
        return Ok(1.0);
    }
    let sum = |unit: &Unit| given.values().map(|given| given.sum(unit)).sum::<Result<f64, String>>();
    let seconds = sum(&second)? + given.values().map(Given::span).sum::<f64>();
    let most = sum(&micro)? + sum(&watt)? * seconds.max(1.0) * 1e6;
    let fits = |parts: &f64| most * parts <= MOST_COUNTED;
    Ok((0..=FINEST).rev().map(|places| 10f64.powi(places)).find(fits).unwrap_or(1.0))
}

fn refused<T>(value: Result<T, joulebook_units::InvalidQuantity>) -> Run<T> {
    value.map_err(|error| Stop::Wrong(error.to_string()))
}

/// The nearest whole number.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "range checked")]
fn whole(value: f64) -> Result<u64, String> {
    if (0.0..1.8e19).contains(&value) { Ok(value.round() as u64) } else { Err(format!("{value} cannot be counted")) }
}

/// Keys of several maps together, in order.
pub fn keys<T>(maps: &[&BTreeMap<String, T>]) -> Vec<String> {
    let all: std::collections::BTreeSet<&String> = maps.iter().flat_map(|map| map.keys()).collect();
    all.into_iter().cloned().collect()
}

/// Values of a map in the order of `keys`; nothing where the map has no such key.
pub fn aligned<T: Copy + Default>(map: &BTreeMap<String, T>, keys: &[String]) -> Vec<T> {
    keys.iter().map(|key| map.get(key).copied().unwrap_or_default()).collect()
}
