//! Factors of impacts beside carbon: water by series or by the site's configuration, abiotic depletion and primary energy by
//! configuration. There is no default: what nobody declares is not told.

use super::chain::{self, COARSE_UNCERTAINTY, Stored};
use super::{EmbodiedConfig, FactorError, Factors, SiteConfig};
use crate::store::{Book, StoreError};
use joulebook_sci::embodied::{DEFAULT_LIFESPAN_HOURS, accrued};
use joulebook_sci::impact::{Declared, Impact, ImpactFactors, ImpactPart};
use joulebook_sci::quantity::Quantity;
use joulebook_units::{GramsCo2e, UnixNanos, Window};

/// Half-width of what is stated of hardware without a study of this one (methodology C, generic TE).
const HARDWARE_UNCERTAINTY: f64 = 0.50;
/// The quantities that are series.
const WATER: [(Quantity, ImpactPart); 2] =
    [(Quantity::WueSite, ImpactPart::Site), (Quantity::WueSource, ImpactPart::Electricity)];

/// A declared factor over a stretch of time.
#[derive(Debug, Clone, PartialEq)]
pub struct DeclaredCell {
    /// When it holds.
    pub window: Window,
    /// The factor; absent where none is declared.
    pub value: Option<Declared>,
}

/// What a site's configuration declares, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SiteImpacts(ImpactFactors);

impl SiteImpacts {
    /// Checks the ranges.
    pub(super) fn new(name: &str, config: &SiteConfig) -> Result<Self, FactorError> {
        let source = config.impact_source.clone().unwrap_or_else(|| format!("configuration, site {name}"));
        let declared = [
            (
                "wue_site_l_per_kwh",
                config.wue_site_l_per_kwh,
                100.0,
                "0 to 100 l/kWh",
                (Impact::Water, ImpactPart::Site),
            ),
            (
                "wue_source_l_per_kwh",
                config.wue_source_l_per_kwh,
                100.0,
                "0 to 100 l/kWh",
                (Impact::Water, ImpactPart::Electricity),
            ),
            (
                "abiotic_kg_sb_per_kwh",
                config.abiotic_kg_sb_per_kwh,
                1.0,
                "0 to 1 kg/kWh",
                (Impact::AbioticDepletion, ImpactPart::Electricity),
            ),
            (
                "primary_energy_mj_per_kwh",
                config.primary_energy_mj_per_kwh,
                100.0,
                "0 to 100 MJ/kWh",
                (Impact::PrimaryEnergy, ImpactPart::Electricity),
            ),
        ];
        let mut factors = ImpactFactors::default();
        for (field, value, most, rule, place) in declared {
            let Some(value) = value else { continue };
            in_range(&format!("site.{name}.{field}"), value, most, rule)?;
            // Like a yearly intensity, it stands for every hour.
            let declared = Declared { value, half_width: COARSE_UNCERTAINTY, source: source.clone() };
            factors.0.insert(place, declared);
        }
        Ok(Self(factors))
    }
}

/// Refuses what is declared of hardware out of range.
pub(super) fn check(config: &EmbodiedConfig) -> Result<(), FactorError> {
    let declared = [
        ("embodied.node_abiotic_kg_sb", config.node_abiotic_kg_sb, 100.0, "0 to 100 kg"),
        ("embodied.node_primary_energy_mj", config.node_primary_energy_mj, 1e7, "0 to 10000000 MJ"),
    ];
    declared.into_iter().try_for_each(|(key, value, most, rule)| match value {
        Some(value) => in_range(key, value, most, rule),
        None => Ok(()),
    })
}

fn in_range(key: &str, value: f64, most: f64, rule: &'static str) -> Result<(), FactorError> {
    match (0.0..=most).contains(&value) {
        true => Ok(()),
        false => Err(FactorError::OutOfRange { key: key.to_owned(), value, rule }),
    }
}

/// Factors of one site over a window.
#[derive(Debug, Clone, PartialEq)]
pub struct ImpactSeries {
    constants: ImpactFactors,
    water: Vec<(ImpactPart, Vec<DeclaredCell>)>,
}

