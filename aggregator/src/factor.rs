//! Factors: carbon intensity, PUE and embodied carbon as versioned series with source, kind and revision.
//!
//! What changes with time is a stored series ([`Feed`]), filled by a provider (one file each below `provider`) or pushed; what
//! does not comes from an [`IntensitySource`]. The chain goes from fine to coarse and records every step it took.

mod chain;
mod component;
mod config;
mod embodied;
mod feed;
mod fixed;
pub mod impact;
mod instance;
mod label;
pub mod mapping;
mod out_of_service;
pub mod poll;
pub mod provider;
mod table;

pub use chain::Asked;
pub use component::{ComponentConfig, DeclaredComponent};
pub use config::{Deployment, EmbodiedConfig, FactorConfig, GhgRole, NodeEmbodiedConfig, SiteConfig, SiteRule};
pub use embodied::EmbodiedFacts;
pub use feed::{Feed, FeedConfig, ProviderName};
/// Questions over HTTP.
pub use joulebook_otlp::http;
pub use out_of_service::{OutOfService, OutOfServiceConfig};

use crate::store::{Book, StoreError};
use chain::Stored;
use joulebook_sci::Rate;
use joulebook_sci::intensity::{Place, resolve as resolve_place};
use joulebook_sci::quantity::{Basis, Kind, Quantity};
use joulebook_units::{GramsCo2ePerKwh, Hardware, Pue, UnixNanos, Window};
use std::collections::BTreeMap;
use std::sync::Arc;
use table::Tables;

/// Name of the site of nodes that state none.
pub const DEFAULT_SITE: &str = "default";
/// Mean PUE of data centres (Uptime Institute Global Survey 2024).
const DEFAULT_PUE: f64 = 1.56;
/// Half-width of the default PUE (methodology C).
const DEFAULT_PUE_UNCERTAINTY: f64 = 0.20;
/// Half-width of a site's annual PUE (methodology C).
const ANNUAL_PUE_UNCERTAINTY: f64 = 0.08;

/// A factor that cannot be used. All of them are configuration errors (exit 78) but a damaged table.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FactorError {
    /// A name that no table has.
    #[error("`{key} = \"{value}\"` is not known: the nearest are {}; correct it or remove it", nearest.join(", "))]
    UnknownName {
        /// The key in the configuration file.
        key: String,
        /// Its value.
        value: String,
        /// The nearest valid values, best first.
        nearest: Vec<String>,
    },
    /// A number outside its range.
    #[error("`{key} = {value}` is refused: it must be {rule}")]
    OutOfRange {
        /// The key in the configuration file.
        key: String,
        /// Its value.
        value: f64,
        /// What it must satisfy.
        rule: &'static str,
    },
    /// Two keys that do not go together.
    #[error("`{key}` is refused: {rule}")]
    Contradiction {
        /// The key in the configuration file.
        key: String,
        /// What it must satisfy.
        rule: String,
    },
    /// An embedded table is damaged: the build is.
    #[error("embedded table {table}, line {line}: `{column}` cannot be read; reinstall this build")]
    DamagedTable {
        /// Table.
        table: &'static str,
        /// Line, from 1.
        line: u64,
        /// Column.
        column: &'static str,
    },
}

/// Intensity over one stretch of time.
#[derive(Debug, Clone, PartialEq)]
pub struct IntensityCell {
    /// When it holds.
    pub window: Window,
    /// The value in g/kWh, or its bounds where it is missing.
    pub value: Rate,
    /// When it was recorded; none for what is no stored series.
    pub revision: Option<UnixNanos>,
    /// Where it comes from: neighbours mostly share it.
    pub provenance: Arc<IntensityProvenance>,
}

