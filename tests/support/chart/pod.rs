//! Pods of rendered objects.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "functions that tests call may fail the test"
)]

use std::collections::BTreeMap;

use serde_json::Value;

/// A pod with the name of its part of Joulebook: `agent`, `aggregator`, `poller`, `test` or `bootstrap`.
pub struct Pod<'a> {
    /// The part.
    pub component: String,
    /// The DaemonSet's variant, `cpu` or `gpu`.
    pub variant: Option<String>,
    /// The object that makes it.
    pub owner: &'a Value,
    /// Its specification.
    pub spec: &'a Value,
}

impl Pod<'_> {
    /// Its containers, those that run first among them.
    pub fn containers(&self) -> Vec<&Value> {
        let of = |key: &str| self.spec[key].as_array().into_iter().flatten();
        of("initContainers").chain(of("containers")).collect()
    }

    /// Its only container.
    pub fn container(&self) -> &Value {
        let all = self.containers();
        assert_eq!(all.len(), 1, "{}", self.component);
        all[0]
    }

    /// What a volume is, by name: the object without it.
    pub fn volumes(&self) -> BTreeMap<String, Value> {
        let mut volumes: BTreeMap<String, Value> = BTreeMap::new();
        for volume in self.spec["volumes"].as_array().unwrap() {
            let mut what = volume.clone();
            let name = what.as_object_mut().unwrap().remove("name").unwrap();
            assert!(volumes.insert(name.as_str().unwrap().to_owned(), what).is_none(), "{name} stands there twice");
        }
        // A claim of a StatefulSet is a volume too.
        for claim in self.owner["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
            volumes.insert(text(&claim["metadata"]["name"]), serde_json::json!({"persistentVolumeClaim": {}}));
        }
        volumes
    }
}

/// A string.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

/// Every pod that the objects make.
pub fn pods(objects: &[Value]) -> Vec<Pod<'_>> {
    objects.iter().filter_map(of).collect()
}

fn of(owner: &Value) -> Option<Pod<'_>> {
    let template = match owner["kind"].as_str()? {
        "DaemonSet" | "Deployment" | "StatefulSet" | "Job" => &owner["spec"]["template"],
        "Pod" => owner,
        kind => {
            assert!(owner.pointer("/spec/template").is_none(), "{kind} may make pods");
            return None;
        }
    };
    let labels = &template["metadata"]["labels"];
    let variant = labels["joulebook.io/variant"].as_str().map(str::to_owned);
    Some(Pod { component: text(&labels["app.kubernetes.io/component"]), variant, owner, spec: &template["spec"] })
}
