//! Which model and version a target serves. First hit wins, and the answer says which rule it was:
//! configuration → label of the page → the mapping's static name → the engine's own endpoints → the weights file that
//! the process maps → labels of the pod → command line, environment and files of the process → the weights' fingerprint →
//! the container's image, by digest or else by tag. A word that is no version ("default") is as good as none.
//!
//! The version is a name; the fingerprint is what it stands for. A name that is given other weights is another version from
//! then on, whoever gave the name.

mod command;
mod process;
mod weights;

use super::fetch::{Connection, FetchError};
use super::preset::{Hook, Hooks, Method, Role, WeightsFormat};
use super::reader::{NO_VERSION, PageIdentity, PageVersion};
use super::socket::ProcessId;
use super::target::Target;
use crate::directory::{Directory, MODEL_LABEL};
use crate::process::{cgroup, proc};
use joulebook_units::{Service, Serving, ServingConfiguration, VersionSource};
use process::ProcessFacts;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use weights::Weights;

/// Most bytes of an answer of an engine's endpoint.
const MAX_ANSWER: usize = 1 << 20;
/// Most bytes of a name from an engine.
const MAX_NAME: usize = 1024;
/// For more models of a page the engine is not asked: the client may choose the label.
const MAX_MODELS: usize = 32;

/// What is known of the weights behind a target, apart from its page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    /// Name the engine's endpoint gives.
    pub model: Option<String>,
    /// Version that the engine gives for whatever it serves.
    pub version: Option<String>,
    /// Versions that the engine gives by the page's names of models.
    pub versions: BTreeMap<String, String>,
    /// Tokenizer that the engine names.
    pub tokenizer: Option<String>,
    /// Set-up that the engine tells.
    pub configuration: ServingConfiguration,
    /// The weights file, if it was read.
    pub weights: Option<Weights>,
    /// What the process tells.
    pub process: ProcessFacts,
    /// What is known of the pod.
    pub pod: PodFacts,
}

/// What is known of the pod that a process runs in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Model that a label or annotation names.
    pub model: Option<String>,
    /// Version that a label or annotation names.
    pub version: Option<String>,
    /// What the container's image stands for.
    pub image: Option<String>,
    /// Tag of the container's image.
    pub image_tag: Option<String>,
    /// The service group.
    pub group: Option<String>,
}

impl Served {
    /// The service of a page's series; `adapters`: the page counts adapters in their base.
    pub fn service(&self, target: &Target, page: &PageIdentity, adapters: bool) -> Service {
        let header = self.weights.as_ref().map(|weights| &weights.header);
        let named = target.model.as_ref().or(page.model.as_ref()).or(target.fixed.model.as_ref());
        let named = named.or(self.model.as_ref());
        let named = named.or(self.pod.model.as_ref()).or(header.and_then(|header| header.name.as_ref()));
        let renamed = named.and_then(|name| target.names.get(name));
        let by_name = renamed.and_then(|renamed| renamed.version.as_ref());
        let told = page.model.as_ref().and_then(|model| self.versions.get(model)).or(self.version.as_ref());
        let found = told.map(|version| (version.clone(), VersionSource::EngineApi)).or_else(|| self.found());
        let (version, version_source) = match (target.version.as_ref().or(by_name), &page.version, found) {
            (Some(version), _, _) => (Some(version.clone()), VersionSource::Config),
            (None, PageVersion::Label(version), _) => (Some(version.clone()), VersionSource::Label),
            (None, _, found) => match (&target.fixed.version, found, &page.version) {
                (Some(version), _, _) => (Some(version.clone()), VersionSource::Config),
                (None, Some((version, source)), _) => (Some(version), source),
                (None, None, PageVersion::Denied) => (None, VersionSource::DenyList),
                (None, None, _) if self.process.is_denied => (None, VersionSource::NotReadable),
                (None, None, _) => (None, VersionSource::Unresolved),
            },
        };
        Service {
            model: renamed.and_then(|renamed| renamed.model.as_ref()).or(named).cloned(),
            version,
            version_source,
            fingerprint: self.fingerprint(),
            adapter: adapters.then(|| "*".to_owned()),
            engine: target.preset.id.clone(),
            target: target.name.clone(),
            workload: None,
            tokenizer: target.tokenizer.as_ref().or(self.tokenizer.as_ref()).cloned(),
            serving: Serving {
                base: self.process.base.clone(),
                revision: self.process.revision.clone(),
                role: target.role.or(self.process.role),
                wraps: target.preset.role == Role::Wrapper,
                group: target.group.as_ref().or(self.pod.group.as_ref()).or(self.process.group.as_ref()).cloned(),
                configuration: self.configuration(&target.configuration),
            },
        }
    }

