//! Where a node stands by its labels, as clusters set them: rules of the operator first, then the region of a cloud.

use super::table::Tables;
use super::{FactorError, Site, SiteRule, nearest};
use std::collections::BTreeMap;

/// The region of a node in its cloud (Kubernetes, well-known labels).
const REGION: &str = "topology.kubernetes.io/region";
/// Its type in its cloud.
pub(super) const INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";

/// Refuses rules that name a site that is not there, or no label.
pub(super) fn check(rules: &[SiteRule], sites: &BTreeMap<String, Site>, tables: &Tables) -> Result<(), FactorError> {
    for rule in rules {
        let known =
            sites.contains_key(&rule.site) || tables.region_name(&rule.site).is_ok_and(|name| name == rule.site);
        if !known {
            return Err(FactorError::UnknownName {
                key: "site_rule.site".to_owned(),
                value: rule.site.clone(),
                nearest: nearest(&rule.site, sites.keys().map(String::as_str).chain(tables.regions())),
            });
        }
        if rule.labels.is_empty() {
            let rule = format!("the rule of site {} names no label: it would hold everywhere", rule.site);
            return Err(FactorError::Contradiction { key: "site_rule.labels".to_owned(), rule });
        }
    }
    Ok(())
}

/// The site of a node with these labels; none if they do not say.
pub(super) fn site(rules: &[SiteRule], tables: &Tables, labels: &BTreeMap<String, String>) -> Option<String> {
    let fits = |rule: &&SiteRule| rule.labels.iter().all(|(name, value)| labels.get(name) == Some(value));
    if let Some(rule) = rules.iter().find(fits) {
        return Some(rule.site.clone());
    }
    let region = labels.get(REGION)?;
    let mut clouds = tables.regions().filter(|name| name.split_once('/').is_some_and(|(_, own)| own == region));
    // A region that two clouds have is one of neither.
    clouds.next().filter(|_| clouds.next().is_none()).map(str::to_owned)
}