/// Origin of an intensity, in the words of the contract.
#[derive(Debug, Clone, PartialEq)]
pub struct IntensityProvenance {
    /// What it says.
    pub kind: Kind,
    /// Which emissions it counts.
    pub basis: Basis,
    /// measured, estimated, forecast, held or missing.
    pub status: &'static str,
    /// Data set.
    pub source: String,
    /// Country (alpha-3), cloud region, zone of a series, site of a fixed value, or WORLD.
    pub zone: String,
    /// 5min, hour, day, month, year, world, fixed or none.
    pub granularity: &'static str,
    /// Year of the data, where the data set says.
    pub year: Option<u16>,
    /// Whether it is the world's mean: answers carry the flag `world_intensity`.
    pub world: bool,
    /// Half-width of the 95 % interval as a share of the value.
    pub uncertainty: f64,
    /// Every step of the chain that led here, in order.
    pub steps: Vec<String>,
}

/// PUE over one stretch of time.
#[derive(Debug, Clone, PartialEq)]
pub struct PueCell {
    /// When it holds.
    pub window: Window,
    /// The value.
    pub value: Pue,
    /// Where it comes from.
    pub source: String,
    /// hourly, daily, monthly, annual or default.
    pub granularity: &'static str,
    /// Half-width of the 95 % interval as a share of the value.
    pub uncertainty: f64,
    /// When it was recorded; none for what is no stored series.
    pub revision: Option<UnixNanos>,
}

/// A data set that factors come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Name.
    pub name: &'static str,
    /// Version.
    pub version: &'static str,
    /// Licence.
    pub licence: &'static str,
}

/// Where a site stands, its names resolved.
#[derive(Debug, Clone, PartialEq)]
pub struct Site {
    name: String,
    country: Option<String>,
    region: Option<String>,
    fixed: Option<(GramsCo2ePerKwh, String)>,
    pue: Option<Pue>,
    impacts: impact::SiteImpacts,
    deployment: Option<Deployment>,
}

/// What a provider knows of a site.
#[derive(Debug, Clone, PartialEq)]
pub struct IntensityFact {
    value: GramsCo2ePerKwh,
    kind: Kind,
    source: String,
    zone: String,
    granularity: &'static str,
    year: Option<u16>,
    world: bool,
    uncertainty: f64,
}

/// A provider of intensity.
pub trait IntensitySource {
    /// The value for `site`, or why there is none (which becomes a step of the chain).
    fn find(&self, site: &Site) -> Result<IntensityFact, String>;
}

/// Every factor, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    tables: Tables,
    sites: BTreeMap<String, Site>,
    default_site: Site,
    rules: Vec<SiteRule>,
    feeds: Vec<Feed>,
    embodied: embodied::Catalogue,
    components: Vec<DeclaredComponent>,
    out_of_service: Vec<OutOfService>,
    accountable_contact: Option<String>,
    ghg_role: Option<GhgRole>,
    revision: u64,
}

impl Factors {
    /// Checks the configuration against the embedded tables. Errors name the key and the nearest valid names.
    pub fn new(config: &FactorConfig) -> Result<Self, FactorError> {
        let tables = Tables::embedded()?;
        let mut sites = BTreeMap::new();
        for (name, site) in &config.site {
            sites.insert(name.clone(), resolve(&tables, name, site)?);
        }
        label::check(&config.site_rule, &sites, &tables)?;
        // Regions stand for themselves where no site of their name is configured: labels of nodes name them.
        for region in tables.regions().filter(|region| !sites.contains_key(*region)).collect::<Vec<_>>() {
            let implied = SiteConfig { region: Some(region.to_owned()), ..SiteConfig::default() };
            sites.insert(region.to_owned(), resolve(&tables, region, &implied)?);
        }
        let embodied = embodied::Catalogue::new(&config.embodied)?;
        impact::check(&config.embodied)?;
        let feeds = feeds(&config.factor)?;
        let nowhere = || resolve(&tables, DEFAULT_SITE, &SiteConfig::default());
        let default_site = sites.get(DEFAULT_SITE).cloned().map_or_else(nowhere, Ok)?;
        Ok(Self {
            sites,
            default_site,
            feeds,
            rules: config.site_rule.clone(),
            embodied,
            components: component::parse(&config.component)?,
            out_of_service: out_of_service::parse(&config.out_of_service)?,
            accountable_contact: config.accountable_contact.clone(),
            ghg_role: config.ghg_role,
            revision: revision(config),
            tables,
        })
    }