    /// The version behind the engine's own word.
    fn found(&self) -> Option<(String, VersionSource)> {
        let weights = self.weights.as_ref();
        let in_file = weights.and_then(|weights| Some((weights.header.version.clone()?, weights.source)));
        let of_pod = || Some((self.pod.version.clone()?, VersionSource::PodLabel));
        let of_process = || Some((self.process.version.clone()?, VersionSource::Process));
        let of_file = || weights.map(|weights| (short(&weights.header.fingerprint), weights.source));
        let of_image = || Some((self.pod.image.clone()?, VersionSource::Image));
        let of_tag = || Some((self.pod.image_tag.clone()?, VersionSource::ImageTag));
        in_file.or_else(of_pod).or_else(of_process).or_else(of_file).or_else(of_image).or_else(of_tag)
    }

    /// What names the weights by their content; without it the image, whose weights may be inside.
    fn fingerprint(&self) -> Option<String> {
        let of_file = self.weights.as_ref().map(|weights| weights.header.fingerprint.clone());
        of_file.or_else(|| self.process.fingerprint.clone()).or_else(|| self.pod.image.clone())
    }

    /// What is configured, else told by the engine, else by its process, else by the file.
    fn configuration(&self, configured: &ServingConfiguration) -> ServingConfiguration {
        let own = |part: fn(&ServingConfiguration) -> Option<u32>| {
            part(configured).or(part(&self.configuration)).or(part(&self.process.configuration))
        };
        let in_file = self.weights.as_ref().and_then(|weights| weights.header.quantisation.clone());
        let text = |part: fn(&ServingConfiguration) -> &Option<String>| {
            let [first, second, third] = [configured, &self.configuration, &self.process.configuration].map(part);
            first.as_ref().or(second.as_ref()).or(third.as_ref()).cloned()
        };
        ServingConfiguration {
            engine_version: text(|set_up| &set_up.engine_version),
            quantisation: text(|set_up| &set_up.quantisation).or(in_file),
            max_batch: own(|set_up| set_up.max_batch),
            tensor_parallel: own(|set_up| set_up.tensor_parallel),
            pipeline_parallel: own(|set_up| set_up.pipeline_parallel),
            data_parallel: own(|set_up| set_up.data_parallel),
            power_limit_milliwatts: configured.power_limit_milliwatts,
        }
    }
}

/// The kind of a fingerprint and its first 12 digits: a version where nothing has given one.
fn short(fingerprint: &str) -> String {
    let (kind, hex) = fingerprint.split_once(':').unwrap_or(("", fingerprint));
    format!("{kind}:{}", hex.chars().take(12).collect::<String>())
}

/// Where the agent looks besides the engine's own endpoints.
#[derive(Debug, Clone)]
pub struct Places {
    /// Root of the process tables.
    pub procfs: PathBuf,
    /// What is known of the node from the cluster.
    pub directory: Directory,
}

/// Asks the engine and looks at the process. `models` are those of the page whose version no label tells, `known` what was
/// found before. The caller limits the time.
///
/// # Errors
/// The engine could not be asked now. An engine that answers, but not with what was asked for, is no error: the next
/// rule applies.
pub async fn resolve(
    target: &Target,
    places: Places,
    process: Option<ProcessId>,
    models: &BTreeSet<String>,
    known: Option<&Weights>,
) -> Result<Served, FetchError> {
    let hooks = &target.preset.identity;
    let mut asked = Asked::default();
    let model = asked.first(target, &hooks.model, None).await?;
    let told_path = asked.first(target, &hooks.weights_path, None).await?;
    let tokenizer = asked.first(target, &hooks.tokenizer, None).await?;
    let number = |text: Option<String>| text.and_then(|text| text.parse().ok());
    let configuration = ServingConfiguration {
        engine_version: asked.first(target, &hooks.engine_version, None).await?,
        quantisation: asked.first(target, &hooks.quantisation, None).await?,
        max_batch: number(asked.first(target, &hooks.max_batch, None).await?),
        ..ServingConfiguration::default()
    };
    let (mut version, mut versions) = (None, BTreeMap::new());
    // What is configured wins anyway: then nobody needs to be asked.
    if target.version.is_none() {
        version = asked.first(target, &hooks.version, None).await?.filter(|word| is_version(word));
        for model in models.iter().take(MAX_MODELS) {
            let told = asked.first(target, &hooks.version, Some(model)).await?.filter(|word| is_version(word));
            versions.extend(told.map(|version| (model.clone(), version)));
        }
    }
    let mut served = Served { model, version, versions, tokenizer, configuration, ..Served::default() };
    let Some(process) = process else { return Ok(served) };
    let format = hooks.weights;
    let (name, labels, known) = (target.name.clone(), target.version_labels.clone(), known.cloned());
    let looked = tokio::task::spawn_blocking(move || {
        let mut facts = process::look(&places.procfs, process);
        let weights = (format == Some(WeightsFormat::Gguf))
            .then(|| weights::weights(&places.procfs, process, told_path.as_deref(), known.as_ref()));
        let weights = match weights {
            Some(Ok(found)) => Some(found),
            Some(Err(why)) => {
                facts.is_denied |= why.is_denied();
                tracing::info!(target_url = %name, pid = process.pid, %why, "the weights file was not read; the next rule decides the version");
                None
            }
            None => None,
        };
        (facts, weights, pod(&places, process, &labels))
    });
    // The task is not cancelled, and a panic in it would be a fault of this program that the page must not pay for.
    if let Ok((facts, weights, pod)) = looked.await {
        (served.process, served.weights, served.pod) = (facts, weights, pod);
    }
    Ok(served)
}

