//! The operator's part of the factors: where sites stand, what they measured themselves, what their hosts are made of.

use super::component::ComponentConfig;
use super::feed::FeedConfig;
use super::out_of_service::OutOfServiceConfig;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Factors as the configuration file gives them. Everything may be left out: every default says that it is one.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FactorConfig {
    /// `[site.NAME]`: sites by the name that agents state. `default` holds for nodes without a site. Unset: no site, the
    /// world's intensity and the default PUE.
    pub site: BTreeMap<String, SiteConfig>,
    /// `[[site_rule]]`: sites of nodes that state none, by their labels; the first that fits holds. Unset: by the label
    /// `topology.kubernetes.io/region` where it names a region of one cloud, else the default site.
    pub site_rule: Vec<SiteRule>,
    /// `[[factor]]`: series of factors. Unset: none, what holds does not change with time.
    pub factor: Vec<FeedConfig>,
    /// `[embodied]`: totals of the hosts' parts. Unset: the defaults.
    pub embodied: EmbodiedConfig,
    /// `[[component]]`: what nobody meters, modelled beside the score. Unset: nothing.
    pub component: Vec<ComponentConfig>,
    /// `[[out_of_service]]`: when nodes are drained, in repair or burnt in. Unset: never.
    pub out_of_service: Vec<OutOfServiceConfig>,
    /// Who answers for the figures. Unset: answers say that nobody was named.
    pub accountable_contact: Option<String>,
    /// Role of the reporting organisation, from which the GHG Protocol scope follows. Unset: no scope is stated.
    pub ghg_role: Option<GhgRole>,
}

/// `[site.NAME]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SiteConfig {
    /// Annual power usage effectiveness, 1 … 10. Unset: 1.56 (survey mean), flagged as a default.
    pub pue: Option<f64>,
    /// Country, ISO 3166-1 alpha-3 or alpha-2, any case. Unset: the region's country, else the world.
    pub zone: Option<String>,
    /// Cloud region, `provider/region`, for example `aws/eu-west-3`. Unset: none.
    pub region: Option<String>,
    /// Fixed average carbon intensity in g/kWh, 0 … 2000, taken as life-cycle. Unset: looked up by region, zone, world.
    pub intensity_g_per_kwh: Option<f64>,
    /// Where `intensity_g_per_kwh` comes from. Unset: "configuration". Refused without `intensity_g_per_kwh`.
    pub intensity_source: Option<String>,
    /// Water that the site itself evaporates, in l/kWh of IT energy, 0 … 100. Unset: its water is not told.
    pub wue_site_l_per_kwh: Option<f64>,
    /// Water of making the electricity, in l/kWh, 0 … 100. Unset: its water is not told.
    pub wue_source_l_per_kwh: Option<f64>,
    /// Abiotic depletion of making the electricity, in kg of antimony equivalents per kWh, 0 … 1. Unset: not told.
    pub abiotic_kg_sb_per_kwh: Option<f64>,
    /// Primary energy of the electricity, in MJ/kWh, 0 … 100. Unset: not told.
    pub primary_energy_mj_per_kwh: Option<f64>,
    /// Where these four come from. Unset: "configuration".
    pub impact_source: Option<String>,
    /// Kind of deployment: edge, on-prem, cloud or remote. Unset: not stated.
    pub deployment: Option<Deployment>,
}

/// Kind of deployment of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deployment {
    /// At the edge.
    Edge,
    /// In the operator's own data centre.
    OnPrem,
    /// In a public cloud.
    Cloud,
    /// With a third party, over the network.
    Remote,
}

impl Deployment {
    /// The word of the contract: edge, on-prem, cloud, remote.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::OnPrem => "on-prem",
            Self::Cloud => "cloud",
            Self::Remote => "remote",
        }
    }
}

/// Role of the reporting organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GhgRole {
    /// Buys the electricity that the nodes consume: scope 2.
    Operator,
    /// Buys inference or machines from whoever buys the electricity: scope 3.
    Consumer,
}

impl GhgRole {
    /// GHG Protocol scope of the operational part.
    pub fn operational_scope(self) -> &'static str {
        match self {
            Self::Operator => "scope 2",
            Self::Consumer => "scope 3",
        }
    }
}

/// `[embodied]`: each replaces one default. Masses in kg CO2e, at least 0.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmbodiedConfig {
    /// Whole host without memory beyond 16 GiB, further sockets, disks and accelerators. Unset: 1000.
    pub host_kg: Option<f64>,
    /// Each socket after the first. Unset: 100.
    pub cpu_kg: Option<f64>,
    /// Each GiB of memory beyond 16. Unset: 533 ÷ 384.
    pub dram_kg_per_gb: Option<f64>,
    /// Each disk. Unset: 100 (solid state).
    pub disk_kg: Option<f64>,
    /// Each disk that rotates. Unset: `disk_kg` where that is set, else 50.
    pub hard_disk_kg: Option<f64>,
    /// Each accelerator. Unset: by model, else 150.
    pub gpu_kg: Option<f64>,
    /// Expected life in hours, above 0. Unset: 35040 (four years of 365 days).
    pub lifespan_hours: Option<f64>,
    /// Share of a virtual machine for each vCPU. Unset: 1610.79 ÷ 96.
    pub guest_kg_per_vcpu: Option<f64>,
    /// Each accelerator whose model contains the name; the longest name wins. Unset: `gpu_kg`.
    pub gpu_kg_by_model: BTreeMap<String, f64>,
    /// Network gear for each host. Unset: not known, left out and named as left out.
    pub network_kg: Option<f64>,
    /// When the hosts came into service, RFC 3339. Unset: no host is past its life.
    pub in_service_since: Option<String>,
    /// When it was decided that hosts live longer than `lifespan_hours`, RFC 3339. Needs `extended_lifespan_hours` and
    /// `in_service_since`. Unset: nothing accrues past the expected life.
    pub extended_at: Option<String>,
    /// The life that is expected since then, in hours, above `lifespan_hours`.
    pub extended_lifespan_hours: Option<f64>,
    /// `[embodied.node.NAME]`: what is known of single nodes.
    pub node: BTreeMap<String, NodeEmbodiedConfig>,
    /// `[embodied.instance.TYPE]`: what is known of cloud instances, by the node label `node.kubernetes.io/instance-type`.
    pub instance: BTreeMap<String, NodeEmbodiedConfig>,
    /// Abiotic depletion of making a whole node, in kg of antimony equivalents, 0 … 100. Unset: not told.
    pub node_abiotic_kg_sb: Option<f64>,
    /// Primary energy of making a whole node, in MJ, 0 … 10⁷. Unset: not told.
    pub node_primary_energy_mj: Option<f64>,
}

/// `[embodied.node.NAME]` and `[embodied.instance.TYPE]`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeEmbodiedConfig {
    /// Everything in it, accelerators too, in kg: a maker's figure without use, or the instance's share of its host. Unset: by
    /// its parts.
    pub total_kg: Option<f64>,
    /// Where `total_kg` comes from. Unset: "configuration".
    pub source: Option<String>,
    /// When it came into service, RFC 3339. Unset: as all hosts.
    pub in_service_since: Option<String>,
}

/// `[[site_rule]]`: where nodes stand that state no site, by their labels in `node_directory`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SiteRule {
    /// The site, as in `[site.NAME]`, or a cloud region as `provider/region`.
    pub site: String,
    /// Labels that a node must have, all of them.
    pub labels: BTreeMap<String, String>,
}
