//! What a rule gave, each with the unit that the product gave it in.

use std::collections::BTreeMap;

use joulebook_units::{GramsCo2e, Joules, Microjoules, Milliwatts};

use crate::unit::Unit;

/// A value and its unit.
#[derive(Debug, Clone)]
pub enum Shape {
    Scalar(Option<f64>, &'static str),
    Map(BTreeMap<String, Option<f64>>, &'static str),
    List(Vec<Option<f64>>, &'static str),
    Names(Vec<String>),
}

/// Outputs of a rule by name.
#[derive(Debug, Clone)]
pub struct Outputs {
    values: BTreeMap<&'static str, Shape>,
    /// How many counted units of energy a µJ has in this case.
    per_microjoule: f64,
    undefined: bool,
}

impl Outputs {
    pub fn new(per_microjoule: f64) -> Self {
        Self { values: BTreeMap::new(), per_microjoule, undefined: false }
    }

    /// Every output is undefined: an input that all need is not disclosed.
    pub fn undefined() -> Self {
        Self { undefined: true, ..Self::new(1.0) }
    }

    pub fn get(&self, name: &str) -> Option<&Shape> {
        self.values.get(name)
    }

    pub fn set(mut self, name: &'static str, value: impl Into<Option<f64>>, unit: &'static str) -> Self {
        self.values.insert(name, Shape::Scalar(value.into(), unit));
        self
    }

    pub fn flag(self, name: &'static str, value: bool) -> Self {
        self.set(name, f64::from(u8::from(value)), "bool")
    }

    /// Energy that was counted in the case's own parts of a µJ.
    pub fn energy(self, name: &'static str, value: impl Into<Option<Microjoules>>) -> Self {
        let value = value.into().map(|energy| self.in_microjoules(energy.0));
        self.set(name, value, "uJ")
    }

    pub fn power(self, name: &'static str, value: impl Into<Option<Milliwatts>>) -> Self {
        let value = value.into().map(|power| power.to_watts() / self.per_microjoule);
        self.set(name, value, "W")
    }

    /// Joules that the product derived from counted energy.
    pub fn counted_joules(self, name: &'static str, value: impl Into<Option<Joules>>) -> Self {
        let value = value.into().map(|energy| energy.0 / self.per_microjoule);
        self.set(name, value, "J")
    }

    /// Grams that the product derived from counted energy.
    pub fn counted_grams(self, name: &'static str, value: impl Into<Option<GramsCo2e>>) -> Self {
        let value = value.into().map(|grams| grams.0 / self.per_microjoule);
        self.set(name, value, "g")
    }

    pub fn counted_joules_per_unit(self, name: &'static str, value: Option<Joules>) -> Self {
        let value = value.map(|energy| energy.0 / self.per_microjoule);
        self.set(name, value, "J/unit")
    }

    pub fn counted_grams_map(
        self,
        name: &'static str,
        keys: &[String],
        values: impl IntoIterator<Item = Option<GramsCo2e>>,
    ) -> Self {
        let parts = self.per_microjoule;
        self.set_map(name, keys, values.into_iter().map(|value| value.map(|grams| grams.0 / parts)), "g")
    }

    /// Energy of one second as the power it is.
    pub fn energy_as_power(self, name: &'static str, value: Microjoules) -> Self {
        let value = value.to_joules().0 / self.per_microjoule;
        self.set(name, value, "W")
    }

    pub fn energies_as_powers(self, name: &'static str, keys: &[String], values: &[u64]) -> Self {
        let parts = self.per_microjoule;
        let values = values.iter().map(|value| Some(Microjoules(*value).to_joules().0 / parts));
        self.set_map(name, keys, values, "W")
    }

    pub fn joules(self, name: &'static str, value: impl Into<Option<Joules>>) -> Self {
        let value = value.into().map(|energy| energy.0);
        self.set(name, value, "J")
    }

    pub fn grams(self, name: &'static str, value: impl Into<Option<GramsCo2e>>) -> Self {
        let value = value.into().map(|grams| grams.0);
        self.set(name, value, "g")
    }

    pub fn map(&self, name: &str, unit: &Unit) -> Result<Option<BTreeMap<String, Option<f64>>>, String> {
        match self.values.get(name) {
            None if self.undefined => Ok(None),
            Some(Shape::Map(map, from)) => {
                let from = Unit::parse(from)?;
                let convert = |value: &Option<f64>| value.map(|value| from.convert(value, unit)).transpose();
                let entries = map.iter().map(|(key, value)| Ok((key.clone(), convert(value)?)));
                entries.collect::<Result<_, String>>().map(Some)
            }
            Some(Shape::Scalar(None, _)) => Ok(None),
            other => Err(format!("the rule gives {other:?}, not a map")),
        }
    }

    pub fn scalar(&self, name: &str, unit: &Unit) -> Result<Option<f64>, String> {
        match self.values.get(name) {
            None if self.undefined => Ok(None),
            Some(Shape::Scalar(value, from)) => {
                let from = Unit::parse(from)?;
                value.map(|value| from.convert(value, unit)).transpose()
            }
            other => Err(format!("the rule gives {other:?}, not a scalar")),
        }
    }

    pub fn list(&self, name: &str, unit: &Unit) -> Result<Option<Vec<Option<f64>>>, String> {
        match self.values.get(name) {
            None if self.undefined => Ok(None),
            Some(Shape::List(values, from)) => {
                let from = Unit::parse(from)?;
                let convert = |value: &Option<f64>| value.map(|value| from.convert(value, unit)).transpose();
                values.iter().map(convert).collect::<Result<_, String>>().map(Some)
            }
            Some(Shape::Scalar(None, _)) => Ok(None),
            other => Err(format!("the rule gives {other:?}, not a list")),
        }
    }

    pub fn set_map(
        mut self,
        name: &'static str,
        keys: &[String],
        values: impl IntoIterator<Item = Option<f64>>,
        unit: &'static str,
    ) -> Self {
        let map = keys.iter().cloned().zip(values).collect();
        self.values.insert(name, Shape::Map(map, unit));
        self
    }

    pub fn energies(self, name: &'static str, keys: &[String], values: &[u64]) -> Self {
        let values: Vec<_> = values.iter().map(|value| Some(self.in_microjoules(*value))).collect();
        self.set_map(name, keys, values, "uJ")
    }

    pub fn powers(self, name: &'static str, keys: &[String], values: &[u64]) -> Self {
        let values: Vec<_> =
            values.iter().map(|value| Some(Milliwatts(*value).to_watts() / self.per_microjoule)).collect();
        self.set_map(name, keys, values, "W")
    }

    pub fn energy_list(mut self, name: &'static str, values: impl IntoIterator<Item = Option<u64>>) -> Self {
        let values = values.into_iter().map(|value| value.map(|value| self.in_microjoules(value))).collect();
        self.values.insert(name, Shape::List(values, "uJ"));
        self
    }

    pub fn names(mut self, name: &'static str, values: Vec<String>) -> Self {
        self.values.insert(name, Shape::Names(values));
        self
    }

    #[allow(clippy::cast_precision_loss, reason = "a conversion of units")]
    fn in_microjoules(&self, counted: u64) -> f64 {
        counted as f64 / self.per_microjoule
    }
}