impl ImpactSeries {
    /// Where one of them changes.
    pub fn edges(&self) -> impl Iterator<Item = UnixNanos> {
        let cells = self.water.iter().flat_map(|(_, cells)| cells);
        cells.flat_map(|cell| [cell.window.start(), cell.window.end()])
    }

    /// The cells of those that change with time, in order, series by series.
    pub fn series(&self) -> impl Iterator<Item = &[DeclaredCell]> {
        self.water.iter().map(|(_, cells)| cells.as_slice())
    }

    /// Those of a slot that no edge cuts.
    pub fn at(&self, slot: Window) -> ImpactFactors {
        let mut factors = self.constants.clone();
        for (part, cells) in &self.water {
            let at = cells.partition_point(|cell| cell.window.end() <= slot.start());
            if let Some(value) = cells.get(at).and_then(|cell| cell.value.clone()) {
                factors.0.insert((Impact::Water, *part), value);
            }
        }
        factors
    }
}

impl Factors {
    /// Factors beside carbon of `site` over `at`.
    ///
    /// # Errors
    /// The store's.
    pub fn impacts(
        &self,
        site: Option<&str>,
        at: Window,
        as_of: Option<UnixNanos>,
        book: &Book,
    ) -> Result<ImpactSeries, StoreError> {
        let (site, _) = self.site(site);
        let mut constants = site.impacts.0.clone();
        let mut water = Vec::new();
        for (quantity, part) in WATER {
            let mut feeds = self.feeds_at(&site.name, quantity);
            feeds.retain(|feed| Stored::fits(book, feed));
            let next = constants.0.remove(&(Impact::Water, part));
            let stored = Stored { feeds, book, as_of };
            water.push((part, chain::declared(&stored, at, next.as_ref())?));
        }
        Ok(ImpactSeries { constants, water })
    }

    /// What making a node's hardware adds over `nanos` of its life.
    pub fn hardware_impacts(&self, nanos: u64) -> ImpactFactors {
        let config = self.embodied.config();
        let life = config.lifespan_hours.unwrap_or(DEFAULT_LIFESPAN_HOURS);
        let declared = [
            (Impact::AbioticDepletion, config.node_abiotic_kg_sb),
            (Impact::PrimaryEnergy, config.node_primary_energy_mj),
        ];
        let accrued = declared.into_iter().filter_map(|(impact, total)| {
            // Spread over the life as the grams of embodied carbon are.
            let value = accrued(GramsCo2e(total?), nanos, life)?.0;
            let source = "configuration, embodied".to_owned();
            Some(((impact, ImpactPart::Hardware), Declared { value, half_width: HARDWARE_UNCERTAINTY, source }))
        });
        ImpactFactors(accrued.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused_by_its_key_and_what_is_not_declared_is_not_there() {
        let site = |text: &str| SiteImpacts::new("hall", &toml::from_str(text).expect("syntax"));
        for text in ["wue_site_l_per_kwh = -0.1", "wue_source_l_per_kwh = 1000.0", "abiotic_kg_sb_per_kwh = 2.0"] {
            let refused = site(text).expect_err("out of range").to_string();
            assert!(refused.contains("site.hall.") && refused.contains("0 to "), "{refused}");
        }
        assert_eq!(site("pue = 1.2").expect("valid"), SiteImpacts::default());
        let declared = site("primary_energy_mj_per_kwh = 9.3\nimpact_source = \"a study\"").expect("valid");
        let factor = &declared.0.0[&(Impact::PrimaryEnergy, ImpactPart::Electricity)];
        assert!((factor.value - 9.3).abs() < 1e-12 && factor.source == "a study" && declared.0.0.len() == 1);
        let embodied = EmbodiedConfig { node_abiotic_kg_sb: Some(-1.0), ..EmbodiedConfig::default() };
        assert!(check(&embodied).is_err_and(|error| error.to_string().contains("embodied.node_abiotic_kg_sb")));
    }
}
