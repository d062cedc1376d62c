//! Descriptions that are held, each once: agents that start again describe the same series to another stream, nodes of one kind
//! have parts of the same names, and what a service is stands behind each of its counts.

use crate::store::block::descriptor::Entity;
use joulebook_units::{Consumption, Inventory, Service, Source, Subject, Workload};
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

/// Values by their hash. One that nobody holds any more goes when there are twice as many as were held last time.
#[derive(Debug)]
struct Shared<T> {
    hasher: RandomState,
    held: HashMap<u64, Arc<T>>,
    /// How many there may be before it is looked who still holds them.
    limit: usize,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), held: HashMap::new(), limit: Self::FEWEST }
    }
}

impl<T> Shared<T> {
    /// Fewer are not looked through.
    const FEWEST: usize = 1_024;
}

impl<T: Hash + Eq> Shared<T> {
    /// The one that is equal to this, if it is held already.
    fn share(&mut self, value: Arc<T>) -> Arc<T> {
        let hash = self.hasher.hash_one(&*value);
        match self.held.get(&hash) {
            Some(held) if *held == value => return Arc::clone(held),
            // Two that differ have one hash of 64 bits: the second is held by those who use it alone.
            Some(_) => return value,
            None => {}
        }
        if self.held.len() >= self.limit {
            self.held.retain(|_, held| Arc::strong_count(held) > 1);
            self.limit = (2 * self.held.len()).max(Self::FEWEST);
            self.held.shrink_to(self.limit);
        }
        self.held.insert(hash, Arc::clone(&value));
        value
    }
}

/// What is described: series, and what they are of.
#[derive(Debug, Default)]
pub(super) struct Subjects {
    subjects: Shared<Subject>,
    sources: Shared<Source>,
    services: Shared<Service>,
    workloads: Shared<Workload>,
    consumptions: Shared<Consumption>,
}

impl Subjects {
    /// The description that is equal to this, if it is held already, or this one with the parts of it that are.
    pub(super) fn share(&mut self, subject: Subject) -> Arc<Subject> {
        self.subjects.share(Arc::new(match subject {
            Subject::Energy(source) => Subject::Energy(self.sources.share(source)),
            Subject::CpuTime(workload) => Subject::CpuTime(self.workloads.share(workload)),
            Subject::Count(service, kind) => Subject::Count(self.services.share(service), kind),
            Subject::Consumption(of, kind) => Subject::Consumption(self.consumptions.share(of), kind),
            other => other,
        }))
    }

    /// The same for what cells name.
    pub(super) fn share_entity(&mut self, entity: Entity) -> Entity {
        match entity {
            Entity::Service(service) => Entity::Service(self.services.share(service)),
            Entity::Workload(workload) => Entity::Workload(self.workloads.share(workload)),
            Entity::Consumption(of) => Entity::Consumption(self.consumptions.share(of)),
            Entity::Source(_) => entity,
        }
    }

    /// The same for the sources of an inventory: most of them have series.
    pub(super) fn share_sources(&mut self, inventory: &mut Inventory) {
        for state in &mut inventory.sources {
            state.source = self.sources.share(Arc::clone(&state.source));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::{
        Component, CountKind, Hardware, Method, Milliwatts, Placement, Serving, SourceState, VersionSource,
        WorkloadKind,
    };

    fn service(target: &str) -> Service {
        Service {
            model: Some("model".to_owned()),
            version: None,
            version_source: VersionSource::Unresolved,
            fingerprint: None,
            adapter: None,
            engine: "vllm".to_owned(),
            target: target.to_owned(),
            workload: None,
            tokenizer: None,
            serving: Serving::default(),
        }
    }

    fn source() -> Arc<Source> {
        Arc::new(Source {
            id: "rapl/package-0".to_owned(),
            component: Component::Cpu,
            socket: Some(0),
            device: None,
            collector: "rapl".to_owned(),
            method: Method::Counter,
            unit_nanojoules: Some(61_035),
            ceiling: Milliwatts(600_000),
            uncertainty_permille: 50,
            contained_in: None,
            scope: None,
            basis: "energy_uj".to_owned(),
        })
    }

    fn subject(number: usize) -> Subject {
        Subject::Memory { workload: format!("container/{number}") }
    }

    #[test]
    fn equal_descriptions_are_one_and_different_ones_are_not() {
        let mut subjects = Subjects::default();
        let (first, other) = (subjects.share(subject(1)), subjects.share(subject(2)));
        assert!(Arc::ptr_eq(&first, &subjects.share(subject(1))));
        assert!(!Arc::ptr_eq(&first, &other));
        assert_eq!((&*first, &*other), (&subject(1), &subject(2)));
    }

    #[test]
    fn what_a_service_is_stands_once_behind_its_counts_and_a_source_behind_its_series_and_its_node() {
        let mut subjects = Subjects::default();
        let service = || Arc::new(service("http://localhost:8000"));
        let mut of = |kind| match &*subjects.share(Subject::Count(service(), kind)) {
            Subject::Count(service, _) => Arc::clone(service),
            other => panic!("{other:?}"),
        };
        let (one, other) = (of(CountKind::InputTokens), of(CountKind::OutputTokens));
        assert!(Arc::ptr_eq(&one, &other));
        let Entity::Service(named) = subjects.share_entity(Entity::Service(service())) else { panic!("a service") };
        assert!(Arc::ptr_eq(&one, &named), "also where cells name it");
        let state = SourceState { source: source(), unavailable: None };
        let mut inventory = Inventory {
            node: "gpu-1".parse().expect("a name"),
            agent_version: "1".to_owned(),
            sources: vec![state],
            hardware: Hardware::default(),
            placement: Placement::default(),
        };
        subjects.share_sources(&mut inventory);
        let subject = subjects.share(Subject::Energy(source()));
        assert!(matches!(&*subject, Subject::Energy(source) if Arc::ptr_eq(source, &inventory.sources[0].source)));
    }

    #[test]
    fn descriptions_that_nobody_uses_do_not_pile_up() {
        const FEWEST: usize = Shared::<Subject>::FEWEST;
        let mut subjects = Subjects::default();
        let used: Vec<_> = (0..3 * FEWEST).map(|number| subjects.share(subject(number))).collect();
        for number in 0..100 * FEWEST {
            subjects.share(subject(used.len() + number));
            assert!(subjects.subjects.held.len() <= 2 * used.len(), "{}", subjects.subjects.held.len());
        }
        for (number, used) in used.iter().enumerate() {
            assert!(Arc::ptr_eq(used, &subjects.share(subject(number))), "what is used stays");
        }
        drop(used);
        (0..7 * FEWEST).for_each(|number| drop(subjects.share(subject(1_000_000 + number))));
        let Shared { held, .. } = &subjects.subjects;
        assert!(held.len() <= FEWEST && held.capacity() < 4 * FEWEST);
    }

    #[test]
    fn what_descriptions_are_of_does_not_pile_up_either() {
        let mut subjects = Subjects::default();
        let workload = |number: usize| Workload::bare(number.to_string(), WorkloadKind::Container, "one");
        for number in 0..100 * Shared::<Workload>::FEWEST {
            drop(subjects.share(Subject::CpuTime(workload(number).into())));
            // A description that nobody uses holds its workload until it goes itself.
            assert!(subjects.workloads.held.len() <= 4 * Shared::<Workload>::FEWEST, "{number}");
        }
    }
}
