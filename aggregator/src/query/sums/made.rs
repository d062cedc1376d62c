//! What is made of a part for a question: out of its slots, and never out of sums.

use super::{DAY_SECONDS, QUIET_SECONDS, TAUGHT_DAYS};
use crate::query::QueryError;
use crate::query::gather::Gathered;
use crate::query::question::Question;
use crate::query::rated::Rated;
use crate::store::{ChangedCells, Resolution};
use joulebook_units::{UnixNanos, Window};

/// What was added up for a question.
pub(super) struct Made {
    window: Window,
    /// Without anything of factors where the question is about energy.
    pub(super) rated: Rated,
    pub(super) taught: bool,
    clean: bool,
}

impl Made {
    /// Of a question about energy, or about what its factors make of it.
    pub(super) fn of(
        gathered: &Gathered<'_>,
        (question, with_factors): (&Question, bool),
        window: Window,
    ) -> Result<Self, QueryError> {
        let mut rated = Rated::new(question);
        gathered.take_learned();
        for part in gathered.windows_of(window) {
            if with_factors {
                let slot = gathered.slot(part, question.trust)?;
                if !slot.nodes.is_empty() {
                    rated.add(&slot, question.level);
                }
            } else {
                let (nodes, _) = gathered.energy_slot(part, question.trust)?;
                if !nodes.is_empty() {
                    rated.totals.add_energy(&nodes);
                }
            }
        }
        Ok(Self { window, rated, taught: gathered.take_learned(), clean: gathered.is_clean(window) })
    }

    /// Whether it is what it would be if it were made anew: nothing came to it since, and all that taught it is over.
    pub(super) fn stands(&self, changed: Option<&ChangedCells>, now: UnixNanos) -> bool {
        let Some(changed) = changed.filter(|_| self.clean) else { return false };
        let first = match self.taught {
            true => self.window.start().floor_to(DAY_SECONDS).plus_seconds(-TAUGHT_DAYS * DAY_SECONDS),
            false => self.window.start().floor_to(Resolution::Settled.seconds()),
        };
        let end = if self.taught { self.window.end().ceil_to(DAY_SECONDS) } else { self.window.end() };
        let is_over = !self.taught || end <= now.plus_seconds(-QUIET_SECONDS);
        let gone = changed.before.is_some_and(|before| before > first);
        is_over && !gone && changed.slots.range(first..end).next().is_none()
    }
}
