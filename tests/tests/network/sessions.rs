//! Sessions that break at any byte of either direction, whose bits turn, or whose bytes arrive after the next one began.

use super::settle;
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::uplink::Security;
use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::fleet::{Fleet, Shape};
use joulebook_tests::chaos::oracle::Oracle;
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::chaos::proxy::{Fault, Proxy, Way};
use joulebook_tests::chaos::secure::Keys;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::{Random, folder_in_memory, seed, setting};
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const NODES: u32 = 32;
const BATCHES_A_SECOND: u32 = 480;
/// Bytes of a session after each of which it is reset.
const OFFSETS: u64 = 4_096;
/// One offset in so many is tried; `STRIDE=1` tries all.
const STRIDE: u64 = 64;
/// Bytes to the agent after which a session between two faults ends, so that the next one begins: it was answered by then.
const ANSWERED: [u64; 2] = [600, 2_600];
/// Faults that are none of resets, and sessions that stay slow.
const FAULTS: u64 = 96;
const SLOW: usize = 8;
/// How long the faults of one offset may take, on average and at most.
const PER_FAULT: Duration = Duration::from_secs(20);

/// What to do to the connections of all agents, in turn.
type Script = Arc<Mutex<VecDeque<Fault>>>;

/// Everything that runs in these rigs.
struct Rig {
    plan: Plan,
    oracle: Oracle,
    server: Server,
    keys: Option<Keys>,
    proxies: Vec<Proxy>,
    fleet: Option<Fleet>,
    runtime: tokio::runtime::Runtime,
    _program: joulebook_tests::program::Program,
    _folders: [tempfile::TempDir; 2],
}

impl Rig {
    /// A fleet each of whose agents has a proxy. Every second connection of an agent has the script's next fault, the
    /// others end once they were answered, until the script is empty.
    fn start(seed: u64, secure: bool, script: &Script) -> Self {
        let folders = [tempfile::tempdir().unwrap(), folder_in_memory().unwrap()];
        let (plan, oracle) = (Plan::new(seed), Oracle::default());
        let mut server = Server::new(folders[0].path(), &folders[1].path().join("db"));
        let keys = secure.then(|| Keys::new(folders[0].path(), &[IpAddr::V4(Ipv4Addr::LOCALHOST)]).unwrap());
        if let Some(keys) = &keys {
            server = server.secure(&keys.server);
        }
        let (program, _) = server.start().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port().unwrap()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let answered = ANSWERED[usize::from(secure)];
        let proxy = |node: u64| {
            let script = Arc::clone(script);
            let faults = move |number: u64| {
                let mut script = script.lock().unwrap();
                match number.wrapping_add(node) % 2 {
                    _ if script.is_empty() => Fault::None,
                    0 => script.pop_front().unwrap_or(Fault::None),
                    _ => Fault::Reset(Way::Down, answered),
                }
            };
            runtime.block_on(Proxy::start(address, faults)).unwrap()
        };
        let proxies: Vec<Proxy> = (0..u64::from(NODES)).map(proxy).collect();
        let to = |node: u32| {
            let address = proxies[node as usize].address;
            Ok(match &keys {
                Some(keys) => (format!("https://{address}"), keys.agent(node)),
                None => (format!("http://{address}"), Security::PlaintextOnLoopback),
            })
        };
        let shape = Shape { nodes: NODES, first: 0, batches_a_second: BATCHES_A_SECOND };
        let fleet = Fleet::over(plan, &oracle, folders[1].path(), shape, to).unwrap();
        let fleet = Some(fleet);
        Self { plan, oracle, server, keys, proxies, fleet, runtime, _program: program, _folders: folders }
    }

    fn faults(&self) -> u64 {
        self.proxies.iter().map(Proxy::faults).sum()
    }

