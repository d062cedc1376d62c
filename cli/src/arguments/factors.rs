//! What is asked and told of series of factors.

use super::{FormArguments, KindName};
use clap::{Args, Subcommand, ValueEnum};
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
    /// The contract's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Intensity => "intensity",
            Self::Pue => "pue",
            Self::WueSite => "wue_site",
            Self::WueSource => "wue_source",
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
