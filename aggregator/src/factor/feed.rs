//! `[[factor]]`: series of factors, which sites they hold at, and what fills them.

use super::FactorError;
use super::mapping::Mapping;
use crate::store::block::factor::SeriesSubject;
use crate::store::factors::check_name;
use joulebook_sci::quantity::{Basis, Kind, Quantity};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// How often a source is asked where nothing is said.
const DEFAULT_EVERY: Duration = Duration::from_secs(300);
/// Shortest time between two questions to a source.
const LEAST_EVERY: Duration = Duration::from_secs(10);
/// How far back a source is asked for what is missing, where nothing is said.
const DEFAULT_BACKFILL: Duration = Duration::from_secs(7 * 86_400);
/// Farthest back: the retention of settled cells.
const MOST_BACKFILL: Duration = Duration::from_secs(400 * 86_400);

/// `[[factor]]`. Which keys a source needs is said with it.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedConfig {
    /// Name of the series: letters, digits and -_.:/
    pub name: String,
    /// intensity, pue, wue_site or wue_source. Unset: intensity.
    pub quantity: Option<String>,
    /// What fills it. Unset: nothing but `joulebook factors push`.
    pub provider: Option<ProviderName>,
    /// Sites at which it holds, in the order of the series. Unset: default.
    pub sites: Option<Vec<String>>,
    /// Grid zone, in the words of the source. Unset: the name of the series.
    pub zone: Option<String>,
    /// Kind of an intensity. Unset: that of the source; needed for csv, json, prometheus and what is pushed.
    pub kind: Option<String>,
    /// lifecycle or direct. Unset: that of the source, else lifecycle.
    pub basis: Option<String>,
    /// Data set, for people. Unset: the source's name.
    pub source: Option<String>,
    /// Where the source is. Unset: its public address; needed for json and prometheus.
    pub url: Option<String>,
    /// File with the source's secret, which nobody else may read: a token; for watttime name and password in two lines.
    pub secret_file: Option<PathBuf>,
    /// Whether the file's group may read it.
    pub secret_group_readable: bool,
    /// CA certificates (PEM) of the source. Unset: those of the system.
    pub ca_file: Option<PathBuf>,
    /// How often it is asked, at least 10 s. Unset: 5min.
    #[serde(deserialize_with = "duration")]
    pub every: Option<Duration>,
    /// How far back it is asked for what is missing. Unset: 7days.
    #[serde(deserialize_with = "duration")]
    pub backfill: Option<Duration>,
    /// File, for csv. Read again when it changes.
    pub path: Option<PathBuf>,
    /// Where columns or fields are, for csv and json.
    pub mapping: Mapping,
    /// Query, for prometheus: one series of the quantity.
    pub query: Option<String>,
    /// Time from one value to the next, for prometheus. Unset: 5min.
    #[serde(deserialize_with = "duration")]
    pub step: Option<Duration>,
    /// Intensity of each source of generation in g/kWh by its code, for entsoe. Unset: life-cycle medians of IPCC AR5.
    pub generation: BTreeMap<String, f64>,
}

/// What fills a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderName {
    /// A file of comma-separated values.
    Csv,
    /// An address that answers JSON.
    Json,
    /// A Prometheus server.
    Prometheus,
    /// Electricity Maps, version 3.
    ElectricityMaps,
    /// WattTime, version 3: marginal.
    Watttime,
    /// National Energy System Operator of Great Britain.
    Neso,
    /// ENTSO-E transparency platform: generation by source.
    Entsoe,
}

impl ProviderName {
    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Json => "json",
            Self::Prometheus => "prometheus",
            Self::ElectricityMaps => "electricity_maps",
            Self::Watttime => "watttime",
            Self::Neso => "neso",
            Self::Entsoe => "entsoe",
        }
    }

    /// What its intensities say, where it is always the same.
    fn kind(self) -> Option<(Kind, Basis)> {
        match self {
            Self::Csv | Self::Json | Self::Prometheus => None,
            Self::ElectricityMaps => Some((Kind::AverageConsumption, Basis::Lifecycle)),
            Self::Watttime => Some((Kind::MarginalShortRun, Basis::Direct)),
            // With imports, of what plants emit.
            Self::Neso => Some((Kind::AverageConsumption, Basis::Direct)),
            Self::Entsoe => Some((Kind::AverageProduction, Basis::Lifecycle)),
        }
    }

    /// Whether it speaks of anything but grids.
    fn is_general(self) -> bool {
        self.kind().is_none()
    }
}

