//! Which processes may be inference servers, by their command lines: those are asked for a page, and the page decides.

/// Engines, each with texts of which one stands in the command line of its server.
const COMMANDS: [(&str, &[&str]); 16] = [
    ("dynamo-frontend", &["dynamo.frontend"]),
    ("vllm", &["vllm serve", "vllm.entrypoints", "VLLM::", "dynamo.vllm"]),
    ("sglang", &["sglang.launch_server", "sglang::", "dynamo.sglang"]),
    ("tgi", &["text-generation-router", "text-generation-launcher"]),
    ("tei", &["text-embeddings-router"]),
    ("triton", &["tritonserver"]),
    ("trtllm", &["trtllm-serve", "dynamo.trtllm"]),
    ("torchserve", &["org.pytorch.serve.ModelServer", "torchserve"]),
    ("tfserving", &["tensorflow_model_server"]),
    ("mlserver", &["mlserver start", "/mlserver"]),
    ("kserve", &["kserve", "huggingfaceserver"]),
    ("rayserve", &["ray::ServeReplica", "ray/dashboard/agent.py", "ray/_private/runtime_env/agent"]),
    ("bentoml", &["bentoml serve", "bentoml_cli", "_bentoml_impl"]),
    ("lmdeploy", &["lmdeploy serve", "lmdeploy.serve"]),
    ("llamacpp", &["llama-server", ".gguf"]),
    ("dynamo-worker", &["dynamo.mocker"]),
];
/// Most of a command line that is looked at.
const MOST_BYTES: usize = 16 << 10;

/// The engine whose server a command line (arguments, each ended by a NUL) may be.
pub fn engine(command_line: &[u8]) -> Option<&'static str> {
    let line = command_line.get(..MOST_BYTES).unwrap_or(command_line);
    let text = String::from_utf8_lossy(line).replace('\0', " ");
    let found = COMMANDS.iter().find(|(_, texts)| texts.iter().any(|own| text.contains(own)));
    found.map(|(engine, _)| *engine)
}

/// The engine whose process has this name, as far as names of processes tell: for energy of processes that no page is of.
pub fn engine_of_name(comm: &str) -> Option<&'static str> {
    const NAMES: [(&str, &str); 8] = [
        ("VLLM::", "vllm"),
        ("sglang::", "sglang"),
        ("ray::ServeRepli", "rayserve"),
        ("tritonserver", "triton"),
        ("llama-server", "llamacpp"),
        ("text-generation", "tgi"),
        ("text-embeddings", "tei"),
        ("tensorflow_mode", "tfserving"),
    ];
    NAMES.iter().find(|(start, _)| comm.starts_with(start)).map(|(_, engine)| *engine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_recognised_by_their_command_lines_and_others_are_not() {
        let by_words = |line: &str| engine(line.replace(' ', "\0").as_bytes());
        for (line, expected) in [
            ("/usr/bin/python3 /usr/local/bin/vllm serve org/m --port 8000", Some("vllm")),
            ("python -m sglang.launch_server --model-path m", Some("sglang")),
            ("/opt/tritonserver/bin/tritonserver --model-repository=/m", Some("triton")),
            ("python -m dynamo.frontend --http-port 1", Some("dynamo-frontend")),
            ("ray::ServeReplica:app:Iris.handle_request", Some("rayserve")),
            ("python serve.py /w/tiny.gguf 8080 tiny", Some("llamacpp")),
            ("nginx: master process /usr/sbin/nginx", None),
            ("postgres -D /var/lib/postgresql", None),
            ("", None),
        ] {
            assert_eq!(by_words(line), expected, "{line}");
        }
        assert_eq!(engine_of_name("VLLM::Worker_TP"), Some("vllm"));
        assert_eq!(engine_of_name("ray::ServeRepli"), Some("rayserve"));
        assert_eq!(engine_of_name("python3"), None);
    }
}
