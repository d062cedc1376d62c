//! The command line. Its help is golden-tested (`tests/help.txt`).

mod estimate;
mod factors;
mod idle;
mod training;

pub use estimate::{EstimateArguments, EstimateInputs, MethodName};
pub use factors::{BasisName, FactorsCommand, PushArguments, QuantityName, UnitName};
pub use idle::{IdleArguments, ScopeName};
pub use training::TrainingCommand;

use crate::period;
use clap::{Args, Parser, Subcommand, ValueEnum};
use joulebook_proto::query::{
    EnergyBy, EntityKind, FunctionalUnit, IdlePolicy, IntensityKind, Level, ModelSelector, TimeWindow, Trust,
};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// What a model version costs in joules and grams of CO2e, and why.
#[derive(Debug, Parser)]
#[command(name = "joulebook", version, term_width = 100)]
pub struct Arguments {
    /// Where to ask.
    #[command(flatten)]
    pub connection: Connection,
    /// What to ask.
    #[command(subcommand)]
    pub command: Command,
}

/// Where to ask.
#[derive(Debug, Args)]
pub struct Connection {
    /// Address of the aggregator; http:// (plaintext) for this machine only
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "JOULEBOOK_AGGREGATOR",
        hide_env_values = true,
        help_heading = "Connection",
        default_value = "https://127.0.0.1:7443"
    )]
    pub aggregator: String,
    /// CA certificates of the aggregator (PEM)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "JOULEBOOK_TLS_CA",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub tls_ca: Option<PathBuf>,
    /// Your certificate (PEM)
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "JOULEBOOK_TLS_CERT",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM), which nobody else may read
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "JOULEBOOK_TLS_KEY",
        hide_env_values = true,
        help_heading = "Connection"
    )]
    pub tls_key: Option<PathBuf>,
    /// Whether the key's group may read it, as the group of a Kubernetes volume (fsGroup) must.
    // Hidden: people have keys of their own, only the chart's pods have such.
    #[arg(long, global = true, hide = true)]
    pub tls_key_group_readable: bool,
    /// How long to wait for the whole answer, for example 10s or 1m
    #[arg(long, global = true, value_name = "DURATION", help_heading = "Connection", default_value = "10s", value_parser = duration)]
    pub timeout: Duration,
}

/// What to ask.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Grams of CO2e per functional unit of each model version (SCI)
    Sci(SciArguments),
    /// Energy by model, consumer, workflow, workload, process, container, pod, namespace, gpu, component, node, source or layer
    Energy(EnergyArguments),
    /// The terms of one score, their sources, and where every joule of its nodes went
    Explain(ExplainArguments),
    /// Idle capacity: who holds it, since when, what it costs; what versions' work caused beside what is kept for them
    Idle(IdleArguments),
    /// What formulas of other tools say where nothing is measured, or beside it; what remote models delivered, rated
    Estimate(Box<EstimateArguments>),
    /// Two scores side by side; refused where they differ in more than what is compared
    Compare(CompareArguments),
    /// Series of carbon intensity, PUE and water: what there is, and pushing more
    #[command(subcommand)]
    Factors(FactorsCommand),
    /// Training of model versions: what is disclosed of it, and the ledgers it is amortised by
    #[command(subcommand)]
    Training(TrainingCommand),
    /// What this machine can measure, what it cannot and why: the agent's look at its own sensors
    Doctor(DoctorArguments),
    /// Care of the aggregator: its state, stored rows, backups, and a look at everything stored
    #[command(subcommand)]
    Admin(AdminCommand),
}

/// Arguments of `compare`.
#[derive(Debug, Args)]
pub struct CompareArguments {
    /// When.
    #[command(flatten)]
    pub period: PeriodArguments,
    /// Functional unit [default: total tokens where they are known, else requests]
    #[arg(long, value_enum)]
    pub per: Option<Per>,
    /// Boundary of the scores: accelerator, host, idle or facility
    #[arg(long, value_enum, default_value_t = LevelName::Facility)]
    pub level: LevelName,
    /// How pool idle is charged
    #[arg(long, value_enum, default_value_t = Idle::ReservedCapacityTime)]
    pub idle: Idle,
    /// First scope in which pool idle looks for versions to be charged to
    #[arg(long, value_enum, default_value_t = ScopeName::Node)]
    pub idle_scope: ScopeName,
    /// Where tokenizers or kinds of intensity differ, compare per request, or by the kind of the first, and say so
    #[arg(long)]
    pub normalise: bool,
    /// How the comparison is printed
    #[arg(short, long, value_enum, default_value_t = AdminForm::Table)]
    pub output: AdminForm,
    /// The first
    #[arg(value_name = "NAME@VERSION", value_parser = selector)]
    pub first: ModelSelector,
    /// The second
    #[arg(value_name = "NAME@VERSION", value_parser = selector)]
    pub second: ModelSelector,
}

