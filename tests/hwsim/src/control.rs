//! The control socket: one JSON request a line, one JSON answer a line.

use crate::error::{Result, SimError};
use crate::fault::{Fault, Kind};
use crate::node::Node;
use crate::redfish;
use crate::workload::Workload;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// Longest request in bytes.
const LINE_BYTES: u64 = 64 * 1024;

/// A request.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// Exact energy over a window of simulated time.
    Truth {
        /// Begin in ns.
        from_ns: u64,
        /// End in ns; now if absent.
        to_ns: Option<u64>,
    },
    /// Power of a leaf from now on.
    Set {
        /// The leaf.
        leaf: String,
        /// In W.
        w: f64,
        /// Time that the change takes, in ms.
        ramp_ms: Option<u64>,
    },
    /// Moves a manual clock.
    Step {
        /// By so many ns.
        ns: u64,
    },
    /// Breaks something.
    Fault(Fault),
    /// Ends a fault before its time.
    Repair {
        /// What was broken.
        kind: Kind,
        /// Where.
        #[serde(default)]
        target: String,
    },
    /// Breaks the BMC, or mends it.
    Bmc {
        /// What is wrong with it from now on; nothing if absent.
        fault: Option<redfish::fault::Fault>,
        /// By how much its sensors are late from now on, in ms; as before if absent.
        lag_ms: Option<u64>,
    },
    /// Changes the workload table.
    Workload {
        /// A workload that starts.
        add: Option<Workload>,
        /// Name of one that ends.
        remove: Option<String>,
    },
    /// Divides a GPU into instances (MIG), or joins it again.
    Divide {
        /// The GPU.
        gpu: u32,
        /// Compute slices of each instance, at most seven in all; none joins it.
        slices: Vec<u8>,
    },
    /// What the node is and what time it has.
    Info,
}

/// What a scenario file holds: requests with their time.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Scenario {
    /// In any order.
    #[serde(default)]
    pub at: Vec<Timed>,
}

/// A request at a time.
#[derive(Debug, Clone, Deserialize)]
pub struct Timed {
    /// In ms of simulated time.
    pub ms: u64,
    /// What then happens.
    #[serde(flatten)]
    pub request: Request,
}

/// Does what is asked.
pub fn answer(node: &mut Node, request: &Request) -> Result<Value> {
    match request {
        Request::Truth { from_ns, to_ns } => {
            let to_ns = to_ns.unwrap_or_else(|| node.now_ns());
            if to_ns < *from_ns {
                return Err(SimError::Request("the window ends before it begins".to_owned()));
            }
            let truth = node.truth(*from_ns, to_ns);
            Ok(json!({
                "from_ns": from_ns, "to_ns": to_ns, "leaves_uj": whole(&truth.leaves), "zones_uj": whole(&truth.zones),
                "input_uw": node.input_uw(to_ns),
            }))
        }
        Request::Set { leaf, w, ramp_ms } => {
            if !w.is_finite() || *w < 0.0 || *w > 1e9 {
                return Err(SimError::Request(format!("{w} W is no power of a leaf")));
            }
            node.set(leaf, (w * 1e6).round() as i64, ramp_ms.unwrap_or(0).saturating_mul(1_000_000))?;
            Ok(json!({ "now_ns": node.now_ns() }))
        }
        Request::Step { ns } => node.step(*ns).map(|()| json!({ "now_ns": node.now_ns() })),
        Request::Fault(fault) => node.fault(fault).map(|()| json!({ "now_ns": node.now_ns() })),
        Request::Repair { kind, target } => node.repair(*kind, target).map(|()| json!({ "now_ns": node.now_ns() })),
        Request::Bmc { fault, lag_ms } => {
            if let Some(lag_ms) = lag_ms {
                node.set_bmc_lag(lag_ms.saturating_mul(1_000_000));
            }
            let bmc = node.bmc().ok_or_else(|| SimError::Request("there is no BMC".to_owned()))?;
            bmc.set_fault(fault.clone());
            Ok(json!({ "now_ns": node.now_ns() }))
        }
        Request::Workload { add, remove } => {
            if let Some(name) = remove {
                node.remove_workload(name)?;
            }
            if let Some(workload) = add {
                node.add_workload(workload.clone())?;
            }
            Ok(json!({ "now_ns": node.now_ns() }))
        }
        Request::Divide { gpu, slices } => node.divide(*gpu, slices).map(|()| json!({ "now_ns": node.now_ns() })),
        Request::Info => Ok(json!({
            "profile": node.profile().name,
            "root": node.root(),
            "clock": if node.is_manual() { "manual" } else { "real" },
            "now_ns": node.now_ns(),
            "boot_ns": node.boot_ns(),
            "wall_offset_ms": node.wall_offset_ms(),
            "t0_mono_ns": node.t0_ns(),
            "leaves": node.leaf_names(),
            "zones": node.zones().iter().map(|zone| zone.id.as_str()).collect::<Vec<_>>(),
            "workloads": node.table().workloads().collect::<Vec<_>>(),
            "served": node.table().served(node.now_ns()),
        })),
    }
}

/// Sums as JSON numbers; a sum beyond 64 bits is 580 TJ, which no node draws.
fn whole(sums: &std::collections::BTreeMap<String, i128>) -> Value {
    sums.iter()
        .map(|(name, sum)| (name.clone(), json!(i64::try_from(*sum).ok())))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Answers one line.
pub fn answer_line(node: &Mutex<Node>, line: &str) -> Value {
    let request: Request = match serde_json::from_str(line) {
        Ok(request) => request,
        Err(error) => return json!({ "error": format!("the request is not understood: {error}") }),
    };
    let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
    match answer(&mut node, &request) {
        Ok(value) => value,
        Err(error) => json!({ "error": error.to_string() }),
    }
}

async fn converse(stream: UnixStream, node: Arc<Mutex<Node>>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        if (&mut read).take(LINE_BYTES).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let mut reply = answer_line(&node, &line).to_string();
        reply.push('\n');
        write.write_all(reply.as_bytes()).await?;
    }
}

/// Serves the socket until the task is dropped.
pub async fn serve(listener: UnixListener, node: Arc<Mutex<Node>>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(converse(stream, node.clone()));
    }
}
