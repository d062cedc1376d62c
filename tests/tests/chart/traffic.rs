//! Who may reach whom: every pod has a policy, and the policies are what is meant.

use serde_json::{Value, json};

use joulebook_tests::chart::pod::{pods, text};
use joulebook_tests::chart::render::{chart, find, objects, of_kind, parse, value_sets};

fn labels(pod: &joulebook_tests::chart::pod::Pod<'_>) -> Value {
    match pod.owner["kind"] == "Pod" {
        true => pod.owner["metadata"]["labels"].clone(),
        false => pod.owner["spec"]["template"]["metadata"]["labels"].clone(),
    }
}

fn selects(policy: &Value, labels: &Value) -> bool {
    let wanted = policy["spec"]["podSelector"]["matchLabels"].as_object().unwrap();
    wanted.iter().all(|(key, value)| labels[key] == *value)
}

/// The rule that lets the namespace of Prometheus read a page, and nobody else.
fn scrapers(port: u16) -> Value {
    let monitoring = json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}});
    json!({"ports": [{"port": port, "protocol": "TCP"}], "from": [monitoring]})
}

#[test]
fn each_pod_is_restricted_by_one_policy_of_its_namespace() {
    for set in value_sets() {
        let objects = objects(&set);
        for pod in pods(&objects) {
            let (labels, namespace) = (labels(&pod), &pod.owner["metadata"]["namespace"]);
            let policies =
                of_kind(&objects, "NetworkPolicy").filter(|policy| policy["metadata"]["namespace"] == *namespace);
            let policies: Vec<_> = policies.filter(|policy| selects(policy, &labels)).collect();
            assert_eq!(policies.len(), 1, "{set}: {}", pod.component);
            // Where the API server is, a policy cannot say: the job that stores certificates is closed from outside only.
            let ways = if pod.component == "bootstrap" { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
            assert_eq!(policies[0]["spec"]["policyTypes"], ways, "{set}: {}", pod.component);
            let scraped = set == "monitoring" && ["agent", "poller"].contains(&pod.component.as_str());
            if scraped {
                assert_eq!(policies[0]["spec"]["ingress"], json!([scrapers(7465)]), "{set}: {}", pod.component);
            } else if pod.component != "aggregator" {
                assert_eq!(policies[0]["spec"]["ingress"], json!([]), "{set}: nobody reaches {}", pod.component);
            }
        }
    }
}

#[test]
fn selectors_of_policies_services_and_budgets_meet_the_pods_that_they_mean() {
    for set in value_sets() {
        let objects = objects(&set);
        let all = pods(&objects);
        let meets = |wanted: &Value, component: &str| {
            let wanted = wanted.as_object().unwrap();
            let met: Vec<_> = all
                .iter()
                .filter(|pod| wanted.iter().all(|(key, value)| labels(pod)[key] == *value))
                .map(|pod| pod.component.as_str())
                .collect();
            assert!(!met.is_empty() && met.iter().all(|name| *name == component), "{set}: {wanted:?} meets {met:?}");
        };
        for service in of_kind(&objects, "Service") {
            meets(&service["spec"]["selector"], "aggregator");
        }
        for budget in of_kind(&objects, "PodDisruptionBudget") {
            meets(&budget["spec"]["selector"]["matchLabels"], "aggregator");
        }
        for policy in of_kind(&objects, "NetworkPolicy")
            .filter(|policy| text(&policy["metadata"]["name"]).ends_with("-aggregator"))
        {
            let own = &policy["spec"]["podSelector"]["matchLabels"];
            meets(own, "aggregator");
            for from in policy["spec"]["ingress"][0]["from"].as_array().unwrap() {
                let Some(component) = from["podSelector"]["matchLabels"]["app.kubernetes.io/component"].as_str() else {
                    continue;
                };
                meets(&from["podSelector"]["matchLabels"], component);
            }
        }
    }
}

#[test]
fn the_poller_reaches_bmcs_aggregator_and_dns_only() {
    let objects = objects("bmc-poller");
    let policy = find(&objects, "NetworkPolicy", "joulebook-poller");
    assert_eq!(policy["metadata"]["namespace"], "joulebook-bmc");
    let egress = policy["spec"]["egress"].as_array().unwrap();
    assert_eq!(egress.len(), 3);
    assert_eq!(egress[0]["ports"], json!([{"port": 7443, "protocol": "TCP"}]));
    assert_eq!(egress[1]["ports"], json!([{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]));
    let bmcs = json!({"to": [{"ipBlock": {"cidr": "10.20.0.0/16"}}], "ports": [{"port": 443, "protocol": "TCP"}]});
    assert_eq!(egress[2], bmcs);
}

#[test]
fn the_aggregator_goes_nowhere_by_itself_and_where_factors_come_from_if_that_is_said() {
    let egress = |set: &str| find(&objects(set), "NetworkPolicy", "joulebook-aggregator")["spec"]["egress"].clone();
    assert_eq!(egress("default").as_array().unwrap().len(), 1, "DNS");
    let further = egress("given-certs");
    assert_eq!(further.as_array().unwrap().len(), 2);
    assert_eq!(further[1]["ports"], json!([{"port": 443, "protocol": "TCP"}]));
}

#[test]
fn the_aggregator_reaches_the_api_server_only_where_pods_are_watched() {
    let objects = objects("pods");
    let policy = find(&objects, "NetworkPolicy", "joulebook-aggregator");
    let egress = policy["spec"]["egress"].as_array().unwrap();
    assert_eq!(egress.len(), 2, "DNS and the API server");
    let to = json!([{"ipBlock": {"cidr": "10.0.0.0/28"}}]);
    assert_eq!(egress[1], json!({"ports": [{"port": 6443, "protocol": "TCP"}], "to": to}));
}

#[test]
fn operators_are_let_in_where_they_are_named() {
    let from = |set: &str| {
        let policy = find(&objects(set), "NetworkPolicy", "joulebook-aggregator")["spec"]["ingress"].clone();
        assert_eq!(policy[0]["ports"], json!([{"port": "grpc", "protocol": "TCP"}]));
        policy[0]["from"].as_array().unwrap().len()
    };
    // Agents and the pod of `helm test`; in the other set an operators' namespace too.
    assert_eq!((from("default"), from("given-certs")), (2, 3));
}

#[test]
fn agents_of_gpu_nodes_and_of_others_never_meet_on_a_node() {
    let objects = objects("default");
    let spec = |name: &str| find(&objects, "DaemonSet", name)["spec"]["template"]["spec"].clone();
    let (gpu, cpu) = (spec("joulebook-agent-gpu"), spec("joulebook-agent-cpu"));
    let label = gpu["nodeSelector"].as_object().unwrap();
    let terms = &cpu["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let avoided: Vec<Value> = label
        .iter()
        .map(|(key, value)| json!({"matchExpressions": [{"key": key, "operator": "NotIn", "values": [value]}]}))
        .collect();
    assert_eq!(terms, &Value::Array(avoided));
    assert_eq!(gpu["runtimeClassName"], "nvidia");
    assert!(cpu.get("runtimeClassName").is_none() && cpu.get("nodeSelector").is_none());
}

#[test]
fn the_aggregators_page_is_read_by_those_who_are_named_and_by_nobody_else() {
    let ingress = |set: &str| {
        let objects = objects(set);
        find(&objects, "NetworkPolicy", "joulebook-aggregator")["spec"]["ingress"].as_array().unwrap().clone()
    };
    assert_eq!(ingress("default").len(), 1, "agents and operators only");
    let open = ingress("monitoring");
    assert_eq!((open.len(), &open[1]), (2, &scrapers(7464)));
}

#[test]
fn pages_are_open_where_monitors_and_probes_look_for_them() {
    let objects = objects("monitoring");
    let all = pods(&objects);
    let mut asked = 0;
    for (kind, endpoints) in [("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")] {
        for monitor in of_kind(&objects, kind) {
            let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
            let port = &monitor["spec"][endpoints][0]["port"];
            let met = all.iter().filter(|pod| {
                pod.owner["metadata"]["namespace"] == monitor["metadata"]["namespace"]
                    && wanted.iter().all(|(key, value)| labels(pod)[key] == *value)
            });
            for pod in met {
                let ports = pod.container()["ports"].as_array().unwrap();
                assert!(ports.iter().any(|open| open["name"] == *port), "{}", pod.component);
                asked += 1;
            }
        }
    }
    assert_eq!(asked, 4, "two kinds of agents, the aggregator and the poller");
    let service = find(&objects, "Service", "joulebook-aggregator");
    assert!(service["spec"]["ports"].as_array().unwrap().iter().any(|port| port["name"] == "metrics"));
}

#[test]
fn nothing_but_the_aggregator_listens_where_pages_are_off() {
    for pod in pods(&objects("quiet")) {
        let ports = pod.container()["ports"].as_array().map_or(0, Vec::len);
        assert_eq!(ports, usize::from(pod.component == "aggregator"), "{}", pod.component);
    }
}

#[test]
fn rules_and_dashboards_are_the_files_of_the_chart() {
    let objects = objects("monitoring");
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let rules = parse(&read(chart().join("rules/joulebook.yaml"))).remove(0);
    assert_eq!(find(&objects, "PrometheusRule", "joulebook")["spec"], rules);
    let shown = find(&objects, "ConfigMap", "joulebook-dashboards")["data"].as_object().unwrap().clone();
    assert_eq!(shown.len(), std::fs::read_dir(chart().join("dashboards")).unwrap().count());
    for (name, dashboard) in shown {
        assert_eq!(text(&dashboard), read(chart().join("dashboards").join(name)));
    }
}
