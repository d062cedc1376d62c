//! Which intensity holds: the chain from fine to coarse, and mixes of sources (methodology A.3).

use joulebook_units::{GramsCo2ePerKwh, InvalidQuantity};

/// A step of the chain; the first that knows a value gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Stated by the operator.
    Override,
    /// The grid zone or cloud region.
    Zone,
    /// The country.
    Country,
    /// The world: coarser than SCI accepts.
    World,
}

impl Place {
    /// All, from fine to coarse.
    pub const ALL: [Self; 4] = [Self::Override, Self::Zone, Self::Country, Self::World];
}

/// The first of [`Place::ALL`] for which `find` knows something. Coarser ones are not asked.
pub fn resolve<T>(mut find: impl FnMut(Place) -> Option<T>) -> Option<(Place, T)> {
    Place::ALL.into_iter().find_map(|place| find(place).map(|found| (place, found)))
}

/// Intensity of a mix: Σ share × factor, all factors of one set. Refuses a result that is no intensity.
pub fn mix(sources: impl IntoIterator<Item = (f64, GramsCo2ePerKwh)>) -> Result<GramsCo2ePerKwh, InvalidQuantity> {
    GramsCo2ePerKwh::new(sources.into_iter().map(|(share, factor)| share * factor.get()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_finest_place_that_knows_a_value_gives_it_and_no_coarser_one_is_asked() {
        let mut asked = alloc::vec::Vec::new();
        let found = resolve(|place| {
            asked.push(place);
            (place >= Place::Country).then_some(7)
        });
        assert_eq!(found, Some((Place::Country, 7)));
        assert_eq!(asked, [Place::Override, Place::Zone, Place::Country]);
        assert_eq!(resolve(|_| None::<u8>), None);
    }
}
