//! Workloads that work for inference: their service group by their pod or the configuration, their engine by the names of
//! their processes. Where no counts tell what they serve, their energy is charged to their group, or stands as inference that
//! nothing attributes.

use super::{Group, Used, Workloads};
use crate::directory::{Directory, Pod};
use crate::inference::discovery::engine_of_name;
use joulebook_units::Workload;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// A control group of this node whose processes work for a service group.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// The service group, as the targets name it.
    pub service_group: String,
    /// Path of the control group, from /.
    pub cgroup: String,
}

/// What is known of who works with whom.
#[derive(Debug, Clone)]
pub(super) struct Together {
    pub(super) directory: watch::Receiver<Arc<Directory>>,
    members: Vec<Member>,
}

impl Default for Together {
    fn default() -> Self {
        Self { directory: watch::channel(Arc::default()).1, members: Vec::new() }
    }
}

impl Workloads {
    /// Knows the pods of the node, and control groups that are configured as members of service groups.
    #[must_use]
    pub fn among(self, directory: watch::Receiver<Arc<Directory>>, members: Vec<Member>) -> Self {
        Self { together: Together { directory, members }, ..self }
    }

    /// Engines by the control group in which their processes run.
    pub(super) fn engines<'a>(used: impl IntoIterator<Item = &'a Used>) -> BTreeMap<String, &'static str> {
        let named = |one: &'a Used| Some((one.host.clone()?, engine_of_name(&one.process.comm)?));
        used.into_iter().filter_map(named).collect()
    }

    /// Completes a workload by what is known of its group and engine.
    pub(super) fn together(&self, workload: Workload, group: Option<&Group>, engine: Option<&'static str>) -> Workload {
        let path = group.map(|group| group.path.as_str());
        let configured = self.together.members.iter().find(|member| Some(member.cgroup.as_str()) == path);
        let directory = self.together.directory.borrow();
        let pod = workload.pod_uid.as_deref().and_then(|uid| directory.pod(uid));
        let group = configured.map(|member| member.service_group.clone()).or_else(|| pod?.group());
        let pod = pod.map(Pod::identity);
        Workload { group, engine: engine.map(str::to_owned), pod, ..workload }
    }
}
