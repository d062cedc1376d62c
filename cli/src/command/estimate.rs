//! `joulebook estimate`: figures of formulas where nothing is measured, and of remote models; never anything else than estimates.

mod formula;
mod rates;

use super::{version_name, window};
use crate::arguments::{AdminForm, Connection, EstimateArguments, MethodName};
use crate::client;
use crate::failure::Failure;
use crate::output::{json, table};
use formula::Taken;
use jiff::Timestamp;
use joulebook_proto::query::{GetSciRequest, SciAnswer};
use joulebook_sci::estimate::figure::Ranged;
use joulebook_sci::uncertainty::PROFILE;
use serde::Serialize;

pub(crate) use rates::Rated;

/// What stands beside every figure of this command.
pub(crate) const LABEL: &str = "estimated";

/// An estimate, as it is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Estimated {
    /// Always [`LABEL`].
    pub(crate) label: &'static str,
    /// The formula's tool.
    pub(crate) method: String,
    /// The formula, with names of inputs.
    pub(crate) formula: &'static str,
    /// What was put in, and where it comes from.
    pub(crate) inputs: Vec<Input>,
    /// Facility energy of each component.
    pub(crate) components: Vec<Component>,
    /// Facility energy.
    pub(crate) energy_j: Interval,
    /// Operational grams.
    pub(crate) operational_g: Option<f64>,
    /// Embodied grams.
    pub(crate) embodied_g: Option<f64>,
    /// What is known of both.
    pub(crate) carbon_g: Option<Interval>,
    /// Table of uncertainties that the intervals stand on.
    pub(crate) uncertainty_profile: &'static str,
    /// What was measured of the same time.
    pub(crate) measured: Option<Measured>,
    /// Why a field is null.
    pub(crate) not_available: std::collections::BTreeMap<&'static str, String>,
}

/// An input of a formula.
#[derive(Debug, Serialize)]
pub(crate) struct Input {
    /// Its flag.
    pub(crate) name: &'static str,
    /// Its value.
    pub(crate) value: f64,
    /// given, measured or default.
    pub(crate) from: &'static str,
}

/// A component.
#[derive(Debug, Serialize)]
pub(crate) struct Component {
    /// Its name.
    pub(crate) name: &'static str,
    /// Facility energy.
    pub(crate) energy_j: f64,
    /// Always modeled.
    pub(crate) method: &'static str,
}

/// A value with its 95 % interval.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Interval {
    /// The value.
    pub(crate) value: f64,
    /// Lower end.
    pub(crate) low: f64,
    /// Upper end.
    pub(crate) high: f64,
}

impl From<Ranged> for Interval {
    fn from(Ranged { value, low, high }: Ranged) -> Self {
        Self { value, low, high }
    }
}

/// What was measured, beside an estimate: never added to it.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    /// The model version.
    pub(crate) name: String,
    /// How its energy was measured.
    pub(crate) method: String,
    /// Facility energy.
    pub(crate) energy_j: Option<f64>,
    /// Grams, embodied ones included.
    pub(crate) carbon_g: Option<f64>,
    /// Estimated ÷ measured energy.
    pub(crate) energy_ratio: Option<f64>,
    /// Whether the measured energy lies in the estimate's interval.
    pub(crate) within_interval: Option<bool>,
}

pub(crate) async fn answer(
    connection: &Connection,
    arguments: &EstimateArguments,
    now: Timestamp,
) -> Result<String, Failure> {
    let Some(method) = arguments.method else { return rates::answer(connection, arguments, now).await };
    let measured = match &arguments.model {
        Some(_) => Some(measured(connection, arguments, now).await?),
        None => None,
    };
    let estimated = estimate(method, arguments, measured.as_ref())?;
    match arguments.output {
        AdminForm::Table => Ok(table::estimate(&estimated)),
        AdminForm::Json => json::plain(&estimated),
    }
}

fn estimate(
    method: MethodName,
    arguments: &EstimateArguments,
    beside: Option<&SciAnswer>,
) -> Result<Estimated, Failure> {
    let mut taken = Taken::new(&arguments.inputs, beside);
    let figure = formula::figure(method, &mut taken)?;
    let energy = Interval::from(figure.energy_j);
    let mut not_available = std::collections::BTreeMap::new();
    if figure.carbon_g.is_none() {
        for field in ["operational_g", "carbon_g"] {
            not_available.insert(field, "no carbon intensity is given; --grams-per-kwh".to_owned());
        }
    }
    if figure.embodied_g.is_none() {
        let reason = "embodied carbon is not estimated by this formula, or not stated; --server-kg with --gpu-kg or \
                      --chip-cm2";
        not_available.insert("embodied_g", reason.to_owned());
    }
    if beside.is_none() {
        not_available.insert("measured", "no model version is named; --model".to_owned());
    }
    let component = |(name, energy_j)| Component { name, energy_j, method: "modeled" };
    Ok(Estimated {
        label: LABEL,
        method: formula::name(method),
        formula: formula::text(method),
        inputs: taken.inputs,
        components: figure.components.into_iter().map(component).collect(),
        energy_j: energy,
        operational_g: figure.operational_g,
        embodied_g: figure.embodied_g,
        carbon_g: figure.carbon_g.map(Interval::from),
        uncertainty_profile: PROFILE,
        measured: beside.map(|answer| compared(answer, energy)),
        not_available,
    })
}

fn compared(answer: &SciAnswer, estimated: Interval) -> Measured {
    let energy = answer.energy.clone().unwrap_or_default();
    let energy_j = energy.total_j;
    let above = energy_j.filter(|energy| *energy > 0.0);
    Measured {
        name: version_name(answer),
        method: energy.method,
        energy_j,
        carbon_g: answer.carbon.and_then(|carbon| carbon.total_g),
        energy_ratio: above.map(|energy| estimated.value / energy),
        within_interval: energy_j.map(|energy| (estimated.low..=estimated.high).contains(&energy)),
    }
}

/// What was measured of the model version.
async fn measured(
    connection: &Connection,
    arguments: &EstimateArguments,
    now: Timestamp,
) -> Result<SciAnswer, Failure> {
    let selector = arguments.model.clone();
    let name = selector.clone().and_then(|selector| selector.model).unwrap_or_default();
    let question =
        GetSciRequest { window: Some(window(&arguments.period, now)?), selector, ..GetSciRequest::default() };
    let mut answers = client::ask(connection, async |mut client| client.get_sci(question).await).await?.answers;
    match (answers.pop(), answers.as_slice()) {
        (Some(answer), []) => Ok(answer),
        (None, _) => Err(Failure::NotFound(format!("nothing was served of {name}"))),
        (Some(_), _) => Err(Failure::Usage(format!("{name} is several rows; name one version of it"))),
    }
}
