//! Arguments of `idle`, and the scope in which idle capacity is charged.

use super::{AdminForm, Believed, Idle, KindName, Per, PeriodArguments, as_of};
use clap::{Args, ValueEnum};
use joulebook_proto::query::IdleScope;

/// Arguments of `idle`.
#[derive(Debug, Args)]
pub struct IdleArguments {
    /// When.
    #[command(flatten)]
    pub period: PeriodArguments,
    /// Per what the figures of versions are told [default: total tokens where they are known, else requests]
    #[arg(long, value_enum)]
    pub per: Option<Per>,
    /// How pool idle is charged; every policy's sums are shown beside it
    #[arg(long, value_enum, default_value_t = Idle::ReservedCapacityTime)]
    pub idle: Idle,
    /// First scope in which pool idle looks for versions to be charged to
    #[arg(long, value_enum, default_value_t = ScopeName::Node)]
    pub idle_scope: ScopeName,
    /// Which side is believed where metered parts exceed the meter at a node's input
    #[arg(long, value_enum, default_value_t = Believed::Components)]
    pub trust: Believed,
    /// Kind of carbon intensity [default: that of the site's first series, else of its tables]
    #[arg(long, value_enum, value_name = "KIND")]
    pub intensity: Option<KindName>,
    /// Stored series as they were known at this time, written like --from [default: as they are known now]
    #[arg(long, value_name = "TIME", value_parser = as_of)]
    pub as_of: Option<i64>,
    /// How the answer is printed
    #[arg(short, long, value_enum, default_value_t = AdminForm::Table)]
    pub output: AdminForm,
}

/// First scope in which pool idle is charged; where nobody has a weight, the next is asked, and the last is the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ScopeName {
    /// Versions on the same node, then in its pool, then anywhere
    Node,
    /// Versions in the same pool, then anywhere
    Pool,
    /// Versions anywhere
    Cluster,
}

impl ScopeName {
    /// The contract's value.
    pub fn wire(self) -> IdleScope {
        match self {
            Self::Node => IdleScope::Node,
            Self::Pool => IdleScope::Pool,
            Self::Cluster => IdleScope::Cluster,
        }
    }
}