    /// Intensity of `site` over `at`: cells in order, without hole or overlap; empty only for an empty window. Values of
    /// stored series come out of `book`.
    ///
    /// # Errors
    /// The store's.
    pub fn intensity(
        &self,
        site: Option<&str>,
        at: Window,
        asked: Asked,
        book: &Book,
    ) -> Result<Vec<IntensityCell>, StoreError> {
        if at.is_empty() {
            return Ok(Vec::new());
        }
        let (site, mut steps) = self.site(site);
        let feeds = self.feeds_at(&site.name, Quantity::Intensity);
        let kind = asked.kind.or_else(|| feeds.first().and_then(|feed| feed.subject.kind));
        let same_kind = feeds.into_iter().filter(|feed| feed.subject.kind == kind);
        let (of_kind, other): (Vec<&Feed>, Vec<&Feed>) = same_kind.partition(|feed| Stored::fits(book, feed));
        steps.extend(
            other.iter().map(|feed| format!("series {}: what is stored under its name is of another kind", feed.name)),
        );
        let stored = Stored { feeds: of_kind, book, as_of: asked.as_of };
        // Without a series and without a wish the tables decide, and the last of them knows the world.
        let kind_asked = kind.unwrap_or(Kind::AverageProduction);
        chain::intensity(&stored, site, at, kind_asked, &steps, |steps| self.table(site, at, kind, steps))
    }

    /// What does not change with time has of a kind for `site`; the steps that led nowhere where it has nothing.
    fn table(
        &self,
        site: &Site,
        at: Window,
        kind: Option<Kind>,
        mut steps: Vec<String>,
    ) -> Result<IntensityCell, Vec<String>> {
        let found = resolve_place(|place| {
            let (name, source): (&str, &dyn IntensitySource) = match place {
                Place::Override => ("configured", &fixed::Configured),
                Place::Zone => ("cloud region", &table::RegionTable(&self.tables)),
                Place::Country => ("country", &table::CountryTable(&self.tables)),
                Place::World => ("world", &fixed::World),
            };
            match source.find(site) {
                Ok(fact) if kind.is_some_and(|kind| kind != fact.kind) => {
                    steps.push(format!("{name}: of another kind, {}", fact.kind.name()));
                    None
                }
                Ok(fact) => {
                    steps.push(format!("{name}: {} g/kWh for {} from {}", fact.value.get(), fact.zone, fact.source));
                    Some(fact)
                }
                Err(reason) => {
                    steps.push(format!("{name}: {reason}"));
                    None
                }
            }
        });
        let Some((_, fact)) = found else { return Err(steps) };
        let provenance = IntensityProvenance {
            kind: fact.kind,
            basis: Basis::Lifecycle,
            status: "estimated",
            source: fact.source,
            zone: fact.zone,
            granularity: fact.granularity,
            year: fact.year,
            world: fact.world,
            uncertainty: fact.uncertainty,
            steps,
        };
        let (value, provenance) = (Rate::Known(fact.value), Arc::new(provenance));
        Ok(IntensityCell { window: at, value, revision: None, provenance })
    }

    /// PUE of `site` over `at`: cells in order, without hole or overlap; empty only for an empty window.
    ///
    /// # Errors
    /// The store's.
    pub fn pue(
        &self,
        site: Option<&str>,
        at: Window,
        as_of: Option<UnixNanos>,
        book: &Book,
    ) -> Result<Vec<PueCell>, StoreError> {
        if at.is_empty() {
            return Ok(Vec::new());
        }
        let (site, _) = self.site(site);
        let mut feeds = self.feeds_at(&site.name, Quantity::Pue);
        feeds.retain(|feed| Stored::fits(book, feed));
        let stored = Stored { feeds, book, as_of };
        chain::pue(&stored, at, |window| site.annual_pue(window))
    }

    /// Every series, in the order of the configuration.
    pub fn feeds(&self) -> &[Feed] {
        &self.feeds
    }

