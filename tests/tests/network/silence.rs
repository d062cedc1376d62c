//! Peers that fall silent while their connection stays open.

use super::{LONGEST_WAIT, settle};
use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_agent::uplink::Security;
use joulebook_proto::admin::GetStatusRequest;
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_tests::chaos::checker::Checker;
use joulebook_tests::chaos::fleet::{Fleet, Shape};
use joulebook_tests::chaos::oracle::Oracle;
use joulebook_tests::chaos::plan::Plan;
use joulebook_tests::chaos::proxy::{Fault, Proxy, Silence};
use joulebook_tests::chaos::server::Server;
use joulebook_tests::chaos::{folder_in_memory, seed};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Within this a peer that fell silent is noticed.
const NOTICED: Duration = Duration::from_secs(30);
/// What the machine may add to it: one look of this test, and a timer that is late.
const SLACK: Duration = Duration::from_secs(1);

/// Waits until it is so and says how long that took; the test fails if it takes longer than `limit`.
fn time(what: &str, limit: Duration, mut is_so: impl FnMut() -> bool) -> Duration {
    let begin = SystemClock.boot();
    loop {
        let passed = SystemClock.boot().since(begin);
        if is_so() {
            return passed;
        }
        assert!(passed < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_peer_that_falls_silent_is_noticed_within_thirty_seconds_on_either_side() {
    let seed = seed().unwrap();
    println!("\nP6: half-open connections, SEED={seed}");
    let (disk, memory) = (tempfile::tempdir().unwrap(), folder_in_memory().unwrap());
    let (plan, oracle) = (Plan::new(seed), Oracle::default());
    let mut server = Server::new(disk.path(), &memory.path().join("db"));
    let (_program, _) = server.start().unwrap();
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, server.port().unwrap()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let silences =
        [Silence { up: true, down: true }, Silence { up: true, down: false }, Silence { up: false, down: true }];
    let proxies = silences.map(|_| runtime.block_on(Proxy::start(address, |_| Fault::None)).unwrap());
    let shape = Shape { nodes: 3, first: 0, batches_a_second: 30 };
    let to = |node: u32| Ok((format!("http://{}", proxies[node as usize].address), Security::PlaintextOnLoopback));
    let fleet = Fleet::over(plan, &oracle, memory.path(), shape, to).unwrap();
    time("all are connected", Duration::from_secs(30), || fleet.connected() == 3 && oracle.count_acked() > 30);

    for (proxy, silence) in proxies.iter().zip(silences) {
        proxy.silence(silence);
    }
    // The third one is heard by the server until it gives up by itself.
    let unheard = |node: &str| node == Plan::node(0) || node == Plan::node(1);
    let connected = || {
        let asked = runtime.block_on(async {
            let mut admin = AdminServiceClient::connect(server.endpoint()).await?;
            Ok::<_, Box<dyn std::error::Error>>(admin.get_status(GetStatusRequest {}).await?.into_inner())
        });
        asked.unwrap().nodes.iter().filter(|node| node.connected && unheard(&node.node)).count()
    };
    let agents = time("the agents notice", NOTICED + SLACK, || fleet.connected() == 0);
    let server_too = agents + time("the server notices", NOTICED + SLACK, || connected() == 0);
    let waited = fleet.waiting();
    for proxy in &proxies {
        proxy.silence(Silence::default());
    }
    let back = time("all are back", LONGEST_WAIT * 2, || fleet.connected() == 3 && fleet.waiting() < waited / 2);
    println!("  noticed by the agents in {agents:?}, by the server in {server_too:?}; back in {back:?}");
    assert!(server_too <= NOTICED + SLACK, "the server noticed after {server_too:?}");
    let checker = runtime.block_on(Checker::connect(plan, &server.endpoint())).unwrap();
    settle(fleet, &oracle, checker);
}