/// Arguments of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArguments {
    /// For how long to measure, in seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// The agent's configuration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The agent's program [default: the one beside this program, else joulebook-agent]
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// Form of the findings
    #[arg(short, long, value_enum, default_value_t = DoctorForm::Text)]
    pub output: DoctorForm,
    /// Further flags of the agent, behind `--`
    #[arg(last = true, value_name = "FLAG")]
    pub rest: Vec<OsString>,
}

/// Form of findings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DoctorForm {
    /// For reading
    Text,
    /// For programs
    Json,
}

impl DoctorForm {
    /// The agent's word for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Care of the aggregator. --timeout counts from one sign of life to the next.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Nodes, streams and counters
    Status(FormArguments),
    /// Make a backup in the folder that the aggregator's configuration names, and read it again
    Backup(BackupArguments),
    /// The finished backups
    Backups(FormArguments),
    /// Read everything stored, or a backup, and hold it against its checksums; exit 74 if something is damaged
    Verify(VerifyArguments),
    /// Stored rows of a node as CSV: series, unit, stream, sequence, unix_nanos, value
    Dump(DumpArguments),
}

/// How an answer of `admin` is printed.
#[derive(Debug, Args)]
pub struct FormArguments {
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = AdminForm::Table)]
    pub output: AdminForm,
}

/// Arguments of `admin backup`.
#[derive(Debug, Args)]
pub struct BackupArguments {
    /// Afterwards keep only so many of the newest backups [default: all]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub keep: Option<u32>,
    /// How it is printed.
    #[command(flatten)]
    pub form: FormArguments,
}

/// Arguments of `admin verify`.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// A backup by its number [default: the database]
    #[arg(long, value_name = "NUMBER")]
    pub backup: Option<u32>,
    /// How it is printed.
    #[command(flatten)]
    pub form: FormArguments,
}

/// Arguments of `admin dump`.
#[derive(Debug, Args)]
pub struct DumpArguments {
    /// The node
    #[arg(long, value_name = "NAME")]
    pub node: String,
    /// Start: RFC 3339, or `2026-11-24` or `2026-11-24 10:00` in UTC [default: all that is kept]
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// End, not included, written like the start [default: now]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
}

/// Form of an answer of `admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum AdminForm {
    /// For reading
    Table,
    /// For programs: the contract's message
    Json,
}

/// When.
#[derive(Debug, Args)]
pub struct PeriodArguments {
    /// The time up to now, for example 10m or 24h [default: 1h]
    #[arg(long, value_name = "DURATION", value_parser = duration, conflicts_with_all = ["from", "to"])]
    pub last: Option<Duration>,
    /// Start: RFC 3339, or `2026-11-24` or `2026-11-24 10:00` in UTC
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// End, not included, written like the start [default: now]
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
}

/// Which of several rows of one model version: weights that changed under its name, and set-ups, have rows of their own.
#[derive(Debug, Default, Args)]
pub struct RowArguments {
    /// Only weights whose fingerprint starts so
    #[arg(long, value_name = "DIGEST")]
    pub weights: Option<String>,
    /// Only the serving configuration whose digest starts so
    #[arg(long, value_name = "DIGEST")]
    pub serving_config: Option<String>,
}

impl RowArguments {
    /// The contract's selector.
    pub fn of(&self, model: Option<&ModelSelector>) -> Option<ModelSelector> {
        let asked = self.weights.is_some() || self.serving_config.is_some();
        let selector = model.cloned().or_else(|| asked.then(ModelSelector::default))?;
        Some(ModelSelector { weights: self.weights.clone(), serving_config: self.serving_config.clone(), ..selector })
    }
}

/// Which factors.
#[derive(Debug, Args)]
pub struct FactorArguments {
    /// Kind of carbon intensity [default: that of the site's first series, else of its tables]
    #[arg(long, value_enum, value_name = "KIND")]
    pub intensity: Option<KindName>,
    /// Stored series as they were known at this time, written like --from [default: as they are known now]
    #[arg(long, value_name = "TIME", value_parser = as_of)]
    pub as_of: Option<i64>,
    /// Also the extended boundary: disclosed training, amortised over the units served, beside the score
    #[arg(long)]
    pub extended: bool,
}