    fn feeds_at(&self, site: &str, quantity: Quantity) -> Vec<&Feed> {
        let holds = |feed: &&Feed| feed.subject.quantity == quantity && feed.sites.iter().any(|name| name == site);
        self.feeds.iter().filter(holds).collect()
    }

    /// Embodied carbon of a whole host, or of a guest's share of its host, by part.
    pub fn embodied(&self, hardware: &Hardware) -> EmbodiedFacts {
        self.embodied.facts("", &BTreeMap::new(), hardware)
    }

    /// The same of a node that is known by its name and labels.
    pub fn embodied_of(&self, node: &str, labels: &BTreeMap<String, String>, hardware: &Hardware) -> EmbodiedFacts {
        self.embodied.facts(node, labels, hardware)
    }

    /// The site of a node that states none, by its labels; none if they do not say.
    pub fn site_by_labels(&self, labels: &BTreeMap<String, String>) -> Option<String> {
        label::site(&self.rules, &self.tables, labels)
    }

    /// When a node is declared out of service, inside a window.
    pub fn out_of_service(&self, node: &str, window: Window) -> Vec<OutOfService> {
        let mine = self.out_of_service.iter().filter(|out| out.node == node);
        let inside = mine.filter_map(|out| {
            let window = out.window.intersect(window)?;
            Some(OutOfService { window, ..out.clone() })
        });
        inside.collect()
    }

    /// What nobody meters and is declared for a version.
    pub fn components<'a>(
        &'a self,
        model: Option<&'a str>,
        version: Option<&'a str>,
    ) -> impl Iterator<Item = &'a DeclaredComponent> {
        self.components.iter().filter(move |one| one.is_of(model, version))
    }

    /// Kind of deployment of `site`, as configured.
    pub fn deployment(&self, site: Option<&str>) -> Option<Deployment> {
        self.site(site).0.deployment
    }

    /// Who answers for the figures, as configured.
    pub fn accountable_contact(&self) -> Option<&str> {
        self.accountable_contact.as_deref()
    }

    /// GHG Protocol scope of the operational part, by the configured role.
    pub fn ghg_scope(&self) -> Option<&'static str> {
        self.ghg_role.map(GhgRole::operational_scope)
    }

    /// The data sets that factors come from, with licences.
    pub fn datasets(&self) -> Vec<Dataset> {
        vec![
            Dataset {
                name: "Ember; Energy Institute; processed by Our World in Data: carbon intensity of electricity",
                version: "codecarbon 3.3.2 global_energy_mix.json",
                licence: "CC BY 4.0",
            },
            Dataset {
                name: "Google Cloud region carbon data",
                version: "codecarbon 3.3.2 cloud/impact.csv",
                licence: "MIT",
            },
            Dataset { name: "International Energy Agency: world mean intensity", version: "2019", licence: "fact" },
            Dataset { name: "Uptime Institute Global Survey: mean PUE", version: "2024", licence: "fact" },
            Dataset { name: "Cloud Carbon Footprint: embodied defaults", version: "ccf-coefficients", licence: "fact" },
            Dataset {
                name: "Cloud Carbon Footprint: embodied carbon of Amazon EC2 instances",
                version: "npm @cloud-carbon-footprint/aws 0.15.0",
                licence: "Apache-2.0",
            },
            Dataset { name: "NVIDIA HGX H100: product carbon footprint", version: "summary", licence: "fact" },
            Dataset { name: "EcoLogits: embodied carbon of a host of 8 GPUs", version: "methodology", licence: "fact" },
        ]
    }

    /// Identity of everything above: a hash of tables and configuration. Not ordered: unequal means changed.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The site by name, and the steps that led to it.
    fn site(&self, name: Option<&str>) -> (&Site, Vec<String>) {
        match name {
            None => (&self.default_site, vec!["the node states no site: default".to_owned()]),
            Some(name) => match self.sites.get(name) {
                Some(site) => (site, Vec::new()),
                None if name == DEFAULT_SITE => (&self.default_site, Vec::new()),
                None => (&self.default_site, vec![format!("site {name} is not configured: default")]),
            },
        }
    }
}

