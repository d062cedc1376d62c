//! A simulated node as a process, with workloads that hold its GPUs, and an agent's configuration for it.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::program::{Program, binary};
use crate::tls::{Ca, fingerprint, replace, write};

/// A node with a real clock.
pub struct Simulator {
    _program: Program,
    root: PathBuf,
    /// NVIDIA's library, where it has such GPUs.
    library: Option<PathBuf>,
    control: PathBuf,
    /// Keys of a table `[redfish]` for its BMC; empty without one.
    bmc: String,
}

/// A server on one GPU of the node, with a metric page of its own.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its name: that of its control group's unit.
    pub name: &'static str,
    /// Its process.
    pub pid: u32,
    /// Its GPU.
    pub gpu: u32,
    /// Use of it in permille.
    pub sm_permille: u32,
    /// GiB that it holds there.
    pub gpu_gibibytes: u64,
    /// Version of the model.
    pub version: &'static str,
    /// Requests in 1000 s.
    pub requests_per_kilosecond: u64,
    /// Port of its page.
    pub port: u16,
}

/// The model that every server serves.
pub const MODEL: &str = "sim-chat";

impl Simulator {
    /// A node of a profile of `tests/fixtures/profiles`, shown below a folder that is made for it.
    pub fn start(profile: &str, root: &Path) -> Result<Self> {
        Self::launch(profile, root, Vec::new())
    }

    /// The same with a BMC on the network, whose certificate is to be pinned.
    pub fn with_bmc(profile: &str, root: &Path) -> Result<Self> {
        std::fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
        let pair = Ca::new().server();
        let files = write(root, "bmc", &pair, "");
        let account = root.join("account.toml");
        replace(&account, "user = \"power\"\npassword = \"power\"\n");
        let mut arguments: Vec<OsString> = vec!["--redfish".into(), "127.0.0.1:0".into()];
        arguments.extend(["--redfish-cert".into(), files.certificate.into(), "--redfish-key".into(), files.key.into()]);
        let mut simulator = Self::launch(profile, root, arguments)?;
        let (account, pin) = (account.display(), fingerprint(&pair));
        write!(simulator.bmc, "credentials = \"{account}\"\nfingerprint = \"{pin}\"\ninterval = \"1s\"\n")?;
        Ok(simulator)
    }

    fn launch(profile: &str, root: &Path, further: Vec<OsString>) -> Result<Self> {
        std::fs::create_dir_all(root).with_context(|| format!("making {}", root.display()))?;
        let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/profiles/{profile}.json"));
        let mut arguments =
            vec!["--profile".into(), profile.into_os_string(), "--root".into(), root.as_os_str().to_owned()];
        arguments.extend(further);
        let program = Program::start(binary("hwsim")?, &arguments)?;
        let ready: Value = serde_json::from_str(&program.wait_for(r"^\{.*\}$")?)?;
        let path = |name: &str| ready[name].as_str().map(PathBuf::from).with_context(|| format!("{name} in {ready}"));
        let bmc = ready["redfish"].as_str().map_or_else(String::new, |url| format!("url = \"{url}\"\n"));
        let library = ready["nvml"].as_str().map(PathBuf::from);
        Ok(Self { root: root.to_owned(), library, control: path("ctl")?, bmc, _program: program })
    }

    /// The keys of a table `[redfish]` with which an agent asks its BMC each second.
    pub fn bmc(&self) -> &str {
        &self.bmc
    }

    /// What the simulator answers to a request of its control socket.
    pub fn ask(&self, request: &Value) -> Result<Value> {
        let mut stream = UnixStream::connect(&self.control)?;
        writeln!(stream, "{request}")?;
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        let answer: Value = serde_json::from_str(&line)?;
        if let Some(error) = answer["error"].as_str() {
            bail!("{request}: {error}");
        }
        Ok(answer)
    }

    /// Starts a server.
    pub fn serve(&self, server: &Server) -> Result<()> {
        self.serve_on(server, 0)
    }

    /// Starts a server on this instance of its GPU, from 1; its use is then of the instance. 0 is the whole GPU.
    pub fn serve_on(&self, server: &Server, instance: u8) -> Result<()> {
        let add = json!({
            "name": server.name, "pid": server.pid, "cgroup": format!("/system.slice/{}.service", server.name),
            "cpu_millicores": 2_000, "gpu": server.gpu, "sm_permille": server.sm_permille,
            "gpu_memory_bytes": server.gpu_gibibytes << 30, "memory_bytes": 8u64 << 30, "model": MODEL,
            "requests_per_kilosecond": server.requests_per_kilosecond, "prompt_tokens": 300, "generated_tokens": 100,
            "port": server.port, "gpu_instance": instance,
        });
        self.ask(&json!({ "op": "workload", "add": add })).map(|_| ())
    }

    /// Configuration of an agent of this node that scrapes the servers each second; `connection` is that of the node
    /// `simulated`.
    pub fn agent_config(&self, connection: &str, spool: &Path, servers: &[Server]) -> Result<String> {
        let root = |name: &str| self.root.join(name);
        let mut config = format!(
            "{connection}\n[spool]\ndir = \"{}\"\n\n[roots]\nsysfs = \"{}\"\nprocfs = \"{}\"\ncgroup = \"{}\"\n\n\
             [placement]\nsimulated = true\n",
            spool.display(),
            root("sys").display(),
            root("proc").display(),
            root("sys/fs/cgroup").display(),
        );
        if let Some(library) = &self.library {
            write!(config, "\n[nvml]\nlibrary = \"{}\"\n", library.display())?;
        }
        for Server { port, version, .. } in servers {
            let page = format!("url = \"http://127.0.0.1:{port}/metrics\"\npreset = \"vllm\"");
            write!(config, "\n[[target]]\n{page}\nversion = \"{version}\"\ninterval = \"1s\"\n")?;
        }
        Ok(config)
    }
}