/// Arguments of `sci`.
#[derive(Debug, Args)]
pub struct SciArguments {
    /// When.
    #[command(flatten)]
    pub period: PeriodArguments,
    /// Only this model, or this version of it
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = selector)]
    pub model: Option<ModelSelector>,
    /// Break each version down by who asked, or by the workflow that it was asked for
    #[arg(long, value_enum, value_name = "BY")]
    pub by: Option<Entity>,
    /// Which of several rows of that name.
    #[command(flatten)]
    pub row: RowArguments,
    /// Functional unit [default: total tokens where they are known, else requests]
    #[arg(long, value_enum)]
    pub per: Option<Per>,
    /// Boundary of the score; `all` shows every level side by side
    #[arg(long, value_enum, default_value_t = LevelName::Facility)]
    pub level: LevelName,
    /// How pool idle is charged
    #[arg(long, value_enum, default_value_t = Idle::ReservedCapacityTime)]
    pub idle: Idle,
    /// First scope in which pool idle looks for versions to be charged to
    #[arg(long, value_enum, default_value_t = ScopeName::Node)]
    pub idle_scope: ScopeName,
    /// Which side is believed where metered parts exceed the meter at a node's input
    #[arg(long, value_enum, default_value_t = Believed::Components)]
    pub trust: Believed,
    /// Which factors.
    #[command(flatten)]
    pub factors: FactorArguments,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub output: Form,
}

