//! What a server's command line and environment tell of the weights that it serves and of its set-up.
//!
//! Options are read by name alone, as `--name value` or `--name=value`, with `_` for `-`: engines that share an option's
//! name mean the same by it. What no engine writes is not guessed.

use joulebook_units::{ServiceRole, ServingConfiguration};
use std::collections::BTreeMap;

/// Options that name the weights.
const WEIGHTS: [&str; 6] = ["model", "model-path", "model-id", "model-dir", "model-name-or-path", "hf-repo"];
/// Longest value that is taken.
const MOST_BYTES: usize = 1024;

/// What was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Told {
    /// The weights: a repository, a folder, a file.
    pub weights: Option<String>,
    /// The revision that was asked for: a commit, a branch, a tag.
    pub revision: Option<String>,
    /// A version by another name.
    pub version: Option<String>,
    /// Set-up.
    pub configuration: ServingConfiguration,
    /// Part of the work, where several servers share it.
    pub role: Option<ServiceRole>,
    /// Servers that find each other by a name, and the name, if one was given.
    pub meeting: Option<Meeting>,
    /// Such a name, from a place that does not tell whose.
    pub namespace: Option<String>,
}

/// How servers that work on the same requests find each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meeting {
    /// By Dynamo's namespace.
    Dynamo,
}

impl Told {
    /// Reads a command line (arguments, each ended by a NUL).
    pub fn by_command(line: &[u8]) -> Self {
        let text = String::from_utf8_lossy(line);
        let arguments: Vec<&str> = text.split('\0').filter(|argument| argument.len() <= MOST_BYTES).collect();
        let options = options(&arguments);
        let first = |names: &[&str]| names.iter().find_map(|name| options.get(*name).cloned());
        let number = |names: &[&str]| first(names).and_then(|value| value.parse().ok());
        let meeting = dynamo(&arguments);
        Self {
            weights: first(&WEIGHTS).or_else(|| short_weights(&arguments)).or_else(|| positional(&arguments)),
            revision: first(&["revision", "model-revision"]),
            version: first(&["model-version"]),
            configuration: ServingConfiguration {
                engine_version: None,
                quantisation: first(&["quantization", "quantize"]),
                max_batch: number(&[
                    "max-num-seqs",
                    "max-running-requests",
                    "max-concurrent-requests",
                    "max-batch-size",
                ])
                .or_else(|| number(&["parallel", "np"])),
                tensor_parallel: number(&["tensor-parallel-size", "tp-size", "num-shard", "tp"]),
                pipeline_parallel: number(&["pipeline-parallel-size", "pp-size", "pp"]),
                data_parallel: number(&["data-parallel-size", "dp-size", "dp"]),
                power_limit_milliwatts: None,
            },
            role: role(&options)
                .or(meeting.map(|is_frontend| if is_frontend { ServiceRole::Router } else { ServiceRole::Decode })),
            meeting: meeting.map(|_| Meeting::Dynamo),
            namespace: meeting.and_then(|_| namespace(&options)),
        }
    }

    /// Reads an environment (`NAME=value`, each ended by a NUL).
    pub fn by_environment(environment: &[u8]) -> (Self, BTreeMap<String, String>) {
        let text = String::from_utf8_lossy(environment);
        let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
        let all: BTreeMap<String, String> = pairs
            .filter(|(_, value)| !value.is_empty() && value.len() <= MOST_BYTES)
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let first = |names: &[&str]| names.iter().find_map(|name| all.get(*name).cloned());
        let told = Self {
            weights: first(&["MODEL_ID", "HF_MODEL_ID"]),
            revision: first(&["HF_REVISION", "REVISION"]),
            version: first(&["MODEL_VERSION", "NIM_MODEL_PROFILE"]),
            configuration: ServingConfiguration {
                quantisation: first(&["QUANTIZE"]),
                ..ServingConfiguration::default()
            },
            role: None,
            meeting: None,
            namespace: first(&["DYN_NAMESPACE"]),
        };
        (told, all)
    }

