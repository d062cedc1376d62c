//! The embedded tables: yearly intensity of countries and intensity of cloud regions.
//!
//! Data and credit: `data/country.csv`, `data/region.csv`, made by `data/extract.py`; NOTICE carries the licences.

use super::{FactorError, IntensityFact, IntensitySource, Site, nearest};
use joulebook_sci::quantity::Kind;
use joulebook_units::GramsCo2ePerKwh;
use std::collections::BTreeMap;

/// The countries' table, byte for byte.
pub(super) const COUNTRIES: &str = include_str!("../data/country.csv");
/// The regions' table, byte for byte.
pub(super) const REGIONS: &str = include_str!("../data/region.csv");

/// Half-width of a yearly value that stands for every hour (methodology C).
const YEARLY_UNCERTAINTY: f64 = 0.30;

/// A country.
#[derive(Debug, Clone, PartialEq)]
struct Country {
    alpha3: String,
    year: u16,
    value: GramsCo2ePerKwh,
}

/// A cloud region.
#[derive(Debug, Clone, PartialEq)]
struct Region {
    country: String,
    value: Option<GramsCo2ePerKwh>,
}

/// The tables, by upper-case country code and lower-case `provider/region`.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    countries: BTreeMap<String, Country>,
    alpha2: BTreeMap<String, String>,
    regions: BTreeMap<String, Region>,
}

impl Tables {
    /// Reads the embedded tables. Fails only when the build embeds damaged ones, naming table and line.
    pub fn embedded() -> Result<Self, FactorError> {
        let mut tables = Self { countries: BTreeMap::new(), alpha2: BTreeMap::new(), regions: BTreeMap::new() };
        for row in rows::<5>("country.csv", COUNTRIES) {
            let (line, [alpha3, alpha2, _, year, value]) = row?;
            let year = year.parse().map_err(|_| damaged("country.csv", line, "year"))?;
            let value = grams("country.csv", line, &value)?;
            tables.alpha2.insert(alpha2, alpha3.clone());
            tables.countries.insert(alpha3.clone(), Country { alpha3, year, value });
        }
        for row in rows::<4>("region.csv", REGIONS) {
            let (line, [provider, region, country, value]) = row?;
            let value = if value.is_empty() { None } else { Some(grams("region.csv", line, &value)?) };
            tables.regions.insert(format!("{provider}/{region}"), Region { country, value });
        }
        Ok(tables)
    }

    /// The alpha-3 code of a country given by alpha-3 or alpha-2, any case; else the nearest known codes.
    pub fn country_code(&self, text: &str) -> Result<String, Vec<String>> {
        let code = text.trim().to_ascii_uppercase();
        if self.countries.contains_key(&code) {
            return Ok(code);
        }
        let known = self.countries.keys().chain(self.alpha2.keys()).map(String::as_str);
        self.alpha2.get(&code).cloned().ok_or_else(|| nearest(&code, known))
    }

    /// The name of a region as the table spells it, any case given; else the nearest known names.
    pub fn region_name(&self, text: &str) -> Result<String, Vec<String>> {
        let name = text.trim().to_ascii_lowercase();
        if self.regions.contains_key(&name) {
            return Ok(name);
        }
        Err(nearest(&name, self.regions.keys().map(String::as_str)))
    }

    /// Every region, as `provider/region`.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.regions.keys().map(String::as_str)
    }

    /// The country of a region as [`Tables::region_name`] spells it.
    pub fn country_of(&self, region: &str) -> Option<&str> {
        self.regions.get(region).map(|region| region.country.as_str())
    }
}

/// Intensity of the site's cloud region.
#[derive(Debug)]
pub struct RegionTable<'a>(pub &'a Tables);

impl IntensitySource for RegionTable<'_> {
    fn find(&self, site: &Site) -> Result<IntensityFact, String> {
        let name = site.region.as_deref().ok_or("no cloud region configured")?;
        let value = self.0.regions.get(name).and_then(|region| region.value);
        let value = value.ok_or_else(|| format!("no value for cloud region {name}"))?;
        Ok(IntensityFact {
            value,
            kind: Kind::AverageConsumption,
            source: "codecarbon 3.3.2 cloud/impact.csv (Google Cloud)".to_owned(),
            zone: name.to_owned(),
            granularity: "year",
            year: None,
            world: false,
            uncertainty: YEARLY_UNCERTAINTY,
        })
    }
}

/// Yearly intensity of the site's country.
#[derive(Debug)]
pub struct CountryTable<'a>(pub &'a Tables);

impl IntensitySource for CountryTable<'_> {
    fn find(&self, site: &Site) -> Result<IntensityFact, String> {
        let code = site.country.as_deref().ok_or("no country configured")?;
        let country = self.0.countries.get(code).ok_or_else(|| format!("no value for country {code}"))?;
        Ok(IntensityFact {
            value: country.value,
            kind: Kind::AverageProduction,
            source: "Ember; Energy Institute; Our World in Data (CC BY 4.0), through codecarbon 3.3.2".to_owned(),
            zone: country.alpha3.clone(),
            granularity: "year",
            year: Some(country.year),
            world: false,
            uncertainty: YEARLY_UNCERTAINTY,
        })
    }
}

pub(super) fn rows<const N: usize>(
    name: &'static str,
    text: &'static str,
) -> impl Iterator<Item = Result<(u64, [String; N]), FactorError>> {
    let reader = csv::ReaderBuilder::new().comment(Some(b'#')).from_reader(text.as_bytes());
    reader.into_records().map(move |record| {
        let record =
            record.map_err(|error| damaged(name, error.position().map_or(0, csv::Position::line), "columns"))?;
        let line = record.position().map_or(0, csv::Position::line);
        let fields: Vec<String> = record.iter().map(str::to_owned).collect();
        let fields = fields.try_into().map_err(|_| damaged(name, line, "columns"))?;
        Ok((line, fields))
    })
}

fn grams(table: &'static str, line: u64, text: &str) -> Result<GramsCo2ePerKwh, FactorError> {
    let value = text.parse().ok().and_then(|value| GramsCo2ePerKwh::new(value).ok());
    value.ok_or_else(|| damaged(table, line, "g_co2e_per_kwh"))
}

pub(super) fn damaged(table: &'static str, line: u64, column: &'static str) -> FactorError {
    FactorError::DamagedTable { table, line, column }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_stands_in_a_country_of_the_table() {
        let tables = Tables::embedded().expect("embedded tables");
        assert!(tables.countries.len() > 200 && tables.regions.len() > 100);
        for (name, region) in &tables.regions {
            assert!(tables.countries.contains_key(&region.country), "{name} stands in {}", region.country);
        }
    }

    #[test]
    fn a_country_is_found_by_either_code_in_any_case() {
        let tables = Tables::embedded().expect("embedded tables");
        assert_eq!(tables.country_code("fr"), Ok("FRA".to_owned()));
        assert_eq!(tables.country_code(" Fra "), Ok("FRA".to_owned()));
        assert!(tables.country_code("FRX").expect_err("unknown").contains(&"FRA".to_owned()));
    }
}
