//! The policy of the agents' namespace, evaluated: the chart's own pods pass, and each step beyond them is refused by its rule.

use std::io::Write;
use std::process::{Command, Stdio};

use joulebook_tests::chart::pod::pods;
use joulebook_tests::chart::render::{objects, of_kind, python};
use serde_json::{Value, json};

/// Evaluates expressions of CEL on pods: a list of messages for each pod. An error refuses, as `failurePolicy: Fail` does.
const EVALUATE: &str = "
import json, sys, celpy
asked = json.load(sys.stdin)
environment = celpy.Environment()
rules = [(rule['message'], environment.program(environment.compile(rule['expression']))) for rule in asked['rules']]
def refuses(program, pod):
    try:
        return not program.evaluate({'object': celpy.json_to_cel(pod)})
    except celpy.CELEvalError:
        return True
json.dump([[message for message, program in rules if refuses(program, pod)] for pod in asked['pods']], sys.stdout)
";

/// What the policy of a value set says of pods.
fn refusals(set: &str, pods: &[Value]) -> Vec<Vec<String>> {
    let objects = objects(set);
    let policy = of_kind(&objects, "ValidatingAdmissionPolicy").next().expect("a policy");
    assert_eq!(policy["spec"]["failurePolicy"], "Fail");
    let asked = json!({"rules": policy["spec"]["validations"], "pods": pods});
    let mut command = Command::new(python());
    command.args(["-c", EVALUATE]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = command.spawn().unwrap();
    python.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let done = python.wait_with_output().unwrap();
    assert!(done.status.success());
    serde_json::from_slice(&done.stdout).unwrap()
}

/// The pods of a value set, each as the API server shows it, by part.
fn own(set: &str) -> Vec<(String, Value)> {
    let pod = |spec: &Value| {
        let mut spec = spec.clone();
        spec.as_object_mut().unwrap().entry("serviceAccountName").or_insert_with(|| "default".into());
        json!({"spec": spec})
    };
    pods(&objects(set)).iter().map(|found| (found.component.clone(), pod(found.spec))).collect()
}

#[test]
fn the_charts_own_pods_are_let_in() {
    for set in ["gpu", "given-certs"] {
        let (names, pods): (Vec<_>, Vec<_>) = own(set).into_iter().unzip();
        let refused = refusals(set, &pods);
        assert!(names.len() >= 3 && refused.iter().all(Vec::is_empty), "{set}: {names:?}: {refused:?}");
    }
}

#[test]
fn each_step_beyond_an_agent_is_refused() {
    let agent = own("gpu").into_iter().find(|(name, _)| name == "agent").unwrap().1;
    let mount = |agent: &mut Value, path: &str, read_only: bool| {
        let volume = json!({"name": "more", "hostPath": {"path": path}});
        agent["spec"]["volumes"].as_array_mut().unwrap().push(volume);
        let mount = json!({"name": "more", "mountPath": "/more", "readOnly": read_only});
        agent["spec"]["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
    };
    let security = |agent: &mut Value, key: &str, value: Value| {
        agent["spec"]["containers"][0]["securityContext"][key] = value;
    };
    let escalates = "a container is privileged, has a capability, may gain privileges, or writes to its root";
    let alone = "only agents have folders or processes of the node";
    let folder = "a folder of the node that agents do not have";
    type Step<'a> = (&'a str, Box<dyn Fn(&mut Value) + 'a>);
    let steps: Vec<Step<'_>> = vec![
        (escalates, Box::new(|pod| security(pod, "privileged", true.into()))),
        (escalates, Box::new(|pod| security(pod, "allowPrivilegeEscalation", true.into()))),
        (escalates, Box::new(|pod| security(pod, "readOnlyRootFilesystem", false.into()))),
        (escalates, Box::new(|pod| security(pod, "capabilities", json!({"drop": ["ALL"], "add": ["SYS_ADMIN"]})))),
        (escalates, Box::new(|pod| security(pod, "capabilities", json!({"drop": ["NET_RAW"]})))),
        ("network or IPC of the node", Box::new(|pod| pod["spec"]["hostNetwork"] = true.into())),
        ("network or IPC of the node", Box::new(|pod| pod["spec"]["hostIPC"] = true.into())),
        (folder, Box::new(|pod| mount(pod, "/etc", true))),
        (folder, Box::new(|pod| mount(pod, "/", true))),
        (
            "a folder of the node that agents do not write to is mounted writable",
            Box::new(|pod| mount(pod, "/proc", false)),
        ),
        (alone, Box::new(|pod| pod["spec"]["containers"][0]["image"] = "busybox".into())),
        (alone, Box::new(|pod| pod["spec"]["containers"][0]["command"] = json!(["/bin/sh"]))),
        (alone, Box::new(|pod| pod["spec"]["serviceAccountName"] = "default".into())),
        (alone, Box::new(|pod| pod["spec"]["ephemeralContainers"] = json!([{"name": "debug"}]))),
        (
            alone,
            Box::new(|pod| {
                let second = pod["spec"]["containers"][0].clone();
                pod["spec"]["containers"].as_array_mut().unwrap().push(second);
            }),
        ),
    ];
    let (messages, pods): (Vec<_>, Vec<_>) = steps
        .into_iter()
        .map(|(message, step)| {
            let mut pod = agent.clone();
            step(&mut pod);
            (message, pod)
        })
        .unzip();
    for (number, (message, refused)) in messages.iter().zip(refusals("gpu", &pods)).enumerate() {
        assert_eq!(refused, [*message], "step {number}");
    }
}