    /// Completes what is not told by what another place tells.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let (own, more) = (self.configuration, other.configuration);
        Self {
            weights: self.weights.or(other.weights),
            revision: self.revision.or(other.revision),
            version: self.version.or(other.version),
            configuration: ServingConfiguration {
                engine_version: own.engine_version.or(more.engine_version),
                quantisation: own.quantisation.or(more.quantisation),
                max_batch: own.max_batch.or(more.max_batch),
                tensor_parallel: own.tensor_parallel.or(more.tensor_parallel),
                pipeline_parallel: own.pipeline_parallel.or(more.pipeline_parallel),
                data_parallel: own.data_parallel.or(more.data_parallel),
                power_limit_milliwatts: own.power_limit_milliwatts.or(more.power_limit_milliwatts),
            },
            role: self.role.or(other.role),
            meeting: self.meeting.or(other.meeting),
            namespace: self.namespace.or(other.namespace),
        }
    }

    /// The group of servers that work on the same requests, by the name by which they find each other.
    pub fn group(&self) -> Option<String> {
        self.meeting.map(|Meeting::Dynamo| format!("dynamo/{}", self.namespace.as_deref().unwrap_or("dynamo")))
    }
}

/// Long options and `-tp`-like ones by their names. Of a repeated one the last counts, as in every engine's parser.
fn options(arguments: &[&str]) -> BTreeMap<String, String> {
    let mut options = BTreeMap::new();
    for (place, argument) in arguments.iter().enumerate() {
        let short = ["-tp", "-pp", "-dp", "-np"].contains(argument);
        let Some(name) = argument.strip_prefix("--").or(argument.strip_prefix('-').filter(|_| short)) else { continue };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, arguments.get(place + 1).copied().filter(|next| !next.starts_with("--"))),
        };
        if let Some(value) = value.filter(|value| !value.is_empty() && !value.chars().any(char::is_control)) {
            options.insert(name.replace('_', "-"), value.to_owned());
        }
    }
    options
}

/// `-m FILE.gguf` of llama.cpp; of others `-m` names something else.
fn short_weights(arguments: &[&str]) -> Option<String> {
    let pairs = arguments.windows(2);
    let mut files = pairs.filter_map(|pair| (pair[0] == "-m" && pair[1].ends_with(".gguf")).then_some(pair[1]));
    files.next().map(str::to_owned)
}

/// `vllm serve MODEL`, `trtllm-serve MODEL`, `lmdeploy serve api_server MODEL`.
fn positional(arguments: &[&str]) -> Option<String> {
    let is = |argument: &str, program: &str| argument.rsplit('/').next() == Some(program);
    let place =
        arguments.iter().position(|argument| ["vllm", "trtllm-serve", "lmdeploy"].iter().any(|p| is(argument, p)))?;
    let mut rest = arguments.get(place + 1..)?.iter().skip_while(|word| ["serve", "api_server"].contains(*word));
    rest.next().filter(|word| !word.starts_with('-') && !word.is_empty()).map(|word| (*word).to_owned())
}

/// Whether a command line is that of Dynamo's frontend, or of one of its workers; none if it is neither.
fn dynamo(arguments: &[&str]) -> Option<bool> {
    let module = arguments.windows(2).find(|pair| pair[0] == "-m").map(|pair| pair[1])?;
    module.strip_prefix("dynamo.").map(|part| part == "frontend")
}

/// Dynamo's namespace: an option, or the first part of a worker's endpoint, `dyn://NAMESPACE.COMPONENT.NAME`.
fn namespace(options: &BTreeMap<String, String>) -> Option<String> {
    let of_endpoint = || options.get("endpoint")?.strip_prefix("dyn://")?.split('.').next().map(str::to_owned);
    options.get("namespace").cloned().or_else(of_endpoint).filter(|name| !name.is_empty())
}

/// SGLang's and Dynamo's modes, and vLLM's role at its key-value cache.
fn role(options: &BTreeMap<String, String>) -> Option<ServiceRole> {
    let by_name = |name: &str| match name {
        "prefill" | "kv_producer" => Some(ServiceRole::Prefill),
        "decode" | "kv_consumer" => Some(ServiceRole::Decode),
        _ => None,
    };
    let kv_role = || {
        let config: serde_json::Value = serde_json::from_str(options.get("kv-transfer-config")?).ok()?;
        by_name(config.get("kv_role")?.as_str()?)
    };
    options.get("disaggregation-mode").and_then(|mode| by_name(mode)).or_else(kv_role)
}

/// The commit in a path of a cache of weights: a component of 40 hexadecimal digits.
pub fn commit(path: &str) -> Option<&str> {
    path.split('/').rev().find(|part| is_hex(part, 40))
}

/// The digest in a path of a store of weights: `blobs/sha256-` and 64 hexadecimal digits.
pub fn blob(path: &str) -> Option<&str> {
    path.split('/').filter_map(|part| part.strip_prefix("sha256-")).find(|hex| is_hex(hex, 64))
}

