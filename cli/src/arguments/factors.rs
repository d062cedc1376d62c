//! What is asked and told of series of factors.

use super::{FormArguments, KindName};
use clap::{Args, Subcommand, ValueEnum};
use joulebook_sci::quantity::Quantity;
use std::path::PathBuf;

/// Series of factors.
#[derive(Debug, Subcommand)]
pub enum FactorsCommand {
    /// The series, how far they reach, and why a source fails
    List(FormArguments),
    /// Add the cells of a CSV file (columns start, value and, if there are some, end and status) to a series
    Push(PushArguments),
}

/// Arguments of `factors push`.
#[derive(Debug, Args)]
pub struct PushArguments {
    /// Name of the series, as the aggregator's configuration names it in [[factor]]
    #[arg(long, value_name = "NAME")]
    pub series: String,
    /// What the values are
    #[arg(long, value_enum, default_value_t = QuantityName::Intensity)]
    pub quantity: QuantityName,
    /// What an intensity says
    #[arg(long, value_enum, required_if_eq("quantity", "intensity"))]
    pub kind: Option<KindName>,
    /// Which emissions an intensity counts
    #[arg(long, value_enum, required_if_eq("quantity", "intensity"))]
    pub basis: Option<BasisName>,
    /// Unit of intensities [default: g-per-kwh; where all are below 2 it must be said]
    #[arg(long, value_enum)]
    pub unit: Option<UnitName>,
    /// Grid zone or site [default: the name of the series]
    #[arg(long)]
    pub zone: Option<String>,
    /// Data set, for people
    #[arg(long, default_value = "pushed")]
    pub source: String,
    /// How the outcome is printed.
    #[command(flatten)]
    pub form: FormArguments,
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Quantity of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum QuantityName {
    /// Grid carbon intensity in g/kWh
    Intensity,
    /// Power usage effectiveness
    Pue,
    /// Water of the site in l/kWh of IT energy
    WueSite,
    /// Water of making the electricity in l/kWh
    WueSource,
}

impl QuantityName {
    /// The quantity.
    pub fn quantity(self) -> Quantity {
        match self {
            Self::Intensity => Quantity::Intensity,
            Self::Pue => Quantity::Pue,
            Self::WueSite => Quantity::WueSite,
            Self::WueSource => Quantity::WueSource,
        }
    }

    /// The contract's word.
    pub fn word(self) -> &'static str {
        self.quantity().name()
    }
}

/// Unit of intensities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnitName {
    /// Grams per kilowatt-hour
    GPerKwh,
    /// Kilograms per kilowatt-hour
    KgPerKwh,
}

impl UnitName {
    /// What a value is multiplied by.
    pub(crate) fn factor(self) -> f64 {
        match self {
            Self::GPerKwh => 1.0,
            Self::KgPerKwh => 1000.0,
        }
    }
}

/// Which emissions an intensity counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BasisName {
    /// Over the life of plant and fuel
    Lifecycle,
    /// Of the plant alone
    Direct,
}

impl BasisName {
    /// The contract's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Direct => "direct",
        }
    }
}
