//! The configuration of one inference server.

use super::mapping::{FirstLabel, Fixed, Mapping};
use super::preset::{Preset, PresetError, Presets};
use super::reader::Reader;
use super::upstream;
use crate::directory::VERSION_LABELS;
use hyper::Uri;
use joulebook_units::{ServiceRole, ServingConfiguration};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Time between two scrapes where a target gives none.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
const LONGEST_INTERVAL: Duration = Duration::from_secs(3600);

/// One `[[target]]` of the agent's configuration.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// Where its metric page is: `http://host:port` or `http://host:port/path`. Without a path the preset's is taken.
    pub url: String,
    /// Which engine it is: a name that `joulebook-agent presets list` prints, or `custom` with a `mapping`.
    pub preset: String,
    /// Where the engine's own endpoints are asked for the model's identity: `http://host:port`. Unset: the host of `url`,
    /// at its port or the one that the preset names.
    pub info_url: Option<String>,
    /// Model name that overrides what the server tells. Unset: the server's own.
    pub model: Option<String>,
    /// Version that overrides what the server or its weights tell. Unset: found out, or unresolved.
    pub version: Option<String>,
    /// Tokenizer, so that token counts of different models are not compared by mistake. Unset: unknown.
    pub tokenizer: Option<String>,
    /// Other names for what the server serves, by the name that it serves it under. `model` and `version` go before.
    #[serde(default)]
    pub names: BTreeMap<String, NameConfig>,
    /// Labels and annotations of its pod that name a version, the first that does. Unset: `joulebook.io/model-version`,
    /// `app.kubernetes.io/version`, `serving.knative.dev/revision`, `modelVersion`.
    pub version_labels: Option<Vec<String>>,
    /// Its part of the work, where several servers share it. Unset: what its command line says, else all of it.
    pub role: Option<RoleConfig>,
    /// Name of the group of servers, on whatever nodes, that work on the same requests. Unset: what its pod's labels say,
    /// else `dynamo/NAMESPACE` of a server of Dynamo's, else it works alone.
    pub service_group: Option<String>,
    /// Its set-up, as far as it does not tell it.
    #[serde(default)]
    pub serving: ServingConfig,
    /// CPU cores kept for this server, more than 0, to the thousandth. Unset: what its cgroup says, else none.
    pub reserved_cores: Option<f64>,
    /// Time between two scrapes, "1s" to "1h". Unset: "10s".
    #[serde(default, deserialize_with = "duration")]
    pub interval: Option<Duration>,
    /// Of a gateway: labels that name its consumers, instead of the preset's; the first that says something does.
    pub consumer: Option<FirstLabel>,
    /// Of a gateway: where upstreams are that it calls by a name of its own, by `host` or `host:port`: an address, or `address:port`,
    /// as the target of that engine or gateway has it. Unset: as the gateway says.
    #[serde(default)]
    pub upstreams: BTreeMap<String, String>,
    /// Of a gateway: time between two questions to the system's resolver for the names of its upstreams, "1s" to "1h". A name
    /// with one private address is taken for that address. Unset: names are not resolved.
    #[serde(default, deserialize_with = "duration")]
    pub resolve_upstreams: Option<Duration>,
    /// What is counted: with preset `custom` only, and needed there.
    pub mapping: Option<Mapping>,
}

impl TargetConfig {
    /// A page read with a preset, and nothing else configured.
    pub fn new(url: String, preset: &str) -> Self {
        Self {
            url,
            preset: preset.to_owned(),
            info_url: None,
            model: None,
            version: None,
            tokenizer: None,
            names: BTreeMap::new(),
            version_labels: None,
            role: None,
            service_group: None,
            serving: ServingConfig::default(),
            reserved_cores: None,
            interval: None,
            consumer: None,
            upstreams: BTreeMap::new(),
            resolve_upstreams: None,
            mapping: None,
        }
    }
}

/// Another name for what a server serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NameConfig {
    /// The model's name. Unset: as it is served.
    pub model: Option<String>,
    /// The version. Unset: as it is found out.
    pub version: Option<String>,
}

/// A server's part of the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleConfig {
    /// Takes requests in: they are counted there.
    Router,
    /// Reads prompts.
    Prefill,
    /// Generates; without a router requests are counted there.
    Decode,
}

/// A server's set-up.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServingConfig {
    /// Version of the engine.
    pub engine_version: Option<String>,
    /// Quantisation of the weights.
    pub quantisation: Option<String>,
    /// Most requests that it works on at once.
    pub max_batch: Option<u32>,
    /// Accelerators that each layer is cut over.
    pub tensor_parallel: Option<u32>,
    /// Stages that the layers are cut into.
    pub pipeline_parallel: Option<u32>,
    /// Replicas behind its page.
    pub data_parallel: Option<u32>,
    /// Power limit of each of its accelerators in watts, above 0.
    pub power_limit_watts: Option<f64>,
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map(Some).map_err(|error| {
        serde::de::Error::custom(format!("`{text}` is not a duration ({error}); write it like \"10s\""))
    })
}