/// Whether a text is so many hexadecimal digits.
pub fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> Told {
        Told::by_command(line.replace(' ', "\0").as_bytes())
    }

    #[test]
    fn command_lines_of_engines_tell_weights_revision_and_set_up() {
        let vllm = told(
            "/usr/bin/python3 /opt/bin/vllm serve org/chat-7b --revision abc --tensor-parallel-size=4 --max_num_seqs 64 --quantization awq",
        );
        assert_eq!((vllm.weights.as_deref(), vllm.revision.as_deref()), (Some("org/chat-7b"), Some("abc")));
        let set_up = vllm.configuration;
        assert_eq!(
            (set_up.tensor_parallel, set_up.max_batch, set_up.quantisation.as_deref()),
            (Some(4), Some(64), Some("awq"))
        );
        let sglang = told(
            "python -m sglang.launch_server --model-path /models/q -tp 2 --dp-size 8 --disaggregation-mode prefill",
        );
        assert_eq!((sglang.weights.as_deref(), sglang.role), (Some("/models/q"), Some(ServiceRole::Prefill)));
        assert_eq!((sglang.configuration.tensor_parallel, sglang.configuration.data_parallel), (Some(2), Some(8)));
        let llama = told("llama-server -m /w/a.gguf -np 4 --port 8080");
        assert_eq!((llama.weights.as_deref(), llama.configuration.max_batch), (Some("/w/a.gguf"), Some(4)));
        assert_eq!(told("trtllm-serve org/m --port 1").weights.as_deref(), Some("org/m"));
        assert_eq!(told("lmdeploy serve api_server org/m").weights.as_deref(), Some("org/m"));
        assert_eq!(
            told("text-generation-launcher --model-id org/m --num-shard 2").configuration.tensor_parallel,
            Some(2)
        );
        let kv = Told::by_command(b"vllm\0serve\0m\0--kv-transfer-config\0{\"kv_role\":\"kv_consumer\"}\0");
        assert_eq!(kv.role, Some(ServiceRole::Decode));
    }

    #[test]
    fn dynamos_servers_are_a_group_by_their_namespace() {
        let (env, _) = Told::by_environment(b"DYN_NAMESPACE=shop\0");
        let frontend = told("python -m dynamo.frontend --http-port 8000");
        assert_eq!((frontend.role, frontend.group().as_deref()), (Some(ServiceRole::Router), Some("dynamo/dynamo")));
        assert_eq!(frontend.or(env.clone()).group().as_deref(), Some("dynamo/shop"));
        let worker = told("python3 -m dynamo.vllm --model org/m --endpoint dyn://lab.backend.generate").or(env.clone());
        assert_eq!((worker.role, worker.group().as_deref()), (Some(ServiceRole::Decode), Some("dynamo/lab")));
        let prefill = told("python3 -m dynamo.mocker --disaggregation-mode prefill --namespace x");
        assert_eq!((prefill.role, prefill.group().as_deref()), (Some(ServiceRole::Prefill), Some("dynamo/x")));
        // The environment may be that of any program in Dynamo's container.
        assert_eq!(told("vllm serve org/m --namespace x").or(env).group(), None);
    }

    #[test]
    fn what_is_no_engines_option_tells_nothing() {
        for line in ["python -m http.server 8000", "vllm serve --port 1", "server --model", "server --tp x", ""] {
            assert_eq!(told(line), Told::default(), "{line}");
        }
        assert_eq!(told(&format!("server --model {}", "x".repeat(2000))), Told::default());
    }

    #[test]
    fn an_environment_stands_behind_the_command_line() {
        let (env, all) = Told::by_environment(b"MODEL_VERSION=3\0MODEL_ID=org/e\0HF_HOME=/cache\0EMPTY=\0");
        let both = told("server --model org/c").or(env);
        assert_eq!((both.weights.as_deref(), both.version.as_deref()), (Some("org/c"), Some("3")));
        assert_eq!(all.get("HF_HOME").map(String::as_str), Some("/cache"));
        assert!(!all.contains_key("EMPTY"));
    }

    #[test]
    fn commits_and_digests_are_read_from_paths() {
        let hash = "0123456789abcdef0123456789abcdef01234567";
        assert_eq!(commit(&format!("/hub/models--o--m/snapshots/{hash}/model.safetensors")), Some(hash));
        assert_eq!(commit("/hub/models--o--m/snapshots/main/x"), None);
        let digest = "ab".repeat(32);
        assert_eq!(blob(&format!("/models/ollama/blobs/sha256-{digest}")), Some(digest.as_str()));
        assert_eq!(blob("/blobs/sha256-ab"), None);
    }
}
