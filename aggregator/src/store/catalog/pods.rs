//! Which pod each workload is of, kept as series are told: a question does not look at every series of the fleet for it.

use joulebook_units::{PodIdentity, Workload};
use std::collections::BTreeMap;

/// The pod of each workload of a node that is of one, by the workload's identity; none where only that it is of one is
/// known. What was counted before a pod was known is of it as well: a container never changes its pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodePods(BTreeMap<String, Told>);

/// What is known of a workload's pod.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    /// The series that told it: stream and number.
    series: (u32, u32),
    pod: Option<PodIdentity>,
}

impl NodePods {
    /// The pod of a workload: none if it is of no pod, and within that none if it is not known of which.
    pub fn get(&self, workload: &str) -> Option<Option<&PodIdentity>> {
        self.0.get(workload).map(|told| told.pod.as_ref())
    }

    /// Workloads whose pods are known by name.
    pub fn named(&self) -> impl Iterator<Item = (&str, &PodIdentity)> {
        self.0.iter().filter_map(|(workload, told)| Some((workload.as_str(), told.pod.as_ref()?)))
    }

    /// Whether a series tells anything that is not known. What the latest series that names a pod says holds, in whatever
    /// order they come.
    pub(super) fn is_news(&self, series: (u32, u32), workload: &Workload) -> bool {
        match self.0.get(&workload.id) {
            None => workload.pod.is_some() || workload.pod_uid.is_some(),
            Some(told) => workload.pod.is_some() && (told.pod.is_none() || told.series < series),
        }
    }

    /// Takes what a series tells.
    pub(crate) fn note(&mut self, series: (u32, u32), workload: &Workload) {
        self.0.insert(workload.id.clone(), Told { series, pod: workload.pod.clone() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use joulebook_units::WorkloadKind;

    fn workload(uid: Option<&str>, pod: Option<&str>) -> Workload {
        let pod = pod.map(|name| PodIdentity { name: name.to_owned(), ..PodIdentity::default() });
        let pod_uid = uid.map(str::to_owned);
        Workload { pod, pod_uid, ..Workload::bare("container/a", WorkloadKind::Container, "a") }
    }

    #[test]
    fn the_latest_series_that_names_a_pod_holds_in_whatever_order_they_are_told() {
        let series = [
            ((0, 1), workload(Some("u"), Some("first"))),
            ((0, 2), workload(None, None)),
            ((1, 1), workload(Some("u"), Some("last"))),
            ((2, 1), workload(Some("u"), None)),
        ];
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1], [1, 3, 0, 2]] {
            let mut pods = NodePods::default();
            for index in order {
                let (key, workload) = &series[index];
                if pods.is_news(*key, workload) {
                    pods.note(*key, workload);
                }
            }
            let name = pods.get("container/a").map(|pod| pod.map(|pod| pod.name.as_str()));
            assert_eq!(name, Some(Some("last")), "{order:?}");
            assert_eq!((pods.named().count(), pods.get("container/b")), (1, None));
        }
        let mut pods = NodePods::default();
        assert!(!pods.is_news((0, 2), &series[1].1), "it is of no pod");
        pods.note((2, 1), &series[3].1);
        assert_eq!((pods.get("container/a"), pods.named().count()), (Some(None), 0));
    }
}
