//! Values that are not looked up: what the operator states for a site, and the world's mean when nothing else is known.

use super::{IntensityFact, IntensitySource, Site};
use joulebook_sci::quantity::Kind;
use joulebook_units::GramsCo2ePerKwh;

/// World mean intensity in g/kWh (International Energy Agency, 2019): the embedded table has no world row.
pub(super) const WORLD_G_PER_KWH: f64 = 475.0;
/// Half-width of an operator's fixed value: like a yearly one, it stands for every hour (methodology C).
const FIXED_UNCERTAINTY: f64 = 0.30;
/// Half-width of another zone's or the world's value (methodology C).
const WORLD_UNCERTAINTY: f64 = 0.60;

/// The operator's own value for the site.
#[derive(Debug)]
pub struct Configured;

impl IntensitySource for Configured {
    fn find(&self, site: &Site) -> Result<IntensityFact, String> {
        let (value, source) = site.fixed.clone().ok_or("no fixed intensity configured")?;
        Ok(IntensityFact {
            value,
            kind: Kind::AverageConsumption,
            source,
            zone: site.region.clone().or_else(|| site.country.clone()).unwrap_or_else(|| site.name.clone()),
            granularity: "fixed",
            year: None,
            world: false,
            uncertainty: FIXED_UNCERTAINTY,
        })
    }
}

/// The world's mean.
#[derive(Debug)]
pub struct World;

impl IntensitySource for World {
    fn find(&self, _site: &Site) -> Result<IntensityFact, String> {
        Ok(IntensityFact {
            value: GramsCo2ePerKwh::new(WORLD_G_PER_KWH).map_err(|error| error.to_string())?,
            kind: Kind::AverageProduction,
            source: "International Energy Agency, world mean 475 g/kWh".to_owned(),
            zone: "WORLD".to_owned(),
            granularity: "world",
            year: None,
            world: true,
            uncertainty: WORLD_UNCERTAINTY,
        })
    }
}