/// Arguments of `energy`.
#[derive(Debug, Args)]
pub struct EnergyArguments {
    /// When.
    #[command(flatten)]
    pub period: PeriodArguments,
    /// Only this model, or this version of it (with --by model, consumer or workflow)
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = selector)]
    pub model: Option<ModelSelector>,
    /// Which of several rows of that name.
    #[command(flatten)]
    pub row: RowArguments,
    /// What the rows are
    #[arg(long, value_enum, default_value_t = By::Model)]
    pub by: By,
    /// Rows for each so long part of the window, for example 5m: a series; 1000 parts at most
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub step: Option<Duration>,
    /// Also joules per this functional unit (with --by model, consumer or workflow)
    #[arg(long, value_enum)]
    pub per: Option<Per>,
    /// Boundary of model versions' energy: accelerator, host or idle
    #[arg(long, value_enum, default_value_t = LevelName::Idle)]
    pub level: LevelName,
    /// How pool idle is charged
    #[arg(long, value_enum, default_value_t = Idle::ReservedCapacityTime)]
    pub idle: Idle,
    /// First scope in which pool idle looks for versions to be charged to
    #[arg(long, value_enum, default_value_t = ScopeName::Node)]
    pub idle_scope: ScopeName,
    /// Which side is believed where metered parts exceed the meter at a node's input
    #[arg(long, value_enum, default_value_t = Believed::Components)]
    pub trust: Believed,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub output: Form,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// When.
    #[command(flatten)]
    pub period: PeriodArguments,
    /// The model version; the version may be left out where there is only one
    #[arg(long, value_name = "NAME[@VERSION]", value_parser = selector, required_unless_present = "alias")]
    pub model: Option<ModelSelector>,
    /// Which of several rows of that name.
    #[command(flatten)]
    pub row: RowArguments,
    /// Instead of a score: what this name of a model stood for, from when to when
    #[arg(long, value_name = "NAME", conflicts_with_all = ["model", "weights", "serving_config"])]
    pub alias: Option<String>,
    /// With --alias: what it stood for at this time, and a day around it
    #[arg(long, value_name = "TIME", requires = "alias", conflicts_with_all = ["last", "from", "to"])]
    pub at: Option<String>,
    /// Functional unit [default: total tokens where they are known, else requests]
    #[arg(long, value_enum)]
    pub per: Option<Per>,
    /// Boundary of the score: accelerator, host, idle or facility
    #[arg(long, value_enum, default_value_t = LevelName::Facility)]
    pub level: LevelName,
    /// How pool idle is charged
    #[arg(long, value_enum, default_value_t = Idle::ReservedCapacityTime)]
    pub idle: Idle,
    /// First scope in which pool idle looks for versions to be charged to
    #[arg(long, value_enum, default_value_t = ScopeName::Node)]
    pub idle_scope: ScopeName,
    /// Which side is believed where metered parts exceed the meter at a node's input
    #[arg(long, value_enum, default_value_t = Believed::Components)]
    pub trust: Believed,
    /// Which factors.
    #[command(flatten)]
    pub factors: FactorArguments,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    pub output: Form,
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident => $wire:ident { $($(#[$item:meta])* $variant:ident = $to:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
        #[allow(missing_docs, reason = "the words are those of the contract, which documents them")]
        pub enum $name { $($(#[$item])* $variant),+ }

        impl $name {
            /// The contract's value.
            pub fn wire(self) -> $wire {
                match self { $(Self::$variant => $wire::$to),+ }
            }
        }
    };
}

words! {
    /// Functional unit.
    Per => FunctionalUnit {
        TotalToken = TotalToken, InputToken = InputToken, OutputToken = OutputToken, Request = Request, Item = Item,
        InferenceSecond = InferenceSecond, Image = Image, AudioSecond = AudioSecond, Workflow = Workflow,
        GpuSecond = GpuSecond, Prompt = Prompt,
    }
}
words! {
    /// Boundary level; `all` has no value of its own in the contract and is asked level by level.
    LevelName => Level {
        Accelerator = Accelerator, Host = Host, Idle = Idle, Facility = Facility, All = Unspecified,
    }
}
words! {
    /// Idle policy.
    Idle => IdlePolicy {
        ReservedCapacityTime = ReservedCapacityTime, ActiveEnergy = ActiveEnergy, Requests = Requests,
        UsageTime = UsageTime, Equal = Equal, Unallocated = Unallocated,
    }
}
words! {
    /// What an intensity says: whose part of the grid's emissions is one's own (average), or what one's use changed
    /// (marginal).
    KindName => IntensityKind {
        AverageConsumption = AverageConsumption, AverageProduction = AverageProduction,
        MarginalShortRun = MarginalShortRun, MarginalLongRun = MarginalLongRun,
    }
}
words! {
    /// Side that is believed where metered parts exceed the meter at a node's input.
    Believed => Trust { Components = Components, Wall = Wall }
}
words! {
    /// What versions are broken down by.
    Entity => EntityKind { Consumer = Consumer, Workflow = Workflow }
}
words! {
    /// What rows of energy are about.
    By => EnergyBy {
        Model = Model, Workload = Workload, Process = Process, Container = Container, Pod = Pod, Gpu = Gpu,
        Component = Component, Node = Node, Source = Source, Layer = Layer,
        Consumer = Consumer, Workflow = Workflow, Namespace = Namespace,
    }
}

/// Form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For reading
    Table,
    /// For programs: every field, as cli/schema/answer.schema.json has it
    Json,
    /// For spreadsheets (RFC 4180)
    Csv,
}

/// Whether the command line asks for JSON, for errors that come before it is understood.
pub fn asks_for_json(args: &[OsString]) -> bool {
    let words: Vec<_> = args.iter().map(|word| word.to_string_lossy()).collect();
    let joined = |word: &str| matches!(word, "--output=json" | "-ojson" | "-o=json");
    let apart = |pair: &[std::borrow::Cow<'_, str>]| matches!(&*pair[0], "-o" | "--output") && pair[1] == "json";
    words.iter().any(|word| joined(word)) || words.windows(2).any(apart)
}

/// The contract's window.
pub fn wire_window(window: joulebook_units::Window) -> TimeWindow {
    TimeWindow { start_unix_nanos: window.start().0, end_unix_nanos: window.end().0 }
}

fn duration(text: &str) -> Result<Duration, String> {
    let value = humantime::parse_duration(text).map_err(|error| format!("{error}; write for example 10m or 24h"))?;
    if value.is_zero() { Err("it must be longer than nothing".to_owned()) } else { Ok(value) }
}

/// Nanoseconds since 1970 of a time.
fn as_of(text: &str) -> Result<i64, String> {
    let at = period::instant(text).map_err(|error| error.to_string())?;
    i64::try_from(at.as_nanosecond()).map_err(|_| "it lies outside 1678 to 2262".to_owned())
}

/// `NAME` or `NAME@VERSION`; the version starts after the last `@`.
fn selector(text: &str) -> Result<ModelSelector, String> {
    let (model, version) = text.rsplit_once('@').map_or((text, None), |(model, version)| (model, Some(version)));
    if model.is_empty() || version == Some("") {
        return Err("write NAME or NAME@VERSION".to_owned());
    }
    Ok(ModelSelector { model: Some(model.to_owned()), version: version.map(str::to_owned), ..ModelSelector::default() })
}
