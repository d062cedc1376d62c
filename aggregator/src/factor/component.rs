//! `[[component]]`: what nobody meters and the operator declares, modelled beside the score.

use super::FactorError;
use joulebook_sci::FunctionalUnit;
use joulebook_sci::component::Load;
use serde::Deserialize;

/// Half-width of what is modelled, where nothing is said (methodology C: models of utilisation).
const DEFAULT_UNCERTAINTY: f64 = 0.40;

/// `[[component]]`. Figures are at least 0.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ComponentConfig {
    /// Its name, which answers tell. Needed.
    pub name: String,
    /// Model that it is declared for. Unset: every one; storage needs one.
    pub model: Option<String>,
    /// Version of the model. Unset: every one; storage needs one.
    pub version: Option<String>,
    /// Network: energy of a gigabyte in kWh.
    pub kwh_per_gigabyte: Option<f64>,
    /// Network: bytes of each unit.
    pub bytes_per_unit: Option<f64>,
    /// Network: the unit: request, input_token, output_token or total_token. Unset: request.
    pub unit: Option<String>,
    /// Storage: terabytes that are kept, replicas included.
    pub terabytes: Option<f64>,
    /// Storage: power of a terabyte in W.
    pub watts_per_terabyte: Option<f64>,
    /// Whether it stands at the site, so that the site's PUE holds for it.
    pub at_site: bool,
    /// Half-width of its 95 % interval as a share. Unset: 0.4.
    pub uncertainty: Option<f64>,
    /// Where the figures come from. Needed.
    pub source: String,
}

/// A component, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredComponent {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub load: Load,
    /// Whether the site's PUE holds for it.
    pub at_site: bool,
    /// Half-width of its 95 % interval as a share.
    pub uncertainty: f64,
    /// Where the figures come from.
    pub source: String,
    model: Option<String>,
    version: Option<String>,
}

impl DeclaredComponent {
    fn new(config: &ComponentConfig) -> Result<Self, FactorError> {
        let key = |field: &str| format!("component.{}.{field}", config.name);
        let refused = |field: &str, rule: &str| FactorError::Contradiction { key: key(field), rule: rule.to_owned() };
        for (field, text) in [("name", &config.name), ("source", &config.source)] {
            if text.trim().is_empty() {
                return Err(refused(field, "it is needed: a figure that is declared says whose it is"));
            }
        }
        let figures = [
            ("kwh_per_gigabyte", config.kwh_per_gigabyte),
            ("bytes_per_unit", config.bytes_per_unit),
            ("terabytes", config.terabytes),
            ("watts_per_terabyte", config.watts_per_terabyte),
            ("uncertainty", config.uncertainty),
        ];
        for (field, value) in figures {
            if let Some(value) = value.filter(|value| !(0.0..1e12).contains(value)) {
                return Err(FactorError::OutOfRange { key: key(field), value, rule: "at least 0" });
            }
        }
        let unit = match config.unit.as_deref() {
            None | Some("request") => FunctionalUnit::Request,
            Some("input_token") => FunctionalUnit::InputToken,
            Some("output_token") => FunctionalUnit::OutputToken,
            Some("total_token") => FunctionalUnit::TotalToken,
            Some(_) => return Err(refused("unit", "write request, input_token, output_token or total_token")),
        };
        let network = config.kwh_per_gigabyte.zip(config.bytes_per_unit);
        let storage = config.terabytes.zip(config.watts_per_terabyte);
        let load = match (network, storage) {
            (Some((kwh_per_gigabyte, bytes_per_unit)), None) if config.terabytes.is_none() => {
                Load::Network { kwh_per_gigabyte, bytes_per_unit, unit }
            }
            (None, Some(_)) if config.model.is_none() || config.version.is_none() => {
                return Err(refused("version", "storage is kept for one version of a model: name both"));
            }
            (None, Some((terabytes, watts_per_terabyte))) if config.bytes_per_unit.is_none() => {
                Load::Storage { terabytes, watts_per_terabyte }
            }
            _ => {
                let rule = "it has kwh_per_gigabyte and bytes_per_unit, or terabytes and watts_per_terabyte";
                return Err(refused("kwh_per_gigabyte", rule));
            }
        };
        if config.version.is_some() && config.model.is_none() {
            return Err(refused("version", "it needs `model` beside it"));
        }
        Ok(Self {
            name: config.name.clone(),
            load,
            at_site: config.at_site,
            uncertainty: config.uncertainty.unwrap_or(DEFAULT_UNCERTAINTY),
            source: config.source.clone(),
            model: config.model.clone(),
            version: config.version.clone(),
        })
    }

    /// network or storage.
    pub fn kind(&self) -> &'static str {
        match self.load {
            Load::Network { .. } => "network",
            Load::Storage { .. } => "storage",
        }
    }

    /// Whether it is declared for a version.
    pub fn is_of(&self, model: Option<&str>, version: Option<&str>) -> bool {
        let fits = |own: &Option<String>, asked: Option<&str>| own.is_none() || own.as_deref() == asked;
        fits(&self.model, model) && fits(&self.version, version)
    }
}

/// Every component; no two have one name.
pub(super) fn parse(configured: &[ComponentConfig]) -> Result<Vec<DeclaredComponent>, FactorError> {
    let parsed: Vec<DeclaredComponent> = configured.iter().map(DeclaredComponent::new).collect::<Result<_, _>>()?;
    for (index, one) in parsed.iter().enumerate() {
        if parsed.iter().take(index).any(|other| other.name == one.name) {
            let rule = "another component has this name".to_owned();
            return Err(FactorError::Contradiction { key: format!("component.{}.name", one.name), rule });
        }
    }
    Ok(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(toml: &str) -> Result<Vec<DeclaredComponent>, FactorError> {
        parse(&[toml::from_str(toml).expect("known keys")])
    }

    #[test]
    fn a_component_says_what_it_takes_whose_it_is_and_where_that_comes_from() {
        let network = "name = \"net\"\nsource = \"s\"\nkwh_per_gigabyte = 0.001\nbytes_per_unit = 4000\n";
        let of_all = &parsed(network).expect("valid")[0];
        assert!(of_all.kind() == "network" && of_all.is_of(Some("chat"), Some("1")));
        let storage = "name = \"disk\"\nsource = \"s\"\nterabytes = 2\nwatts_per_terabyte = 1.2\n";
        let chat = format!("{storage}model = \"chat\"\nversion = \"1\"\n");
        let of_chat = &parsed(&chat).expect("valid")[0];
        assert!(of_chat.is_of(Some("chat"), Some("1")) && !of_chat.is_of(Some("chat"), Some("2")));
        for wrong in [
            storage.to_owned(),
            network.replace("source = \"s\"", "source = \"\""),
            network.replace("0.001", "-1"),
            format!("{network}terabytes = 1\n"),
            network.replace("bytes_per_unit = 4000", ""),
            format!("{network}unit = \"song\"\n"),
            format!("{network}version = \"1\"\n"),
        ] {
            assert!(parsed(&wrong).is_err(), "{wrong}");
        }
        let one: ComponentConfig = toml::from_str(network).expect("known keys");
        assert!(parse(&[one.clone(), one]).is_err(), "one name twice");
    }
}