/// A target that cannot be used: a mistake in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A key holds what it cannot be.
    #[error("target[{index}].{key} = `{value}` is not usable: {why}")]
    Key {
        /// Place of the target in the configuration, from 0.
        index: usize,
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong and what to write.
        why: &'static str,
    },
    /// Preset or mapping.
    #[error("target[{index}].{key} is not usable: {source}")]
    Preset {
        /// Place of the target in the configuration, from 0.
        index: usize,
        /// The key.
        key: &'static str,
        /// Why.
        source: PresetError,
    },
}

/// A target that passed every check.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name in every answer: the URL as configured.
    pub name: String,
    /// Host name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Path and query of the page.
    pub path: String,
    /// Host and port of the engine's own endpoints, if configured.
    pub info: Option<(String, u16)>,
    /// How it is read.
    pub preset: Preset,
    /// What is counted.
    pub reader: Reader,
    /// Configured names.
    pub model: Option<String>,
    /// Configured version.
    pub version: Option<String>,
    /// Names of the mapping, for what no label names.
    pub fixed: Fixed,
    /// Other names by the served name.
    pub names: BTreeMap<String, NameConfig>,
    /// Labels of a pod that name a version, in order.
    pub version_labels: Vec<String>,
    /// Configured part of the work.
    pub role: Option<ServiceRole>,
    /// Configured service group.
    pub group: Option<String>,
    /// Configured set-up.
    pub configuration: ServingConfiguration,
    /// Configured tokenizer.
    pub tokenizer: Option<String>,
    /// Reservation in thousandths of a core.
    pub reserved_millicores: Option<u64>,
    /// Time between scrapes.
    pub interval: Duration,
    /// Where upstreams are, by `host` or `host:port` in small letters.
    pub upstreams: BTreeMap<String, String>,
    /// Time between two questions for the names of upstreams.
    pub resolve_upstreams: Option<Duration>,
}

