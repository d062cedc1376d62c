//! Shapes of BMCs that no recorded set has: who the wall is, and who is not.

use super::super::document::Documents;
use super::*;
use serde_json::{Value, json};
use std::cell::RefCell;

const CHASSIS: &str = "/redfish/v1/Chassis";

/// A BMC made of documents below `/redfish/v1`, which counts what is asked for.
struct Bmc {
    documents: Vec<(String, Value)>,
    asked: RefCell<Vec<String>>,
}

impl Bmc {
    fn new(chassis: &[(&str, Value)], others: &[(&str, Value)]) -> Self {
        let uri = |id: &str| format!("{CHASSIS}/{id}");
        let members: Vec<_> = chassis.iter().map(|(id, _)| json!({"@odata.id": uri(id)})).collect();
        let mut documents = vec![(CHASSIS.to_owned(), json!({"Members": members}))];
        documents.extend(chassis.iter().map(|(id, document)| {
            let mut document = document.clone();
            document["Id"] = json!(id);
            document["@odata.id"] = json!(uri(id));
            (uri(id), document)
        }));
        documents.extend(others.iter().map(|(path, document)| (format!("/redfish/v1/{path}"), document.clone())));
        Self { documents, asked: RefCell::default() }
    }

    fn read(&self, depth: Depth) -> Found {
        let mut documents = Documents::default();
        loop {
            match survey(&documents, depth) {
                Ok(found) => return found,
                Err(Need(uri)) => {
                    let document = self.documents.iter().find(|(known, _)| *known == uri);
                    documents.keep(&uri, document.map(|(_, document)| document.clone()));
                    self.asked.borrow_mut().push(uri);
                }
            }
        }
    }
}

fn at(path: &str) -> Value {
    json!({"@odata.id": format!("/redfish/v1/{path}")})
}

fn consumed(watts: &Value) -> Value {
    json!({"PowerControl": [{"Name": "System Power Control", "PowerConsumedWatts": watts}]})
}

fn wall(found: &Found) -> Option<u64> {
    found.wall.as_ref().map(|(_, shown)| shown.power.0)
}

fn shared(found: &Found) -> Option<Milliwatts> {
    found.enclosure.as_ref().map(|enclosure| enclosure.shown.power)
}

#[test]
fn three_chassis_with_one_power_are_one_node_that_is_asked_once() {
    let power = at("Chassis/1/Power");
    let one = json!({"ChassisType": "RackMount", "Power": power});
    let bmc =
        Bmc::new(&[("1", one.clone()), ("2", one.clone()), ("3", one)], &[("Chassis/1/Power", consumed(&json!(590)))]);
    assert_eq!(wall(&bmc.read(Depth::Wall)), Some(590_000));
    assert_eq!(bmc.asked.borrow().iter().filter(|uri| uri.ends_with("/Power")).count(), 1);
}

#[test]
fn an_enclosure_of_several_nodes_is_nobody_s_wall() {
    let two = json!({"ComputerSystems": [at("Systems/1"), at("Systems/2")]});
    let chassis = json!({"ChassisType": "RackMount", "Power": at("Chassis/E/Power"), "Links": two});
    let bmc = Bmc::new(&[("E", chassis)], &[("Chassis/E/Power", consumed(&json!(2_400)))]);
    let found = bmc.read(Depth::All);
    assert_eq!((wall(&found), shared(&found)), (None, Some(Milliwatts(2_400_000))));
}

#[test]
fn a_sled_is_the_node_and_what_it_shares_with_its_enclosure_is_not_its_own() {
    let enclosure = json!({"ChassisType": "Enclosure", "Power": at("Chassis/E/Power")});
    let links = json!({"ContainedBy": at("Chassis/E"), "ComputerSystems": [at("Systems/1")]});
    let sled = json!({"ChassisType": "Sled", "Power": at("Chassis/S/Power"), "Links": links});
    let supplies = json!([{"PowerInputWatts": 900}, {"PowerInputWatts": 800}]);
    let mut of_enclosure = consumed(&json!(1_650));
    of_enclosure["PowerSupplies"] = supplies;
    let others = [("Chassis/E/Power", of_enclosure.clone()), ("Chassis/S/Power", consumed(&json!(412)))];
    let found = Bmc::new(&[("E", enclosure.clone()), ("S", sled.clone())], &others).read(Depth::All);
    assert_eq!((wall(&found), shared(&found)), (Some(412_000), Some(Milliwatts(1_650_000))));
    assert_eq!(found.supplies, None, "the supplies are the enclosure's");
    // The sled links to the enclosure's own resource.
    let mut sharing = sled;
    sharing["Power"] = at("Chassis/E/Power");
    let found = Bmc::new(&[("E", enclosure), ("S", sharing)], &others).read(Depth::All);
    assert_eq!((wall(&found), shared(&found)), (None, Some(Milliwatts(1_650_000))));
}

