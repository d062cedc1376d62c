//! Remote models, of which a gateway knows what they delivered and nobody here knows the energy: rated by grams per unit that
//! their provider publishes, or that somebody estimates. Never added to what is measured.

use super::{Interval, LABEL};
use crate::arguments::{AdminForm, Connection, EstimateArguments};
use crate::client;
use crate::command::window;
use crate::failure::Failure;
use crate::output::{json, table};
use jiff::Timestamp;
use joulebook_proto::query::{EnergyBy, EnergyRow, FunctionalUnit, GetEnergyRequest};
use joulebook_sci::estimate::figure::rated;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A rate of the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    /// Model as gateways name it.
    model: String,
    /// Only at this endpoint.
    endpoint: Option<String>,
    /// Functional unit.
    unit: Unit,
    /// Grams of CO2e per unit.
    grams_per_unit: f64,
    /// Half-width of the 95 % interval as a share of it.
    half_width: f64,
    /// Who says so.
    kind: Kind,
    /// Where it is said.
    document: String,
}

/// Units that gateways count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Unit {
    Request,
    InputToken,
    OutputToken,
    TotalToken,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    ProviderPublished,
    Estimated,
}

impl Unit {
    const ALL: [Self; 4] = [Self::Request, Self::InputToken, Self::OutputToken, Self::TotalToken];

    fn wire(self) -> FunctionalUnit {
        match self {
            Self::Request => FunctionalUnit::Request,
            Self::InputToken => FunctionalUnit::InputToken,
            Self::OutputToken => FunctionalUnit::OutputToken,
            Self::TotalToken => FunctionalUnit::TotalToken,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::InputToken => "input_token",
            Self::OutputToken => "output_token",
            Self::TotalToken => "total_token",
        }
    }
}

/// What remote models delivered, rated.
#[derive(Debug, Serialize)]
pub(crate) struct Rated {
    /// Always [`LABEL`].
    pub(crate) label: &'static str,
    /// One a consumer, model and endpoint.
    pub(crate) delivered: Vec<Delivered>,
    /// Sum of what is rated; null where anything is not.
    pub(crate) carbon_g: Option<Interval>,
    /// Why it is null.
    pub(crate) null_reason: Option<String>,
}

/// What one model delivered to one consumer.
#[derive(Debug, Serialize)]
pub(crate) struct Delivered {
    /// Consumer, as kind and name; "" if none is known.
    pub(crate) consumer: String,
    /// Model.
    pub(crate) model: String,
    /// Endpoint.
    pub(crate) endpoint: String,
    /// Unit of the rate.
    pub(crate) unit: Option<&'static str>,
    /// How many.
    pub(crate) units: Option<f64>,
    /// Grams.
    pub(crate) carbon_g: Option<Interval>,
    /// provider_published or estimated.
    pub(crate) method: Option<&'static str>,
    /// Where the rate is said.
    pub(crate) document: Option<String>,
    /// Why there are no grams.
    pub(crate) null_reason: Option<String>,
}

pub(super) async fn answer(
    connection: &Connection,
    arguments: &EstimateArguments,
    now: Timestamp,
) -> Result<String, Failure> {
    let path = arguments.rates.as_ref().ok_or_else(|| Failure::Usage("name a --method or --rates".to_owned()))?;
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("reading {}: {error}", path.display())))?;
    let rates = parse(&text).map_err(|why| Failure::Usage(format!("{}: {why}", path.display())))?;
    let window = window(&arguments.period, now)?;
    // One question a unit: each row has the units that it was asked for.
    let asked = client::ask(connection, async |mut client| {
        let mut rows = Vec::new();
        for unit in Unit::ALL {
            let question = GetEnergyRequest {
                window: Some(window),
                by: EnergyBy::Consumer.into(),
                functional_unit: Some(unit.wire().into()),
                ..GetEnergyRequest::default()
            };
            rows.push((unit, client.get_energy(question).await?.into_inner().rows));
        }
        Ok(tonic::Response::new(rows))
    });
    let rated = rate(&rates, &asked.await?);
    match arguments.output {
        AdminForm::Table => Ok(table::rated(&rated)),
        AdminForm::Json => json::plain(&rated),
    }
}

fn parse(text: &str) -> Result<Vec<Rate>, String> {
    let rates: Vec<Rate> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for rate in &rates {
        let refused = |what: &str| Err(format!("the rate of {}: {what}", rate.model));
        if !(rate.grams_per_unit.is_finite() && rate.grams_per_unit >= 0.0) {
            return refused("grams_per_unit must be 0 or more");
        }
        if !(rate.half_width.is_finite() && rate.half_width > 0.0) {
            return refused("half_width must be above 0: nobody knows such a rate exactly");
        }
        if rate.document.trim().is_empty() {
            return refused("document must say where it comes from");
        }
        let same = |other: &&Rate| other.model == rate.model && other.endpoint == rate.endpoint;
        if rates.iter().filter(same).count() > 1 {
            return refused("there are two of it");
        }
    }
    Ok(rates)
}

fn column<'a>(row: &'a EnergyRow, name: &str) -> &'a str {
    row.key.iter().find(|part| part.name == name).map_or("", |part| part.value.as_str())
}