impl Target {
    /// Checks a target; `index` is its place in the configuration, `presets` those that it may name.
    ///
    /// # Errors
    /// Names the key that is wrong.
    pub fn new(index: usize, config: TargetConfig, presets: &Presets) -> Result<Self, TargetError> {
        let refuse = |key, value: &dyn std::fmt::Display, why| {
            Err(TargetError::Key { index, key, value: value.to_string(), why })
        };
        let preset_error = |key| move |source| TargetError::Preset { index, key, source };
        let mut preset = presets.named(&config.preset).map_err(preset_error("preset"))?.clone();
        let (mapping, key) = match (preset.mapping.take(), config.mapping) {
            (None, Some(mapping)) => (mapping, "mapping"),
            (Some(mapping), None) => (mapping, "preset"),
            (None, None) => return refuse("preset", &config.preset, "it needs a `mapping` that says what is counted"),
            (Some(_), Some(_)) => return refuse("preset", &config.preset, "a `mapping` goes with preset custom only"),
        };
        let mut mapping = mapping;
        if config.consumer.is_some() {
            if mapping.consumer.is_none() {
                return refuse("consumer", &config.preset, "only a gateway's preset has consumers");
            }
            mapping.consumer = config.consumer;
        }
        let fixed = mapping.fixed.clone();
        let reader = Reader::new(mapping).map_err(preset_error(key))?;
        if !(reader.is_gateway() || config.upstreams.is_empty() && config.resolve_upstreams.is_none()) {
            return refuse("upstreams", &config.preset, "only a gateway's preset has upstreams");
        }
        let every = config.resolve_upstreams.unwrap_or(DEFAULT_INTERVAL);
        if !(Duration::from_secs(1)..=LONGEST_INTERVAL).contains(&every) {
            return refuse("resolve_upstreams", &humantime::format_duration(every), "it must be 1s to 1h");
        }
        let mut upstreams = BTreeMap::new();
        for (name, place) in config.upstreams {
            let Some(place) = upstream::place(&place).filter(|_| upstream::is_name(&name)) else {
                let why = "write \"host:port\" = \"address:port\", each with or without its port";
                return refuse("upstreams", &format!("{name} = {place}"), why);
            };
            upstreams.insert(name.to_ascii_lowercase(), place);
        }
        let interval = config.interval.unwrap_or(DEFAULT_INTERVAL);
        if !(Duration::from_secs(1)..=LONGEST_INTERVAL).contains(&interval) {
            return refuse("interval", &humantime::format_duration(interval), "it must be 1s to 1h");
        }
        let serving = &config.serving;
        for (key, text) in [
            ("model", &config.model),
            ("version", &config.version),
            ("tokenizer", &config.tokenizer),
            ("serving.engine_version", &serving.engine_version),
            ("serving.quantisation", &serving.quantisation),
        ] {
            if let Some(text) = text.as_ref().filter(|text| text.trim().is_empty() || text.len() > 1024) {
                return refuse(key, text, "it must hold 1 to 1024 bytes; leave the key out if it is not known");
            }
        }
        let reserved_millicores = match config.reserved_cores.map(|cores| (cores, millicores(cores))) {
            None => None,
            Some((_, Some(millicores))) => Some(millicores),
            Some((cores, None)) => return refuse("reserved_cores", &cores, "it must be 0.001 to 100000"),
        };
        if let Some(group) = config.service_group.as_ref().filter(|group| group.trim().is_empty() || group.len() > 256)
        {
            return refuse("service_group", group, "it must hold 1 to 256 bytes; leave the key out for a server alone");
        }
        let named = config.names.values().flat_map(|name| [&name.model, &name.version]);
        if let Some(text) = named.flatten().find(|text| text.trim().is_empty() || text.len() > 1024) {
            return refuse("names", text, "a name must hold 1 to 1024 bytes; leave the key out if it is not known");
        }
        let power_limit_milliwatts = match serving.power_limit_watts.map(|watts| (watts, millicores(watts))) {
            None => None,
            Some((_, Some(milliwatts))) => Some(milliwatts),
            Some((watts, None)) => return refuse("serving.power_limit_watts", &watts, "it must be 0.001 to 100000"),
        };
        let (host, port, path) = match address(&config.url) {
            Ok(address) => address,
            Err(why) => return refuse("url", &config.url, why),
        };
        let info = match config.info_url.as_deref().map(|url| (url, address(url))) {
            None => None,
            Some((_, Ok((host, port, None)))) => Some((host, port)),
            Some((url, Ok(_))) => {
                return refuse("info_url", &url, "write http://host:port, the preset knows the paths");
            }
            Some((url, Err(why))) => return refuse("info_url", &url, why),
        };
        Ok(Self {
            name: config.url,
            info,
            host,
            port,
            path: path.unwrap_or_else(|| preset.path.clone()),
            preset,
            reader,
            model: config.model,
            version: config.version,
            fixed,
            names: config.names,
            version_labels: config.version_labels.unwrap_or_else(|| VERSION_LABELS.map(str::to_owned).to_vec()),
            role: config.role.map(|role| match role {
                RoleConfig::Router => ServiceRole::Router,
                RoleConfig::Prefill => ServiceRole::Prefill,
                RoleConfig::Decode => ServiceRole::Decode,
            }),
            group: config.service_group,
            configuration: ServingConfiguration {
                engine_version: config.serving.engine_version,
                quantisation: config.serving.quantisation,
                max_batch: config.serving.max_batch,
                tensor_parallel: config.serving.tensor_parallel,
                pipeline_parallel: config.serving.pipeline_parallel,
                data_parallel: config.serving.data_parallel,
                power_limit_milliwatts,
            },
            tokenizer: config.tokenizer,
            reserved_millicores,
            interval,
            upstreams,
            resolve_upstreams: config.resolve_upstreams,
        })
    }
}

impl Target {
    /// Where the engine's own endpoints are asked that the preset expects at this port.
    pub fn endpoint(&self, port: Option<u16>) -> (&str, u16) {
        match &self.info {
            Some((host, port)) => (host, *port),
            None => (&self.host, port.unwrap_or(self.port)),
        }
    }
}

