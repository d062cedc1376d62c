//! The extended boundary: training, amortised over the units served. Gated, labelled, and never part of the score.

use super::*;
use crate::training::disclosure::{TracingName, word};
use crate::training::{self, Disclosure, Family, Pool, Served, Share, TrainingError};
use joulebook_sci::training::Gate;
use joulebook_sci::uncertainty::{TRAINING_ASSUMED, TRAINING_DISCLOSED, TRAINING_UNITS};

const LABEL: &str = "extended_training_amortised";
const ASSUMED: &str = "extended_assumed";
/// Fields that are absent where there is no figure.
const FIGURES: [&str; 5] = ["sci", "low", "high", "training_g", "per_unit_g"];

impl Context<'_> {
    /// The block: empty unless it was asked for, without figures unless every gate is met.
    pub(super) fn extended(&self, parts: &Parts<'_>, missing: &mut Missing) -> Result<wire::Extended, QueryError> {
        let absent = |missing: &mut Missing, reason: &str| {
            FIGURES.into_iter().for_each(|field| missing.note(&format!("extended.{field}"), reason));
        };
        let none = wire::Extended { label: LABEL.to_owned(), ..wire::Extended::default() };
        if !self.question.extended {
            absent(missing, "it was not asked for: training is never in a default answer");
            return Ok(none);
        }
        let pools = training::pools(self.book, self.question.factors.as_of)?;
        let family = Family::new(&pools, Served::new(self.book, self.generated_at));
        let version = parts.version;
        let found = match (&version.model, &version.version) {
            (Some(model), Some(number)) => family.of(model, number, version.weights.as_deref()),
            _ => Vec::new(),
        };
        let disclosed = match found.as_slice() {
            [(name, disclosure)] => Some((*name, *disclosure)),
            _ => None,
        };
        let consistent = match disclosed {
            Some((name, _)) => family.consistent(name).map_err(failed)?,
            None => true,
        };
        let named = version.model.is_some() && version.version.is_some();
        let untraced = disclosed.map_or(0.0, |(_, disclosure)| self.untraced(parts, disclosure));
        let strict = disclosed.is_some_and(|(_, disclosure)| disclosure.tracing == TracingName::Strict);
        let traced = named && !(strict && untraced > 0.0);
        let proven = disclosed.is_some_and(|(_, disclosure)| !disclosure.assumed);
        let gates = [(Gate::Disclosure, proven), (Gate::Consistency, consistent), (Gate::Traceability, traced)];
        let failed_gates: Vec<Gate> = gates.into_iter().filter(|(_, met)| !met).map(|(gate, _)| gate).collect();
        let names: Vec<String> = failed_gates.iter().map(|gate| gate.name().to_owned()).collect();
        let mut block = wire::Extended { available: names.is_empty(), failed_gates: names, ..none };
        if found.len() > 1 {
            let pools: Vec<&str> = found.iter().map(|(name, _)| *name).collect();
            block.notes.push(format!("disclosures contradict each other: {}", pools.join(", ")));
        }
        let Some((name, disclosure)) = disclosed else {
            absent(missing, "no training is disclosed for the version");
            return Ok(block);
        };
        describe(&mut block, name, disclosure, pools.get(name));
        if untraced > 0.0 {
            let units = disclosure.unit_name();
            block.notes.push(format!("extended_label=partial: {untraced} {units} of the model carry no version"));
        }
        // A guess is shown as one, behind its gate.
        let guessed = disclosure.assumed && failed_gates == [Gate::Disclosure];
        if guessed {
            block.label = ASSUMED.to_owned();
        }
        if !block.available && !guessed {
            absent(missing, "a gate is not met");
            return Ok(block);
        }
        let share = family.share(name, self.computed.gathered.window).map_err(failed)?;
        self.figures(&mut block, parts, disclosure, &share, missing);
        self.interval(&mut block, parts, &family, &share, missing);
        Ok(block)
    }

    /// Units of a window that the model served and no version is told of: they carry no training.
    fn untraced(&self, parts: &Parts<'_>, disclosure: &Disclosure) -> f64 {
        let versions = self.computed.totals.versions.iter();
        let untold = versions.filter(|(other, _)| other.version.is_none() && other.model == parts.version.model);
        untold.filter_map(|(_, totals)| disclosure.count(&totals.cost.used)).sum()
    }

    fn figures(
        &self,
        block: &mut wire::Extended,
        parts: &Parts<'_>,
        disclosure: &Disclosure,
        share: &Share,
        missing: &mut Missing,
    ) {
        let used = &parts.totals.cost.used;
        let units = disclosure.count(used);
        let training = units.map(|units| units * share.per_unit_g);
        let unknown = "the engine does not tell the unit of the pool";
        block.per_unit_g = Some(share.per_unit_g);
        block.training_g = missing.or_note(training, "extended.training_g", unknown);
        let asked = parts.unit.count(used).filter(|asked| *asked > 0.0);
        let inference = self.sci(parts, &mut Missing::default()).value;
        let with = inference.zip(training).zip(asked).map(|((sci, training), asked)| sci + training / asked);
        block.sci = missing.or_note(with, "extended.sci", "the version has no score that training could be added to");
        block.unit = format!("gCO2e/{}", parts.unit.name());
        block.ledgers = share
            .ledgers
            .iter()
            .map(|(name, weight, account)| wire::TrainingLedger {
                pool_id: name.clone(),
                weight: *weight,
                training_g: account.training,
                expected_units: account.units,
                used_units: account.used,
                allocated_g: account.allocated,
                written_off_g: account.written_off,
                remaining_g: account.remaining,
                fully_amortised: account.fully_amortised,
            })
            .collect();
        block.notes.extend(share.undisclosed.iter().map(|pool| format!("base_training=undisclosed: {pool}")));
        if share.ledgers.iter().any(|(.., account)| account.fully_amortised) {
            block.notes.push("fully_amortised".to_owned());
        }
        block.notes.push("double_report_risk: whoever reports T itself must not also sum this".to_owned());
    }

    /// The interval around both: what the score's errors are, and those of T and N of each pool.
    fn interval(
        &self,
        block: &mut wire::Extended,
        parts: &Parts<'_>,
        family: &Family<'_>,
        share: &Share,
        missing: &mut Missing,
    ) {
        let asked = parts.unit.count(&parts.totals.cost.used).filter(|asked| *asked > 0.0);
        let figures = asked.zip(block.sci).zip(block.training_g);
        let ends = figures.map(|((asked, sci), training)| {
            let carbon = &parts.totals.carbon;
            let mut deviations = carbon.deviations.clone();
            for (pool, grams) in share.by_pool_g.iter().filter(|(_, grams)| **grams > 0.0) {
                let carried = training * grams / share.per_unit_g;
                let told = if family.assumed(pool) { TRAINING_ASSUMED } else { TRAINING_DISCLOSED };
                deviations.add(&format!("training:{pool}"), carried, told);
                deviations.add(&format!("training-units:{pool}"), carried, TRAINING_UNITS);
            }
            let (low, high) = deviations.interval(sci * asked, 0.0, carbon.gap_high.get());
            (low / asked, high / asked)
        });
        let unknown = "there is no figure that it would be around";
        block.low = missing.or_note(ends.map(|(low, _)| low), "extended.low", unknown);
        block.high = missing.or_note(ends.map(|(_, high)| high), "extended.high", unknown);
    }
}

fn describe(block: &mut wire::Extended, name: &str, disclosure: &Disclosure, pool: Option<&Pool>) {
    block.pool_id = name.to_owned();
    block.allocation_unit = disclosure.unit_name();
    block.n_policy = word(&disclosure.n_policy);
    block.lineage_policy = word(&disclosure.lineage_policy);
    block.t_scope = word(&disclosure.scope);
    let measured = || {
        let job = disclosure.measured.as_ref()?;
        let named = |name: &String| format!("measured: workload {name}");
        Some(job.workload.as_ref().map_or_else(|| "measured: pods that are labelled as its training".to_owned(), named))
    };
    block.t_source = disclosure.document.clone().or_else(measured).unwrap_or_default();
    block.remainder_policy = word(&disclosure.remainder);
    block.revision = pool.and_then(Pool::revision).map(rfc3339).unwrap_or_default();
}

fn failed(error: TrainingError) -> QueryError {
    match error {
        TrainingError::Store(error) => QueryError::Store(error),
        other => QueryError::Factor(other.to_string()),
    }
}