fn is_version(word: &str) -> bool {
    !NO_VERSION.contains(&word)
}

/// What is known of the pod of a process.
fn pod(places: &Places, process: ProcessId, labels: &[String]) -> PodFacts {
    let text = proc::read_text(&places.procfs.join(process.pid.to_string()).join("cgroup")).unwrap_or_default();
    let identity = proc::parse_cgroup(&text).map(cgroup::identify).unwrap_or_default();
    let Some(pod) = identity.pod_uid.as_deref().and_then(|uid| places.directory.pod(uid)) else {
        return PodFacts::default();
    };
    PodFacts {
        model: pod.told(MODEL_LABEL).map(str::to_owned),
        version: pod.version(labels, is_version),
        image: pod.image_version(identity.container_id.as_deref()),
        image_tag: pod.image_tag(identity.container_id.as_deref(), is_version),
        group: pod.group(),
    }
}

/// Answers of one resolution: what several questions ask for is fetched once.
#[derive(Default)]
struct Asked(BTreeMap<(Option<u16>, bool, String), Option<serde_json::Value>>);

impl Asked {
    /// The answer to the first of these questions that has one. With a model only those that are put for each model,
    /// without one only the others.
    async fn first(
        &mut self,
        target: &Target,
        hooks: &Hooks,
        model: Option<&String>,
    ) -> Result<Option<String>, FetchError> {
        let model = model.map(String::as_str);
        for hook in hooks.0.iter().filter(|hook| hook.is_of_model() == model.is_some()) {
            let key = (hook.port, hook.method == Method::Post, hook.path(model));
            if !self.0.contains_key(&key) {
                let json = ask(target, hook, &key.2).await?;
                self.0.insert(key.clone(), json);
            }
            let text = self.0.get(&key).and_then(Option::as_ref).and_then(|json| hook.answer(json, model));
            let usable = |text: &str| !text.is_empty() && text.len() <= MAX_NAME && !text.chars().any(char::is_control);
            if let Some(text) = text.as_deref().map(str::trim).filter(|text| usable(text)) {
                return Ok(Some(text.to_owned()));
            }
        }
        Ok(None)
    }
}