/// Host, port and path (if there is one) of a target's URL.
fn address(url: &str) -> Result<(String, u16, Option<String>), &'static str> {
    const FORM: &str = "write http://host:port/path";
    let uri: Uri = url.parse().map_err(|_| FORM)?;
    let authority = uri.authority().ok_or(FORM)?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return Err("https is not supported for targets; use http on this machine"),
        _ => return Err(FORM),
    }
    if authority.as_str().contains('@') {
        return Err("it must not hold a user or password");
    }
    let port = authority.port_u16().filter(|port| *port > 0).ok_or("it must name a port, 1 to 65535")?;
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    if host.is_empty() {
        return Err(FORM);
    }
    // A URI without a path reads as "/", so the text itself tells whether one was written.
    let written = url.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    let path = uri.path_and_query().map(ToString::to_string).filter(|path| written && path.starts_with('/'));
    Ok((host, port, path))
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked range")]
fn millicores(cores: f64) -> Option<u64> {
    (0.001..=100_000.0).contains(&cores).then(|| (cores * 1000.0).round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, String> {
        let config = toml::from_str(text).map_err(|error: toml::de::Error| error.to_string())?;
        Target::new(0, config, &Presets::built_in().expect("valid")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_url_without_a_path_takes_the_presets() {
        let with = |url: &str| target(&format!("url = \"{url}\"\npreset = \"llamacpp\"")).expect(url);
        assert_eq!(with("http://127.0.0.1:8080").path, "/metrics");
        assert_eq!(with("http://127.0.0.1:8080/x?y=1").path, "/x?y=1");
        assert_eq!((with("http://[::1]:8080").host, with("http://[::1]:8080").port), ("::1".to_owned(), 8080));
    }

    #[test]
    fn the_engines_endpoints_are_asked_where_the_target_or_the_preset_says() {
        let with = |text: &str| target(&format!("url = \"http://h:1\"\npreset = \"torchserve\"{text}")).expect(text);
        let of = |target: &Target, port| (target.endpoint(port).0.to_owned(), target.endpoint(port).1);
        assert_eq!(of(&with(""), None), ("h".to_owned(), 1));
        assert_eq!(of(&with(""), Some(8081)), ("h".to_owned(), 8081));
        assert_eq!(of(&with("\ninfo_url = \"http://i:7\""), Some(8081)), ("i".to_owned(), 7));
    }

    #[test]
    fn a_wrong_key_is_named() {
        let base = "preset = \"llamacpp\"\n";
        let gateway = "preset = \"litellm\"\nurl = \"http://h:1\"\n";
        for (text, words) in [
            (format!("{base}url = \"http://127.0.0.1:0\""), ["target[0].url", "port"]),
            (format!("{base}url = \"http://127.0.0.1:70000\""), ["target[0].url", "1 to 65535"]),
            (format!("{base}url = \"http://127.0.0.1\""), ["target[0].url", "port"]),
            (format!("{base}url = \"127.0.0.1:80/metrics\""), ["target[0].url", "http://host:port"]),
            (format!("{base}url = \"https://127.0.0.1:80\""), ["target[0].url", "https"]),
            (format!("{base}url = \"http://u:p@127.0.0.1:80\""), ["target[0].url", "password"]),
            (format!("{base}url = \"http://h:1\"\ninterval = \"0s\""), ["target[0].interval", "1s"]),
            (format!("{base}url = \"http://h:1\"\ninterval = \"10\""), ["interval", "write it like"]),
            (format!("{base}url = \"http://h:1\"\nreserved_cores = -1.0"), ["target[0].reserved_cores", "-1"]),
            (format!("{base}url = \"http://h:1\"\nservice_group = \" \""), ["target[0].service_group", "1 to 256"]),
            (format!("{base}url = \"http://h:1\"\nrole = \"both\""), ["role", "router"]),
            (format!("{base}url = \"http://h:1\"\nnames.a.version = \"\""), ["target[0].names", "1 to 1024"]),
            (format!("{base}url = \"http://h:1\"\nserving.power_limit_watts = 0.0"), ["power_limit_watts", "0.001"]),
            (format!("{base}url = \"http://h:1\"\nserving.batch = 1"), ["unknown field", "batch"]),
            (format!("{base}url = \"http://h:1\"\nmodle = \"x\""), ["unknown field", "modle"]),
            (format!("{base}url = \"http://h:1\"\ninfo_url = \"http://h\""), ["target[0].info_url", "port"]),
            (format!("{base}url = \"http://h:1\"\ninfo_url = \"http://h:1/x\""), ["target[0].info_url", "paths"]),
            (format!("{base}url = \"http://h:1\"\nresolve_upstreams = \"1m\""), ["target[0].upstreams", "gateway"]),
            (format!("{base}url = \"http://h:1\"\nupstreams = {{ a = \"b\" }}"), ["target[0].upstreams", "gateway"]),
            (format!("{gateway}resolve_upstreams = \"0s\""), ["target[0].resolve_upstreams", "1s"]),
            (format!("{gateway}upstreams = {{ a = \"http://b\" }}"), ["target[0].upstreams", "address:port"]),
            (format!("{gateway}upstreams = {{ \"http://a\" = \"b\" }}"), ["target[0].upstreams", "address:port"]),
            ("preset = \"x\"\nurl = \"http://h:1\"".to_owned(), ["target[0].preset", "llamacpp"]),
            ("preset = \"custom\"\nurl = \"http://h:1\"".to_owned(), ["target[0].preset", "mapping"]),
        ] {
            let error = target(&text).expect_err(&text);
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
    }
}