impl Site {
    /// The PUE that holds all year: the configured one, else the mean of a survey.
    fn annual_pue(&self, window: Window) -> Option<PueCell> {
        let (value, source, granularity, uncertainty) = match self.pue {
            Some(value) => (value, format!("configuration, site {}", self.name), "annual", ANNUAL_PUE_UNCERTAINTY),
            None => {
                let source = "Uptime Institute Global Survey 2024, mean".to_owned();
                (Pue::new(DEFAULT_PUE).ok()?, source, "default", DEFAULT_PUE_UNCERTAINTY)
            }
        };
        Some(PueCell { window, value, source, granularity, uncertainty, revision: None })
    }
}

/// Every configured series; no two have one name.
fn feeds(configured: &[FeedConfig]) -> Result<Vec<Feed>, FactorError> {
    let feeds: Vec<Feed> = configured.iter().map(Feed::new).collect::<Result<_, _>>()?;
    for (index, feed) in feeds.iter().enumerate() {
        if feeds.iter().take(index).any(|other| other.name == feed.name) {
            let rule = "another series has this name".to_owned();
            return Err(FactorError::Contradiction { key: format!("factor.{}.name", feed.name), rule });
        }
    }
    Ok(feeds)
}

fn resolve(tables: &Tables, name: &str, config: &SiteConfig) -> Result<Site, FactorError> {
    let key = |field: &str| format!("site.{name}.{field}");
    let unknown = |field: &str, value: &str, nearest: Vec<String>| FactorError::UnknownName {
        key: key(field),
        value: value.to_owned(),
        nearest,
    };
    let region = match &config.region {
        Some(text) => Some(tables.region_name(text).map_err(|near| unknown("region", text, near))?),
        None => None,
    };
    let zone = match &config.zone {
        Some(text) => Some(tables.country_code(text).map_err(|near| unknown("zone", text, near))?),
        None => None,
    };
    let around = region.as_deref().and_then(|region| tables.country_of(region)).map(str::to_owned);
    if let (Some(zone), Some(around)) = (&zone, &around)
        && zone != around
    {
        return Err(FactorError::Contradiction {
            key: key("zone"),
            rule: format!("the region stands in {around}, not in {zone}; correct one or remove `zone`"),
        });
    }
    let refused = |field: &str, value: f64, rule| FactorError::OutOfRange { key: key(field), value, rule };
    let fixed = match config.intensity_g_per_kwh {
        Some(value) => {
            let rule = "0 to 2000 g/kWh";
            let grams = GramsCo2ePerKwh::new(value).map_err(|_| refused("intensity_g_per_kwh", value, rule))?;
            Some((grams, config.intensity_source.clone().unwrap_or_else(|| "configuration".to_owned())))
        }
        None if config.intensity_source.is_some() => {
            let rule = "it needs `intensity_g_per_kwh` beside it".to_owned();
            return Err(FactorError::Contradiction { key: key("intensity_source"), rule });
        }
        None => None,
    };
    let pue = match config.pue {
        Some(value) => Some(Pue::new(value).map_err(|_| refused("pue", value, "1 to 10"))?),
        None => None,
    };
    let impacts = impact::SiteImpacts::new(name, config)?;
    let (name, deployment) = (name.to_owned(), config.deployment);
    Ok(Site { name, country: zone.or(around), region, fixed, pue, impacts, deployment })
}

/// The first eight bytes of a hash over the tables and the configuration as debug text, which names every field.
fn revision(config: &FactorConfig) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [table::COUNTRIES, table::REGIONS, instance::INSTANCES, &format!("{config:?}"), embodied::REVISION] {
        hasher.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&fixed::WORLD_G_PER_KWH.to_le_bytes());
    hasher.update(&DEFAULT_PUE.to_le_bytes());
    let mut first = [0u8; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

/// The three names nearest to `text`, best first.
fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut scored: Vec<(usize, &str)> = known.map(|name| (strsim::damerau_levenshtein(text, name), name)).collect();
    scored.sort_unstable();
    scored.into_iter().take(3).map(|(_, name)| name.to_owned()).collect()
}

#[cfg(test)]
mod tests;
