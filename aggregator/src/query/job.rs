//! What a job on the nodes used, as their agents measured it. A job that trained a version is no inference: its energy is
//! booked on its workload, and becomes the version's T.

use super::gather::{Gathered, Pods, Slot};
use super::{Query, QueryError};
use crate::factor::Asked;
use crate::store::NodePods;
use joulebook_sci::operational::{CompensatedSum, facility, operational};
use joulebook_sci::reconcile::Trust;
use joulebook_sci::share::portion;
use joulebook_sci::{Account, Cell, Purpose, Rate};
use joulebook_units::{Component, GramsCo2e, Microjoules, Window, Workload};
use std::sync::Arc;

/// A job: some workloads, on some nodes, for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its workloads.
    pub of: JobOf,
    /// The nodes; empty: wherever it ran.
    pub nodes: Vec<String>,
    /// When.
    pub window: Window,
}

/// How the workloads of a job are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOf {
    /// By id, name or pod uid.
    Workload(String),
    /// By the pods that are labelled as training of one of these names.
    TrainingOf(Vec<String>),
}

/// What a job used.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JobUse {
    /// Energy at the nodes' inputs: that of its parts and their share of the platform.
    pub energy: Microjoules,
    /// Operational carbon, by the PUE and the intensity of each instant.
    pub operational: GramsCo2e,
    /// Embodied carbon of the hosts, by the part of the base energy of their accelerators (of their processors, where they
    /// have none) that is the job's: base energy goes by what is held.
    pub embodied: GramsCo2e,
}

impl Query {
    /// What a job used.
    ///
    /// # Errors
    /// [`QueryError::NotFound`] where it used nothing, [`QueryError::Factor`] where an intensity is missing: a part of a job
    /// is none. Else the store's.
    pub fn job(&self, job: &Job) -> Result<JobUse, QueryError> {
        let (factors, labels) = (Arc::clone(&self.factors.borrow()), Arc::clone(&self.directories.borrow()));
        let gathered = Gathered::new(&self.book, &factors, job.window, Asked::default(), self.present(&labels))?;
        let pods = if matches!(job.of, JobOf::TrainingOf(_)) { gathered.pods() } else { Pods::new() };
        let mut energy = 0u64;
        let (mut grams, mut made) = (CompensatedSum::default(), CompensatedSum::default());
        for window in gathered.windows() {
            let Slot { nodes, factors, .. } = gathered.slot(window, Trust::Components)?;
            let named = |node: &str| job.nodes.is_empty() || job.nodes.iter().any(|name| name == node);
            for (node, site) in nodes.iter().zip(&factors).filter(|(node, _)| named(&node.node)) {
                let pods = pods.get(&node.node).map(Arc::as_ref);
                let own = job.energy(&node.cell, pods);
                if own == 0 {
                    continue;
                }
                let Rate::Known(intensity) = site.intensity else {
                    let why = "the intensity is missing for a part of the job; state one, or end the job before it";
                    return Err(QueryError::Factor(why.to_owned()));
                };
                energy = energy.saturating_add(own);
                grams.add(operational(facility(Microjoules(own).to_joules(), site.pue), intensity).0);
                made.add(node.embodied_g * job.held(&node.cell, pods));
            }
        }
        if energy == 0 {
            let none = match &job.of {
                JobOf::Workload(name) => format!("no workload `{name}` used energy then"),
                JobOf::TrainingOf(names) => {
                    format!("no pod that is labelled as training of `{}` used energy then", names.join("` or `"))
                }
            };
            return Err(QueryError::NotFound(none));
        }
        Ok(JobUse { energy: Microjoules(energy), operational: GramsCo2e(grams.get()), embodied: GramsCo2e(made.get()) })
    }
}

impl Job {
    /// Whether a workload is the job's; `pods` are those of the node's workloads.
    fn is(&self, workload: &Workload, pods: Option<&NodePods>) -> bool {
        match &self.of {
            JobOf::Workload(own) => {
                let names = [Some(&workload.id), Some(&workload.name), workload.pod_uid.as_ref()];
                names.into_iter().flatten().any(|name| name == own)
            }
            JobOf::TrainingOf(own) => {
                let known = || pods?.get(&workload.id)?;
                let pod = workload.pod.as_ref().or_else(known);
                pod.and_then(|pod| pod.training_of.as_ref()).is_some_and(|label| own.contains(label))
            }
        }
    }

    /// Energy of the job's workloads in a cell, with their share of the platform, in µJ.
    fn energy(&self, cell: &Cell, pods: Option<&NodePods>) -> u64 {
        let own = |account: &Account| matches!(account, Account::Workload(workload) if self.is(workload, pods));
        let entries = cell.entries.iter().filter(|(key, _)| own(&key.account));
        let parts = entries.fold(0u64, |sum, (_, energy)| sum.saturating_add(*energy));
        let platform = cell.platform_microjoules();
        let components = cell.total_microjoules().saturating_sub(platform);
        parts.saturating_add(portion(platform, parts, components.max(1)))
    }

    /// The job's part of what is held of a host.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    fn held(&self, cell: &Cell, pods: Option<&NodePods>) -> f64 {
        let component = if cell.capacity_device_nanos > 0 { Component::Accelerator } else { Component::Cpu };
        let (mut own, mut all) = (0u64, 0u64);
        for (key, energy) in cell.entries.iter().filter(|(key, _)| key.component == component) {
            if !matches!(key.purpose, Purpose::Base | Purpose::DedicatedIdle | Purpose::PoolIdle) {
                continue;
            }
            all = all.saturating_add(*energy);
            if matches!(&key.account, Account::Workload(workload) if self.is(workload, pods)) {
                own = own.saturating_add(*energy);
            }
        }
        if all > 0 { own as f64 / all as f64 } else { 0.0 }
    }
}