/// A series, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Feed {
    /// Its name.
    pub name: String,
    /// What it is about.
    pub subject: SeriesSubject,
    /// Sites at which it holds.
    pub sites: Vec<String>,
    /// What fills it.
    pub provider: Option<ProviderName>,
    /// How often that is asked.
    pub every: Duration,
    /// How far back.
    pub backfill: Duration,
    /// The rest of its configuration.
    pub config: FeedConfig,
}

impl Feed {
    /// Checks a configuration.
    ///
    /// # Errors
    /// What is wrong, by its key.
    pub fn new(config: &FeedConfig) -> Result<Self, FactorError> {
        let key = |field: &str| format!("factor.{}.{field}", config.name);
        let contradiction =
            |field: &str, rule: &str| FactorError::Contradiction { key: key(field), rule: rule.to_owned() };
        check_name(&config.name).map_err(|error| contradiction("name", &error.to_string()))?;
        let quantity = config.quantity.as_deref().unwrap_or("intensity");
        let quantity = Quantity::of(quantity)
            .ok_or_else(|| contradiction("quantity", "write intensity, pue, wue_site or wue_source"))?;
        let provider = config.provider;
        let own = provider.and_then(ProviderName::kind);
        if quantity != Quantity::Intensity && provider.is_some_and(|provider| !provider.is_general()) {
            return Err(contradiction("quantity", "this source speaks of intensity only"));
        }
        let kind = match (&config.kind, own) {
            (Some(word), _) => Some(Kind::of(word).ok_or_else(|| {
                let words: Vec<&str> = Kind::ALL.into_iter().map(Kind::name).collect();
                contradiction("kind", &format!("write one of {}", words.join(", ")))
            })?),
            (None, own) => own.map(|(kind, _)| kind),
        };
        let basis = match (&config.basis, own) {
            (Some(word), _) => {
                Some(Basis::of(word).ok_or_else(|| contradiction("basis", "write lifecycle or direct"))?)
            }
            (None, own) => own.map(|(_, basis)| basis),
        };
        let (kind, basis) = match quantity {
            Quantity::Intensity if kind.is_none() => {
                return Err(contradiction("kind", "say what the intensity says: average_consumption, for example"));
            }
            Quantity::Intensity => (kind, Some(basis.unwrap_or(Basis::Lifecycle))),
            _ if config.kind.is_some() || config.basis.is_some() => {
                return Err(contradiction("kind", "kind and basis are of intensities only"));
            }
            _ => (None, None),
        };
        if let Some((own, _)) = own
            && kind != Some(own)
        {
            return Err(contradiction("kind", &format!("this source gives {}", own.name())));
        }
        needs(config, provider).map_err(|(field, rule)| contradiction(field, rule))?;
        let every = config.every.unwrap_or(DEFAULT_EVERY);
        if every < LEAST_EVERY {
            return Err(contradiction("every", "at least 10s"));
        }
        let backfill = config.backfill.unwrap_or(DEFAULT_BACKFILL);
        if backfill > MOST_BACKFILL {
            return Err(contradiction("backfill", "at most 400days"));
        }
        config.mapping.check(quantity).map_err(|(field, rule)| contradiction(&format!("mapping.{field}"), &rule))?;
        let named = provider.map_or("pushed", ProviderName::name);
        let subject = SeriesSubject {
            quantity,
            kind,
            basis,
            zone: config.zone.clone().unwrap_or_else(|| config.name.clone()),
            source: config.source.clone().unwrap_or_else(|| named.to_owned()),
        };
        let sites = config.sites.clone().unwrap_or_else(|| vec![super::DEFAULT_SITE.to_owned()]);
        Ok(Self { name: config.name.clone(), subject, sites, provider, every, backfill, config: config.clone() })
    }
}

/// What each source cannot do without.
fn needs(config: &FeedConfig, provider: Option<ProviderName>) -> Result<(), (&'static str, &'static str)> {
    let wanted: &[(&str, bool)] = match provider {
        None => &[],
        Some(ProviderName::Csv) => &[("path", config.path.is_some())],
        Some(ProviderName::Json) => &[("url", config.url.is_some())],
        Some(ProviderName::Prometheus) => &[("url", config.url.is_some()), ("query", config.query.is_some())],
        Some(ProviderName::Neso) => &[],
        Some(ProviderName::ElectricityMaps | ProviderName::Watttime | ProviderName::Entsoe) => {
            &[("zone", config.zone.is_some()), ("secret_file", config.secret_file.is_some())]
        }
    };
    match wanted.iter().find(|(_, there)| !there) {
        Some((field, _)) => Err((*field, "this source needs it")),
        None => Ok(()),
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map(Some).map_err(|error| {
        serde::de::Error::custom(format!("`{text}` is no duration: {error}; write for example \"5min\""))
    })
}
