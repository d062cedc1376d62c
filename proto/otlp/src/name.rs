//! Names of OpenTelemetry that we use, and what each of them says here. Those of the semantic conventions are checked
//! against their crate; none of them is stable yet. `gen_ai.infrastructure.*` is proposed and not accepted. What begins
//! with `joulebook.` is ours.

use joulebook_units::Component;

/// A metric's name, unit and meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name {
    /// The name.
    pub name: &'static str,
    /// The unit (UCUM).
    pub unit: &'static str,
    /// What it says.
    pub help: &'static str,
    /// How far it can be relied on.
    pub stability: Stability,
}

/// How far a name can be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stability {
    /// In the semantic conventions, in development.
    Development,
    /// Proposed for them.
    Proposed,
    /// Ours: it stays within a major version.
    Ours,
}

macro_rules! names {
    ($($(#[doc = $doc:literal])+ $id:ident = $name:literal, $unit:literal, $stability:ident;)+) => {
        $($(#[doc = $doc])+ pub const $id: Name =
            Name { name: $name, unit: $unit, help: concat!($($doc),+), stability: Stability::$stability };)+
        /// All of them.
        pub const ALL: &[Name] = &[$($id),+];
    };
}

names! {
    /// Energy of a part of a host since the export began.
    HW_ENERGY = "hw.energy", "J", Development;
    /// Mean power of a part of a host over the last step.
    HW_POWER = "hw.power", "W", Development;
    /// Energy of a host since the export began: metered at its input, or estimated from its parts.
    HW_HOST_ENERGY = "hw.host.energy", "J", Development;
    /// Mean power of a host over the last step.
    HW_HOST_POWER = "hw.host.power", "W", Development;
    /// Memory of an accelerator.
    HW_GPU_MEMORY_LIMIT = "hw.gpu.memory.limit", "By", Development;
    /// Memory of an accelerator that processes hold.
    HW_GPU_MEMORY_USAGE = "hw.gpu.memory.usage", "By", Development;
    /// Part of the last step in which an accelerator worked.
    HW_GPU_UTILIZATION = "hw.gpu.utilization", "1", Development;
    /// IT energy of a model version since the export began, idle included.
    GEN_AI_ENERGY = "gen_ai.infrastructure.energy", "J", Proposed;
    /// IT energy per token, prompt and generated ones, over the last step.
    GEN_AI_ENERGY_PER_TOKEN = "gen_ai.infrastructure.energy.per_token", "J/{token}", Proposed;
    /// Mean IT power of a model version over the last step, idle included.
    GEN_AI_POWER = "gen_ai.infrastructure.power", "W", Proposed;
    /// Part of a model version's IT energy over the last step that is idle, its own and the pool's.
    GEN_AI_IDLE_RATIO = "gen_ai.infrastructure.idle_ratio", "1", Proposed;
    /// Energy of a model version since the export began, by boundary level.
    MODEL_ENERGY = "joulebook.model.energy", "J", Ours;
    /// Grams of CO2e of a model version since the export began.
    MODEL_CARBON = "joulebook.model.carbon", "g", Ours;
    /// Energy of a model version in a window, by boundary level.
    WINDOW_ENERGY = "joulebook.model.window.energy", "J", Ours;
    /// Grams of CO2e of a model version in a window.
    WINDOW_CARBON = "joulebook.model.window.carbon", "g", Ours;
    /// Grams of CO2e per functional unit in a window: the SCI, unless `joulebook.boundary` says what it is instead.
    WINDOW_SCI = "joulebook.model.window.sci", "g", Ours;
    /// Lower end of its 95 % interval.
    WINDOW_SCI_LOW = "joulebook.model.window.sci.low", "g", Ours;
    /// Upper end of its 95 % interval.
    WINDOW_SCI_HIGH = "joulebook.model.window.sci.high", "g", Ours;
    /// Functional units in a window.
    WINDOW_UNITS = "joulebook.model.window.units", "{unit}", Ours;
    /// Tokens in a window, by kind.
    WINDOW_TOKENS = "joulebook.model.window.tokens", "{token}", Ours;
    /// Part of what the answer needs that is known.
    WINDOW_COVERAGE = "joulebook.model.window.coverage", "1", Ours;
}

/// Names of attributes.
pub mod attribute {
    /// Of the resource: the host.
    pub const HOST_NAME: &str = "host.name";
    /// Of the resource: the host as Kubernetes calls it.
    pub const K8S_NODE_NAME: &str = "k8s.node.name";
    /// Of the resource: the cluster.
    pub const K8S_CLUSTER_NAME: &str = "k8s.cluster.name";
    /// Of the resource: who tells.
    pub const SERVICE_NAME: &str = "service.name";
    /// Of the resource: its version.
    pub const SERVICE_VERSION: &str = "service.version";
    /// A part, within its host.
    pub const HW_ID: &str = "hw.id";
    /// Kind of a part.
    pub const HW_TYPE: &str = "hw.type";
    /// Model of a part.
    pub const HW_MODEL: &str = "hw.model";
    /// What a part belongs to.
    pub const HW_PARENT: &str = "hw.parent";
    /// Model as it is served.
    pub const GEN_AI_REQUEST_MODEL: &str = "gen_ai.request.model";
    /// Version of a model.
    pub const MODEL_VERSION: &str = "joulebook.model.version";
    /// Fingerprint of its weights.
    pub const MODEL_WEIGHTS: &str = "joulebook.model.weights";
    /// Digest of its set-up.
    pub const SERVING_CONFIG: &str = "joulebook.serving_config";
    /// Before the names of our labels.
    pub const PREFIX: &str = "joulebook.";
}

/// The kind of a part in the semantic conventions' words.
pub fn kind(component: Component) -> &'static str {
    match component {
        Component::Cpu => "cpu",
        Component::Dram => "memory",
        Component::Accelerator => "gpu",
        Component::Wall | Component::Other => "enclosure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_semantic_conventions::{attribute as known_attribute, metric as known};

    #[test]
    // `gen_ai.*` has moved to a repository of its own, which has no crate yet; the names are the same.
    #[allow(deprecated)]
    fn names_of_the_semantic_conventions_are_theirs() {
        let theirs = [
            (HW_ENERGY, known::HW_ENERGY),
            (HW_POWER, known::HW_POWER),
            (HW_HOST_ENERGY, known::HW_HOST_ENERGY),
            (HW_HOST_POWER, known::HW_HOST_POWER),
            (HW_GPU_MEMORY_LIMIT, known::HW_GPU_MEMORY_LIMIT),
            (HW_GPU_MEMORY_USAGE, known::HW_GPU_MEMORY_USAGE),
            (HW_GPU_UTILIZATION, known::HW_GPU_UTILIZATION),
        ];
        for (ours, theirs) in theirs {
            assert_eq!(ours.name, theirs);
        }
        let checked: Vec<_> = theirs.iter().map(|(ours, _)| ours.name).collect();
        for name in ALL {
            let by_name = match name.name {
                name if name.starts_with("gen_ai.infrastructure.") => Stability::Proposed,
                name if name.starts_with("joulebook.") => Stability::Ours,
                _ => Stability::Development,
            };
            assert_eq!(name.stability, by_name, "{}", name.name);
            assert_eq!(
                name.stability == Stability::Development,
                checked.contains(&name.name),
                "{} is unchecked",
                name.name
            );
        }
        for (ours, theirs) in [
            (attribute::HOST_NAME, known_attribute::HOST_NAME),
            (attribute::K8S_NODE_NAME, known_attribute::K8S_NODE_NAME),
            (attribute::K8S_CLUSTER_NAME, known_attribute::K8S_CLUSTER_NAME),
            (attribute::SERVICE_NAME, known_attribute::SERVICE_NAME),
            (attribute::SERVICE_VERSION, known_attribute::SERVICE_VERSION),
            (attribute::HW_ID, known_attribute::HW_ID),
            (attribute::HW_TYPE, known_attribute::HW_TYPE),
            (attribute::HW_MODEL, known_attribute::HW_MODEL),
            (attribute::HW_PARENT, known_attribute::HW_PARENT),
            (attribute::GEN_AI_REQUEST_MODEL, known_attribute::GEN_AI_REQUEST_MODEL),
        ] {
            assert_eq!(ours, theirs);
        }
    }
}