#[test]
fn a_member_of_the_enclosure_s_power_that_is_this_node_is_its_wall() {
    let enclosure = json!({"ChassisType": "Enclosure", "Power": at("Chassis/E/Power")});
    let links = json!({"ContainedBy": at("Chassis/E"), "ComputerSystems": [at("Systems/1")]});
    let sled = json!({"ChassisType": "Blade", "Links": links});
    let power = json!({"PowerControl": [
        {"Name": "Chassis Power", "PowerConsumedWatts": 1650, "RelatedItem": [at("Chassis/E")]},
        {"Name": "Node 2", "PowerConsumedWatts": 500, "RelatedItem": [at("Systems/2")]},
        {"Name": "Node 1", "PowerConsumedWatts": 412, "RelatedItem": [at("Systems/1")]},
    ]});
    let found = Bmc::new(&[("E", enclosure), ("S", sled)], &[("Chassis/E/Power", power)]).read(Depth::All);
    assert_eq!((wall(&found), shared(&found)), (Some(412_000), Some(Milliwatts(1_650_000))));
}

#[test]
fn parts_are_told_from_the_whole_wherever_they_stand() {
    let chassis = json!({"ChassisType": "RackMount", "Power": at("Chassis/1/Power")});
    let power = json!({"PowerControl": [
        {"Name": "CPU Sub-system Power", "PowerConsumedWatts": 184, "PhysicalContext": "CPUSubsystem"},
        {"Name": "Server Power Control", "PowerConsumedWatts": 416, "PhysicalContext": "Chassis"},
    ]});
    let found = Bmc::new(&[("1", chassis)], &[("Chassis/1/Power", power)]).read(Depth::Wall);
    assert_eq!(wall(&found), Some(416_000));
}

#[test]
fn a_module_is_never_the_wall() {
    let module = json!({"ChassisType": "Module", "EnvironmentMetrics": at("Chassis/M/E")});
    let metrics = json!({"PowerWatts": {"Reading": 1042}});
    let found = Bmc::new(&[("M", module)], &[("Chassis/M/E", metrics)]).read(Depth::All);
    assert_eq!(wall(&found), None);
    assert_eq!(found.inside, BTreeMap::from([("M".to_owned(), Milliwatts(1_042_000))]));
}

#[test]
fn the_next_place_is_taken_where_one_has_no_value_and_says_why() {
    let chassis = json!({"ChassisType": "RackMount", "EnvironmentMetrics": at("E"), "Power": at("Chassis/1/Power")});
    let mut power = consumed(&Value::Null);
    let (good, dead) = (json!({"Health": "OK", "State": "Enabled"}), json!({"Health": "Critical"}));
    power["PowerSupplies"] =
        json!([{"PowerInputWatts": 379, "Status": good}, {"PowerInputWatts": null, "Status": dead}]);
    let others = [("E", json!({"PowerWatts": {"Reading": "372"}})), ("Chassis/1/Power", power.clone())];
    let found = Bmc::new(&[("1", chassis.clone())], &others).read(Depth::All);
    assert_eq!(wall(&found), Some(379_000));
    let skips: Vec<_> = found.skipped.iter().map(|(_, skip)| *skip).collect();
    assert_eq!(skips, [Skip::Type, Skip::Missing]);
    // A supply that works and does not tell leaves the sum unknown.
    power["PowerSupplies"][1]["Status"] = good;
    let found = Bmc::new(&[("1", chassis)], &[("Chassis/1/Power", power)]).read(Depth::All);
    assert_eq!((wall(&found), found.supplies), (None, None));
}

#[test]
fn a_time_of_1970_makes_a_sensor_stale() {
    let chassis = json!({"ChassisType": "RackMount", "Sensors": at("S")});
    let sensor = |time: &str| json!({"Id": "TotalPower", "ReadingType": "Power", "Reading": 374, "ReadingTime": time});
    let read = |time: &str| {
        let others = [("S", json!({"Members": [at("S/TotalPower")]})), ("S/TotalPower", sensor(time))];
        Bmc::new(&[("1", chassis.clone())], &others).read(Depth::Wall)
    };
    assert_eq!(wall(&read("2026-08-13T04:14:33+06:00")), Some(374_000));
    let stale = read("1970-01-01T00:00:00Z");
    assert_eq!((wall(&stale), stale.skipped[0].1), (None, Skip::Stale));
}