/// What the engine sends at a path; `None` if it does not have it.
async fn ask(target: &Target, hook: &Hook, path: &str) -> Result<Option<serde_json::Value>, FetchError> {
    let (host, port) = target.endpoint(hook.port);
    let elsewhere = (host, port) != (target.host.as_str(), target.port);
    let connection = match Connection::open(host, port).await {
        Ok(connection) => connection,
        // The page is there, so the engine runs: it does not offer this port, or not to us.
        Err(FetchError::Connect { .. }) if elsewhere => return Ok(None),
        Err(error) => return Err(error),
    };
    let answer = match hook.method {
        Method::Get => connection.get(path, MAX_ANSWER).await,
        Method::Post => connection.post(path, MAX_ANSWER).await,
    };
    match answer {
        Ok(answer) => Ok(serde_json::from_slice(&answer).ok()),
        // It answered: the endpoint is absent, protected or something else. Server errors pass.
        Err(FetchError::Status { status, .. }) if !status.is_server_error() => Ok(None),
        Err(FetchError::Form { .. } | FetchError::TooLarge { .. }) => Ok(None),
        // Another port may be another service altogether.
        Err(FetchError::Http { .. }) if elsewhere => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::super::gguf::Header;
    use super::super::preset::Presets;
    use super::super::target::TargetConfig;
    use super::*;

    fn header(name: Option<&str>, version: Option<&str>) -> Header {
        Header {
            name: name.map(str::to_owned),
            version: version.map(str::to_owned),
            quantisation: Some("Q8_0".to_owned()),
            fingerprint: "f:0123456789abcdef".to_owned(),
        }
    }

    #[test]
    fn what_is_configured_wins_over_label_and_weights() {
        let presets = Presets::built_in().expect("valid");
        let config = |text: &str| {
            let text = format!("url = \"http://h:1\"\npreset = \"llamacpp\"\n{text}");
            Target::new(0, toml::from_str(&text).expect("valid"), &presets).expect("valid")
        };
        let weights = Some(Weights::of(header(Some("tiny"), Some("1.0")), VersionSource::Process));
        let served = Served { weights, ..Served::default() };
        let page = |version| PageIdentity { model: None, version, consumer: None };
        let answer = |target: &Target, served: &Served, version| {
            let service = served.service(target, &page(version), false);
            (service.model, service.version, service.version_source)
        };
        let (own, plain) = (config("version = \"9\"\nmodel = \"m\""), config(""));
        let label = || PageVersion::Label("5".into());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(answer(&own, &served, label()), (some("m"), some("9"), VersionSource::Config));
        assert_eq!(answer(&plain, &served, label()), (some("tiny"), some("5"), VersionSource::Label));
        assert_eq!(answer(&plain, &served, PageVersion::Denied), (some("tiny"), some("1.0"), VersionSource::Process));
        let mapping = "[mapping]\nstatic = { model = \"s\", version = \"7\" }\n\
            values.items = { metric = \"a\", type = \"counter\" }";
        let fixed: TargetConfig =
            toml::from_str(&format!("url = \"http://h:1\"\npreset = \"custom\"\n{mapping}")).expect("valid");
        let fixed = Target::new(0, fixed, &presets).expect("valid");
        assert_eq!(answer(&fixed, &served, label()), (some("s"), some("5"), VersionSource::Label));
        assert_eq!(answer(&fixed, &served, PageVersion::Untold), (some("s"), some("7"), VersionSource::Config));
        let nothing = Served::default();
        assert_eq!(answer(&plain, &nothing, PageVersion::Denied), (None, None, VersionSource::DenyList));
        assert_eq!(answer(&plain, &nothing, PageVersion::Untold), (None, None, VersionSource::Unresolved));
    }

    #[test]
    fn what_the_engine_answers_stands_behind_the_label_and_before_the_weights() {
        let presets = Presets::built_in().expect("valid");
        let config = "url = \"http://h:1\"\npreset = \"torchserve\"";
        let target = Target::new(0, toml::from_str(config).expect("valid"), &presets).expect("valid");
        let served = Served {
            version: Some("one".into()),
            versions: [("a".to_owned(), "2.0".to_owned())].into(),
            tokenizer: Some("bpe".into()),
            weights: Some(Weights::of(header(None, Some("1.0")), VersionSource::Process)),
            ..Served::default()
        };
        let version = |model: &str, version| {
            let page = PageIdentity { model: Some(model.to_owned()), version, consumer: None };
            let service = served.service(&target, &page, false);
            assert_eq!(service.tokenizer.as_deref(), Some("bpe"));
            (service.version, service.version_source)
        };
        let told = |text: &str, source| (Some(text.to_owned()), source);
        assert_eq!(version("a", PageVersion::Label("3".into())), told("3", VersionSource::Label));
        assert_eq!(version("a", PageVersion::Denied), told("2.0", VersionSource::EngineApi));
        assert_eq!(version("b", PageVersion::Untold), told("one", VersionSource::EngineApi));
    }

    /// One fact after the other is taken away, and the next rule decides.
    #[test]
    fn each_rule_decides_where_those_before_it_tell_nothing() {
        let presets = Presets::built_in().expect("valid");
        let config = "url = \"http://h:1\"\npreset = \"llamacpp\"\nnames = { tiny = { model = \"own\" } }";
        let target = Target::new(0, toml::from_str(config).expect("valid"), &presets).expect("valid");
        let mut served = Served {
            version: Some("engine".into()),
            weights: Some(Weights::of(header(Some("tiny"), Some("file")), VersionSource::Process)),
            process: ProcessFacts { version: Some("process".into()), is_denied: true, ..ProcessFacts::default() },
            pod: PodFacts {
                model: None,
                version: Some("pod".into()),
                image: Some("image:ab".into()),
                image_tag: Some("0.9".into()),
                group: Some("g".into()),
            },
            ..Served::default()
        };
        let page = PageIdentity { model: None, version: PageVersion::Untold, consumer: None };
        type Step = (fn(&mut Served), &'static str, VersionSource);
        let mut steps: Vec<Step> = vec![
            (|_| (), "engine", VersionSource::EngineApi),
            (|served| served.version = None, "file", VersionSource::Process),
            (
                |served| served.weights = Some(Weights::of(header(Some("tiny"), None), VersionSource::EngineApi)),
                "pod",
                VersionSource::PodLabel,
            ),
            (|served| served.pod.version = None, "process", VersionSource::Process),
            (|served| served.process.version = None, "f:0123456789ab", VersionSource::EngineApi),
            (|served| served.weights = None, "image:ab", VersionSource::Image),
            (|served| served.pod.image = None, "0.9", VersionSource::ImageTag),
        ];
        for (take, version, source) in steps.drain(..) {
            take(&mut served);
            let service = served.service(&target, &page, false);
            assert_eq!((service.version.as_deref(), service.version_source), (Some(version), source));
            assert_eq!(service.serving.group.as_deref(), Some("g"));
        }
        served.pod.image_tag = None;
        assert_eq!(served.service(&target, &page, false).version_source, VersionSource::NotReadable);
        served.process.is_denied = false;
        assert_eq!(served.service(&target, &page, false).version_source, VersionSource::Unresolved);
        served.weights = Some(Weights::of(header(Some("tiny"), None), VersionSource::Process));
        assert_eq!(served.service(&target, &page, false).model.as_deref(), Some("own"), "by the configured name");
        served.pod.model = Some("labelled".into());
        let model = |served: &Served| served.service(&target, &page, false).model;
        assert_eq!(
            model(&served).as_deref(),
            Some("labelled"),
            "a label is of this pod, the file's name of whoever made it"
        );
        served.model = Some("engine".into());
        assert_eq!(model(&served).as_deref(), Some("engine"));
    }

    #[test]
    fn a_set_up_is_what_is_configured_then_told_then_read() {
        let presets = Presets::built_in().expect("valid");
        let config = "url = \"http://h:1\"\npreset = \"llamacpp\"\nrole = \"decode\"\nservice_group = \"g\"\n\
            serving = { max_batch = 4, power_limit_watts = 300.0 }";
        let target = Target::new(0, toml::from_str(config).expect("valid"), &presets).expect("valid");
        let set_up = |batch, version: Option<&str>| ServingConfiguration {
            max_batch: batch,
            engine_version: version.map(str::to_owned),
            ..ServingConfiguration::default()
        };
        let served = Served {
            configuration: set_up(Some(8), Some("b1")),
            process: ProcessFacts { configuration: set_up(Some(9), Some("b2")), ..ProcessFacts::default() },
            weights: Some(Weights::of(header(None, None), VersionSource::Process)),
            ..Served::default()
        };
        let page = PageIdentity { model: None, version: PageVersion::Untold, consumer: None };
        let serving = served.service(&target, &page, false).serving;
        assert_eq!((serving.role, serving.group.as_deref()), (Some(joulebook_units::ServiceRole::Decode), Some("g")));
        let found = serving.configuration;
        assert_eq!((found.max_batch, found.engine_version.as_deref()), (Some(4), Some("b1")));
        assert_eq!((found.power_limit_milliwatts, found.quantisation.as_deref()), (Some(300_000), Some("Q8_0")));
    }

    #[test]
    fn a_service_says_whether_what_counts_it_is_around_an_engine_whatever_its_part_of_the_work() {
        let mine = |role: &str| {
            let preset = format!(
                "id = \"mine\"\npath = \"/metrics\"\nrole = \"{role}\"\n\
                [mapping]\nvalues.items = {{ metric = \"a\", type = \"counter\" }}\n"
            );
            let mut presets = Presets::built_in().expect("valid");
            presets.add(toml::from_str(&preset).expect("valid")).expect("a new name");
            presets
        };
        let page = PageIdentity { model: None, version: PageVersion::Untold, consumer: None };
        let wraps = |presets: &Presets, preset: &str| {
            let config = format!("url = \"http://h:1\"\npreset = \"{preset}\"\nrole = \"decode\"");
            let target = Target::new(0, toml::from_str(&config).expect("valid"), presets).expect("valid");
            Served::default().service(&target, &page, false).serving.wraps
        };
        let (engine, wrapper) = (mine("engine"), mine("wrapper"));
        assert_eq!((wraps(&engine, "mine"), wraps(&wrapper, "mine")), (false, true));
        assert_eq!((wraps(&engine, "vllm"), wraps(&engine, "kserve")), (false, true));
    }
}
