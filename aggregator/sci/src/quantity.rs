//! The quantities that series of factors hold, their units and ranges, and what an intensity says of the grid.

/// What a series is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quantity {
    /// Grid carbon intensity in g/kWh.
    Intensity,
    /// Power usage effectiveness, dimensionless.
    Pue,
    /// Water that the site itself evaporates, in litres per kWh of IT energy.
    WueSite,
    /// Water that making the electricity takes, in litres per kWh.
    WueSource,
}

/// A value that a quantity cannot have.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{value} is no {}: it must be {} to {} {}", quantity.name(), quantity.range().0, quantity.range().1, quantity.unit())]
pub struct OutOfRange {
    /// The quantity.
    pub quantity: Quantity,
    /// The value.
    pub value: f64,
}

impl Quantity {
    /// All.
    pub const ALL: [Self; 4] = [Self::Intensity, Self::Pue, Self::WueSite, Self::WueSource];

    /// Its name in the contract and in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Intensity => "intensity",
            Self::Pue => "pue",
            Self::WueSite => "wue_site",
            Self::WueSource => "wue_source",
        }
    }

    /// The quantity of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|quantity| quantity.name() == name)
    }

    /// Its unit.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Intensity => "g/kWh",
            Self::Pue => "",
            Self::WueSite | Self::WueSource => "l/kWh",
        }
    }

    /// Least and greatest value: beyond them a table is in another unit, or a PUE below 1 makes energy of nothing.
    pub fn range(self) -> (f64, f64) {
        match self {
            Self::Intensity => (0.0, 2000.0),
            Self::Pue => (1.0, 10.0),
            Self::WueSite | Self::WueSource => (0.0, 100.0),
        }
    }

    /// Refuses what is out of range, not a number included.
    pub fn check(self, value: f64) -> Result<f64, OutOfRange> {
        let (least, most) = self.range();
        if (least..=most).contains(&value) { Ok(value) } else { Err(OutOfRange { quantity: self, value }) }
    }
}

/// What an intensity says. Kinds are never summed, compared, or put in the place of each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Of what is consumed in the zone, with imports.
    AverageConsumption,
    /// Of what is produced in the zone.
    AverageProduction,
    /// Of the plant that follows the load now.
    MarginalShortRun,
    /// Of what is built because of the load.
    MarginalLongRun,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 4] =
        [Self::AverageConsumption, Self::AverageProduction, Self::MarginalShortRun, Self::MarginalLongRun];

    /// Its name in the contract and in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::AverageConsumption => "average_consumption",
            Self::AverageProduction => "average_production",
            Self::MarginalShortRun => "marginal_short_run",
            Self::MarginalLongRun => "marginal_long_run",
        }
    }

    /// The kind of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether it is marginal, as the first edition of ISO/IEC 21031 asks for.
    pub fn is_marginal(self) -> bool {
        matches!(self, Self::MarginalShortRun | Self::MarginalLongRun)
    }
}

/// Which emissions an intensity counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Basis {
    /// Over the life of plant and fuel.
    Lifecycle,
    /// Of the plant alone.
    Direct,
}

impl Basis {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Lifecycle, Self::Direct];

    /// Its name in the contract and in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Direct => "direct",
        }
    }

    /// The basis of that name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|basis| basis.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn what_a_quantity_cannot_be_is_refused_with_its_range() {
        for (quantity, value) in [
            (Quantity::Intensity, -0.1),
            (Quantity::Intensity, 50_000.0),
            (Quantity::Intensity, f64::NAN),
            (Quantity::Pue, 0.99),
            (Quantity::Pue, f64::INFINITY),
            (Quantity::WueSite, -1.0),
        ] {
            assert!(quantity.check(value).is_err(), "{value} as {}", quantity.name());
        }
        let message = Quantity::Pue.check(0.5).map_err(|error| error.to_string());
        assert_eq!(message, Err("0.5 is no pue: it must be 1 to 10 ".to_string()));
        assert!(Quantity::Intensity.check(0.0).is_ok() && Quantity::Pue.check(1.0).is_ok());
    }

    #[test]
    fn names_lead_back_to_what_they_name() {
        assert!(Quantity::ALL.into_iter().all(|quantity| Quantity::of(quantity.name()) == Some(quantity)));
        assert!(Kind::ALL.into_iter().all(|kind| Kind::of(kind.name()) == Some(kind)));
        assert!(Basis::ALL.into_iter().all(|basis| Basis::of(basis.name()) == Some(basis)));
    }
}
