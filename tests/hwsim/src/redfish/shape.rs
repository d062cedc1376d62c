//! Documents of a BMC of one maker, with the node's power in the places where the maker shows it.

use crate::error::{Result, SimError};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// A number that stands for the node's power in a document until it is shown.
const PLACEHOLDER: f64 = 123_456.789;

/// Documents by path.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    documents: BTreeMap<String, Value>,
    /// The number that is replaced by the node's power.
    watts: f64,
}

impl Shape {
    /// Reads a set (`map.json`, and `expected.json` with the `wall_w` that stands in it): each number that is this one
    /// becomes the node's power.
    ///
    /// # Errors
    /// A file that cannot be read or has another form.
    pub fn read(set: &Path) -> Result<Self> {
        let read = |name: &str| -> Result<Value> {
            let path = set.join(name);
            let failed = |why: String| SimError::Request(format!("reading {} failed: {why}", path.display()));
            let text = std::fs::read_to_string(&path).map_err(|error| failed(error.to_string()))?;
            serde_json::from_str(&text).map_err(|error| failed(error.to_string()))
        };
        let (map, expected) = (read("map.json")?, read("expected.json")?);
        let watts = expected["wall_w"].as_f64();
        let watts = watts.ok_or_else(|| SimError::Request("the set has no wall_w".to_owned()))?;
        let entries = map.as_object().into_iter().flatten();
        let documents = entries.map(|(path, entry)| (canonical(path), entry["body"].clone())).collect();
        Ok(Self { documents, watts })
    }

    /// One chassis with this `Power` resource, in which `watts` is the node's power.
    pub fn of_power(power: Value, watts: f64) -> Self {
        let link = |path: &str| json!({"@odata.id": path});
        let chassis = "/redfish/v1/Chassis";
        let one = format!("{chassis}/1");
        let documents = [
            ("/redfish/v1", json!({"@odata.id": "/redfish/v1/", "RedfishVersion": "1.15.0", "Chassis": link(chassis)})),
            (chassis, json!({"@odata.id": chassis, "Members": [link(&one)]})),
            (
                &one,
                json!({"@odata.id": one, "Id": "1", "ChassisType": "RackMount", "Power": link(&format!("{one}/Power"))}),
            ),
            (&format!("{one}/Power"), power),
        ];
        Self { documents: documents.map(|(path, document)| (path.to_owned(), document)).into(), watts }
    }

    /// The plainest one: `PowerConsumedWatts` of one chassis.
    pub fn plain() -> Self {
        let control = json!({"MemberId": "0", "Name": "System Power Control", "PowerConsumedWatts": PLACEHOLDER});
        Self::of_power(json!({"@odata.id": "/redfish/v1/Chassis/1/Power", "PowerControl": [control]}), PLACEHOLDER)
    }

    /// The same chassis with so many systems in it.
    pub fn shared_by(mut self, systems: usize) -> Self {
        let links: Vec<_> =
            (1..=systems).map(|one| json!({"@odata.id": format!("/redfish/v1/Systems/{one}")})).collect();
        if let Some(chassis) = self.documents.get_mut("/redfish/v1/Chassis/1") {
            chassis["Links"] = json!({"ComputerSystems": links});
        }
        self
    }

    /// A chassis that shows nothing.
    pub fn without_power() -> Self {
        let mut shape = Self::plain();
        shape.documents.remove("/redfish/v1/Chassis/1/Power");
        shape
    }

    /// The document of a path while the node draws so much.
    pub(super) fn document(&self, path: &str, watts: f64) -> Option<Value> {
        let mut document = self.documents.get(&canonical(path))?.clone();
        replace(&mut document, self.watts, &json!(watts));
        Some(document)
    }
}

/// The text of the number that faults put where a value belongs that JSON does not have.
pub(super) fn placeholder() -> String {
    PLACEHOLDER.to_string()
}

/// Puts the placeholder in each place where a member holds the power: the members' names of all makers.
pub(super) fn replace_readings(document: &mut Value, value: &Value) {
    match document {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                if ["Reading", "PowerConsumedWatts", "PowerInputWatts", "AverageConsumedWatts"].contains(&name.as_str())
                {
                    *member = value.clone();
                } else {
                    replace_readings(member, value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| replace_readings(item, value)),
        _ => {}
    }
}

fn replace(document: &mut Value, from: f64, to: &Value) {
    match document {
        Value::Number(number) if number.as_f64().is_some_and(|number| (number - from).abs() < 1e-9) => {
            *document = to.clone();
        }
        Value::Object(members) => Map::values_mut(members).for_each(|member| replace(member, from, to)),
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, from, to)),
        _ => {}
    }
}

/// What a client sends that has this account and no session.
pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

fn canonical(path: &str) -> String {
    path.trim_end_matches('/').to_owned()
}