fn rate(rates: &[Rate], asked: &[(Unit, Vec<EnergyRow>)]) -> Rated {
    let place = |row: &EnergyRow| ["kind", "consumer", "model", "endpoint"].map(|name| column(row, name).to_owned());
    let remote = |row: &&EnergyRow| column(row, "account") == "remote";
    let places: BTreeSet<[String; 4]> =
        asked.iter().flat_map(|(_, rows)| rows.iter().filter(remote).map(place)).collect();
    let delivered: Vec<Delivered> = places
        .into_iter()
        .map(|at| {
            let [kind, consumer, model, endpoint] = &at;
            let of_model = || rates.iter().filter(|rate| rate.model == *model);
            let exact = of_model().find(|rate| rate.endpoint.as_ref() == Some(endpoint));
            let rate = exact.or_else(|| of_model().find(|rate| rate.endpoint.is_none()));
            let rows = rate.and_then(|rate| asked.iter().find(|(unit, _)| *unit == rate.unit)).map(|(_, rows)| rows);
            let units = rows.and_then(|rows| rows.iter().filter(remote).find(|row| place(row) == at)?.units);
            let grams = rate.zip(units).map(|(rate, units)| rated(units, rate.grams_per_unit, rate.half_width));
            let null_reason = match (rate, units) {
                (None, _) => Some("no rate is given for it".to_owned()),
                (Some(rate), None) => Some(format!("its gateway does not tell {}s", rate.unit.name())),
                _ => None,
            };
            Delivered {
                consumer: format!("{kind} {consumer}").trim().to_owned(),
                model: model.clone(),
                endpoint: endpoint.clone(),
                unit: rate.map(|rate| rate.unit.name()),
                units,
                carbon_g: grams.map(Interval::from),
                method: rate.map(|rate| match rate.kind {
                    Kind::ProviderPublished => "provider_published",
                    Kind::Estimated => "estimated",
                }),
                document: rate.map(|rate| rate.document.clone()),
                null_reason,
            }
        })
        .collect();
    let known: Option<Vec<Interval>> = delivered.iter().map(|one| one.carbon_g).collect();
    let null_reason = match &known {
        Some(known) if known.is_empty() => Some("nothing was had from a remote model in the window".to_owned()),
        Some(_) => None,
        None => Some("for some of it there are no grams".to_owned()),
    };
    // One rate errs for all that it rates, and nobody knows whether two of them err alike: intervals add linearly.
    let sum = |known: Vec<Interval>| {
        known.into_iter().fold(Interval { value: 0.0, low: 0.0, high: 0.0 }, |sum, one| Interval {
            value: sum.value + one.value,
            low: sum.low + one.low,
            high: sum.high + one.high,
        })
    };
    let carbon_g = known.filter(|known| !known.is_empty()).map(sum);
    Rated { label: LABEL, delivered, carbon_g, null_reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_proto::query::KeyPart;

    fn row(model: &str, units: Option<f64>) -> EnergyRow {
        let part = |name: &str, value: &str| KeyPart { name: name.to_owned(), value: value.to_owned() };
        let key = [("account", "remote"), ("kind", "team"), ("consumer", "a"), ("model", model), ("endpoint", "eu")];
        EnergyRow { key: key.map(|(name, value)| part(name, value)).to_vec(), units, ..EnergyRow::default() }
    }

    const RATES: &str = r#"[
        {"model": "far", "unit": "output_token", "grams_per_unit": 9.0, "half_width": 0.5, "kind": "estimated", "document": "a"},
        {"model": "far", "endpoint": "eu", "unit": "request", "grams_per_unit": 0.25, "half_width": 0.4,
         "kind": "provider_published", "document": "report 2026"}]"#;

    #[test]
    fn what_a_remote_model_delivered_is_rated_by_the_rate_of_its_endpoint_and_what_has_none_is_unknown() {
        let rates = parse(RATES).expect("valid");
        let ours = EnergyRow { key: vec![], units: Some(7.0), ..EnergyRow::default() };
        let rows = |units| vec![ours.clone(), row("far", units), row("other", Some(3.0))];
        let rated = rate(&rates, &[(Unit::Request, rows(Some(8.0))), (Unit::OutputToken, rows(Some(100.0)))]);
        assert_eq!(rated.delivered.len(), 2, "{rated:?}");
        let far = &rated.delivered[0];
        let grams = far.carbon_g.expect("rated");
        assert!(
            (grams.value - 2.0).abs() < 1e-12 && (grams.low - 1.2).abs() < 1e-12 && (grams.high - 2.8).abs() < 1e-12
        );
        assert_eq!((far.method, far.consumer.as_str()), (Some("provider_published"), "team a"));
        assert_eq!(rated.delivered[1].null_reason.as_deref(), Some("no rate is given for it"));
        assert!(rated.carbon_g.is_none() && rated.null_reason.is_some(), "a part without grams is not 0");
        let uncounted = rate(&rates, &[(Unit::Request, vec![row("far", None)])]);
        assert_eq!(uncounted.delivered[0].null_reason.as_deref(), Some("its gateway does not tell requests"));
    }

    #[test]
    fn a_rate_without_a_document_or_an_interval_is_refused() {
        for (from, to) in [
            ("report 2026", " "),
            ("0.4", "0.0"),
            ("0.25", "-1.0"),
            ("\"endpoint\": \"eu\",", ""),
            ("\"kind\": \"estimated\"", "\"kind\": \"measured\""),
        ] {
            assert!(parse(&RATES.replace(from, to)).is_err(), "{to} for {from}");
        }
    }
}