    /// Waits until the script is done and every connection that it broke was followed by another.
    fn play(&self, script: &Script) -> Duration {
        let count = script.lock().unwrap().len() as u32;
        let (begin, limit) = (SystemClock.boot(), PER_FAULT + PER_FAULT * count / NODES);
        while !script.lock().unwrap().is_empty() {
            let passed = SystemClock.boot().since(begin);
            assert!(passed < limit, "{} faults wait after {passed:?}", script.lock().unwrap().len());
            std::thread::sleep(Duration::from_millis(20));
        }
        SystemClock.boot().since(begin)
    }

    fn end(mut self) {
        let checker = self.runtime.block_on(async {
            match &self.keys {
                Some(keys) => {
                    let address = format!("127.0.0.1:{}", self.server.port()?);
                    Ok(Checker::over(self.plan, keys.operator(&address).await?))
                }
                None => Checker::connect(self.plan, &self.server.endpoint()).await,
            }
        });
        settle(self.fleet.take().unwrap(), &self.oracle, checker.unwrap_or_else(|error| panic!("{error:?}")));
    }
}

fn sweep(name: &str, secure: bool) {
    let (seed, stride) = (seed().unwrap(), setting("STRIDE", STRIDE).unwrap().max(1));
    println!(
        "\nP6: a session reset after byte 0 to {OFFSETS}, one in {stride}, of each direction, {name}, SEED={seed}"
    );
    let mut random = Random::new(seed);
    let mut faults: Vec<Fault> = Vec::new();
    for way in [Way::Up, Way::Down] {
        // Another start each time, so that runs of a stride meet every offset in the end.
        faults.extend((random.below(stride)..=OFFSETS).step_by(stride as usize).map(|at| Fault::Reset(way, at)));
    }
    let planned = faults.len() as u64;
    for index in (1..faults.len()).rev() {
        faults.swap(index, random.below(index as u64 + 1) as usize);
    }
    let script: Script = Arc::new(Mutex::new(faults.into()));
    let rig = Rig::start(seed, secure, &script);
    let took = rig.play(&script);
    let (sessions, connections) =
        (rig.fleet.as_ref().unwrap().sessions(), rig.proxies.iter().map(Proxy::connections).sum::<u64>());
    println!("  {planned} resets in {took:?}, {connections} connections, {sessions} sessions were answered");
    let faults = rig.faults();
    rig.end();
    assert!(faults >= planned, "void: {faults} connections were reset, {planned} were to be");
}

#[test]
fn a_session_that_is_reset_after_any_byte_loses_nothing_and_counts_nothing_twice() {
    sweep("plaintext", false);
}

#[test]
fn a_secure_session_that_is_reset_after_any_byte_loses_nothing_and_counts_nothing_twice() {
    sweep("mutual TLS", true);
}

#[test]
fn bits_that_turn_pieces_that_wait_and_bytes_of_sessions_that_are_over_change_nothing() {
    let seed = seed().unwrap();
    println!("\nP6: turned bits (mutual TLS), late and slow sessions, SEED={seed}");
    let mut random = Random::new(seed);
    let mut fault = |number: u64| match number % 4 {
        0 => Fault::Flip(Way::Up, random.below(8_192)),
        1 => Fault::Flip(Way::Down, random.below(4_096)),
        _ => Fault::Late(2_000 + random.below(8_192), random.millis(50, 2_500)),
    };
    let mut faults: Vec<Fault> = (0..FAULTS).map(&mut fault).collect();
    let planned = faults.len() as u64;
    // The last ones are slow to the end of the rig: a tenth of a second for each piece, both ways.
    faults.extend([Fault::Delay(Duration::from_millis(100)); SLOW]);
    let script: Script = Arc::new(Mutex::new(faults.into()));
    let rig = Rig::start(seed, true, &script);
    let took = rig.play(&script);
    let faults = rig.faults();
    println!("  {faults} faults in {took:?}");
    rig.end();
    assert!(faults * 10 >= planned * 8, "void: {faults} connections were faulted, {planned} were to be");
}
