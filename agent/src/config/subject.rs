//! The role of the agent, and the nodes of which a poller tells.

use super::{Config, ConfigError, RedfishSection};
use joulebook_units::{NodeName, PollerName};
use serde::Deserialize;
use std::collections::BTreeSet;

/// What an agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The agent of the node that it runs on.
    #[default]
    Node,
    /// It asks the BMCs of other nodes over the network and tells what they show, and nothing of where it runs.
    BmcPoller,
}

/// A node of which a poller tells.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectSection {
    /// Its name, as its own agent tells it.
    pub node: String,
    /// Its BMC.
    pub redfish: RedfishSection,
}

/// A subject whose name was read.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The node.
    pub node: NodeName,
    /// Its BMC.
    pub redfish: RedfishSection,
}

impl Config {
    /// The poller's name: configured, or the machine's host name.
    ///
    /// # Errors
    /// A name that is none, or no host name.
    pub fn poller_name(&self) -> Result<PollerName, ConfigError> {
        let name = match &self.poller {
            Some(name) => name.clone(),
            None => super::host_name()
                .ok_or_else(|| ConfigError::value("poller", "set: the host name could not be read"))?,
        };
        name.parse().map_err(|source| ConfigError::Poller { source })
    }

    /// The nodes of which this poller tells.
    ///
    /// # Errors
    /// A name that is none.
    pub fn subjects(&self) -> Result<Vec<Subject>, ConfigError> {
        let subject = |section: &SubjectSection| {
            let node = section.node.parse().map_err(|source| ConfigError::Node { source })?;
            Ok(Subject { node, redfish: section.redfish.clone() })
        };
        self.subject.iter().map(subject).collect()
    }

    /// Refuses what does not go with the role.
    pub(super) fn check_role(&self) -> Result<(), ConfigError> {
        if self.role == Role::Node {
            let foreign = !self.subject.is_empty() || self.poller.is_some();
            return if foreign {
                Err(ConfigError::value("role", "\"bmc-poller\" with poller or [[subject]]"))
            } else {
                Ok(())
            };
        }
        self.poller_name()?;
        let own = [
            ("node", self.node.is_some()),
            ("target", !self.target.is_empty()),
            ("meter", !self.meter.is_empty()),
            ("push.socket", self.push.socket.is_some()),
            ("otlp", !self.otlp.is_off()),
            ("redfish.url", self.redfish.url.is_some()),
            ("ipmi.enabled", self.ipmi.enabled),
        ];
        if let Some((key, _)) = own.into_iter().find(|(_, set)| *set) {
            return Err(ConfigError::value(key, "unset in the role bmc-poller, which tells nothing of where it runs"));
        }
        if self.subject.is_empty() {
            return Err(ConfigError::value("subject", "there at least once in the role bmc-poller: [[subject]]"));
        }
        let mut nodes = BTreeSet::new();
        for subject in self.subjects()? {
            subject.redfish.check()?;
            if subject.redfish.url.is_none() {
                return Err(ConfigError::value("subject.redfish.url", "set: the address of the node's BMC"));
            }
            if !nodes.insert(subject.node) {
                return Err(ConfigError::value("subject.node", "another one for each subject"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const BASE: &str = "insecure_loopback = true\nrole = \"bmc-poller\"\npoller = \"east\"\n";

    fn subject(node: &str) -> String {
        let pin = "ab".repeat(32);
        format!(
            "[[subject]]\nnode = \"{node}\"\n[subject.redfish]\nurl = \"https://10.0.0.7\"\ncredentials = \"/x\"\n\
             fingerprint = \"{pin}\"\n"
        )
    }

    fn complaint(text: &str) -> String {
        let config = Config::parse(text, Path::new("agent.toml")).and_then(|config| config.check());
        config.map_or_else(|error| error.to_string(), |()| String::new())
    }

    #[test]
    fn a_poller_has_subjects_each_with_a_bmc_of_its_own() {
        assert_eq!(complaint(&format!("{BASE}{}{}", subject("a"), subject("b"))), "");
        assert!(complaint(BASE).contains("`subject`"));
        assert!(complaint(&format!("{BASE}{}{}", subject("a"), subject("a"))).contains("subject.node"));
        assert!(complaint(&format!("{BASE}{}", subject("a/b"))).contains("node"));
        let bare = "[[subject]]\nnode = \"a\"\nredfish = {}\n";
        assert!(complaint(&format!("{BASE}{bare}")).contains("subject.redfish.url"));
        let untrusted = "[[subject]]\nnode = \"a\"\nredfish = { url = \"https://b\", credentials = \"/x\" }\n";
        assert!(complaint(&format!("{BASE}{untrusted}")).contains("redfish.fingerprint"));
    }

    #[test]
    fn a_poller_tells_nothing_of_its_own_machine_and_a_node_s_agent_of_no_other_one() {
        let with = |more: &str| complaint(&format!("{BASE}{more}{}", subject("a")));
        assert!(with("node = \"n\"\n").contains("`node`"));
        assert!(with("[ipmi]\nenabled = true\n").contains("ipmi.enabled"));
        assert!(with("[push]\nsocket = \"/x\"\n").contains("push.socket"));
        let node = format!("insecure_loopback = true\n{}", subject("a"));
        assert!(complaint(&node).contains("`role`"));
        assert!(complaint("insecure_loopback = true\npoller = \"east\"\n").contains("`role`"));
    }
}
