//! Networks of a rig: namespaces joined by virtual cables, and packets that are dropped on the way. Needs root, iproute2,
//! ethtool and iptables.
//!
//! A namespace lives as long as a process in it. The rig's own one is that of a thread: everything the thread starts lives
//! in it, and nothing of it is left when all of that has ended.

use crate::program::Program;
use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use std::ffi::OsString;
use std::fs::File;
use std::net::Ipv4Addr;
use std::process::Command;

/// A namespace in which a process of ours sleeps.
pub struct Namespace(Program);

/// A cable between this thread's namespace and another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cable {
    /// Address of this end.
    pub here: Ipv4Addr,
    /// Address of the other end.
    pub there: Ipv4Addr,
    number: u8,
}

/// Runs a rig in a thread with a network of its own: only its loopback device is there. Needs root.
pub fn alone<T: Send>(rig: impl FnOnce() -> T + Send) -> T {
    let thread = move || {
        assert!(nix::unistd::geteuid().is_root(), "this rig needs root: it makes network namespaces");
        let made = unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace");
        let made = made.and_then(|()| run("ip", &["link", "set", "lo", "up"]));
        assert!(made.is_ok(), "{made:?}");
        rig()
    };
    let ended = std::thread::scope(|scope| scope.spawn(thread).join());
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Namespace {
    /// A new one with nothing but its loopback device.
    pub fn new() -> Result<Self> {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "unshare", "--net", "sh", "-c"]);
        command.arg("ip link set lo up && echo made && exec sleep infinity");
        let holder = Program::spawn(command)?;
        holder.wait_for("^made$").context("making a network namespace")?;
        Ok(Self(holder))
    }

    /// The words that start a program in it.
    pub fn words(&self) -> Vec<OsString> {
        vec!["nsenter".into(), format!("--net={}", self.path()).into()]
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.pid())
    }

    /// Moves this thread, and what it starts from now on, into it.
    pub fn enter(&self) -> Result<()> {
        let path = self.path();
        let file = File::open(&path).with_context(|| format!("opening {path}"))?;
        setns(file, CloneFlags::CLONE_NEWNET).context("entering a network namespace")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let net = format!("--net={}", self.path());
        run("nsenter", &[&[&net, program], arguments].concat())
    }

    /// Joins it with this thread's namespace by the cable with a number. Packets keep the size they have on a wire.
    pub fn join(&self, number: u8) -> Result<Cable> {
        let cable = Cable { here: Ipv4Addr::new(10, 77, number, 1), there: Ipv4Addr::new(10, 77, number, 2), number };
        let (here, there, pid) = (cable.device("a"), cable.device("b"), self.0.pid().to_string());
        run("ip", &["link", "add", &here, "type", "veth", "peer", "name", &there, "netns", &pid])?;
        run("ip", &["address", "add", &format!("{}/24", cable.here), "dev", &here])?;
        self.run("ip", &["address", "add", &format!("{}/24", cable.there), "dev", &there])?;
        let off = ["tso", "off", "gso", "off", "gro", "off"];
        run("ethtool", &[&["-K", &here], &off[..]].concat())?;
        self.run("ethtool", &[&["-K", &there], &off[..]].concat())?;
        run("ip", &["link", "set", &here, "up"])?;
        self.run("ip", &["link", "set", &there, "up"])?;
        Ok(cable)
    }

    /// Drops this share of the packets that come in and go out, in percent, without a word.
    pub fn lose(&self, percent: u8) -> Result<()> {
        ensure!(percent < 100, "cut it instead");
        let share = format!("0.{percent:02}");
        for chain in ["INPUT", "OUTPUT"] {
            let lost = ["-w", "-A", chain, "-p", "tcp", "-m", "statistic", "--mode", "random", "--probability"];
            self.run("iptables", &[&lost[..], &[&share, "-j", "DROP"]].concat())?;
        }
        Ok(())
    }

    /// Drops everything that comes in, goes out, or both.
    pub fn cut(&self, comes_in: bool, goes_out: bool) -> Result<()> {
        for chain in
            [("INPUT", comes_in), ("OUTPUT", goes_out)].into_iter().filter_map(|(chain, cut)| cut.then_some(chain))
        {
            self.run("iptables", &["-w", "-A", chain, "-p", "tcp", "-j", "DROP"])?;
        }
        Ok(())
    }

    /// Packets that were dropped by the rules so far.
    pub fn dropped(&self) -> Result<u64> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).args(["iptables", "-w", "-n", "-v", "-x", "-L"]);
        let output = command.output().context("running iptables")?;
        let listed = String::from_utf8_lossy(&output.stdout);
        let counts = listed.lines().filter(|line| line.contains(" DROP "));
        Ok(counts.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum())
    }

    /// Drops nothing any more.
    pub fn heal(&self) -> Result<()> {
        self.run("iptables", &["-w", "-F"])
    }
}

impl Cable {
    fn device(&self, end: &str) -> String {
        format!("rig{}{end}", self.number)
    }
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} ended with {}: {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(())
}
