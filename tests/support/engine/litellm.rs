//! LiteLLM's proxy in front of other servers, with two keys and its own cache.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{ALIAS, Usage, authorised, exchange, installed, usage, wait_for_answer, wait_until};
use crate::installation::Target;
use crate::program::Program;

/// A key and the team that it belongs to.
pub const KEYS: [(&str, &str); 2] = [("sk-risk", "team-risk"), ("sk-web", "team-web")];

/// A running proxy.
pub struct LiteLlm {
    program: Program,
    port: u16,
}

impl LiteLlm {
    /// Serves the upstreams by the names given, each a llama.cpp server at its port.
    pub fn start(folder: &Path, port: u16, upstreams: &[(&str, u16)]) -> Result<Self> {
        let models = upstreams.iter().map(|(name, upstream)| {
            json!({
                "model_name": name,
                "litellm_params": {
                    "model": format!("openai/{ALIAS}"), "api_key": "none",
                    "api_base": format!("http://127.0.0.1:{upstream}/v1"),
                },
                "model_info": { "id": format!("deployment-{name}") },
            })
        });
        let config = json!({
            "model_list": models.collect::<Vec<_>>(),
            "litellm_settings": {
                "callbacks": ["prometheus"], "num_retries": 0, "telemetry": false,
                "cache": true, "cache_params": { "type": "local" },
            },
            "general_settings": { "custom_auth": "keys.who" },
        });
        // JSON is YAML.
        let path = folder.join("litellm.yaml");
        std::fs::write(&path, config.to_string())?;
        // The proxy looks for the file of its keys beside its configuration.
        std::fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("engines/litellm/keys.py"), folder.join("keys.py"))?;
        let mut command = Command::new(installed("JOULEBOOK_LITELLM", "litellm/bin/litellm")?);
        command.arg("--config").arg(&path).args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.current_dir(folder).env("PYTHONPATH", folder).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("LITELLM_TELEMETRY", "False").env("LITELLM_LOCAL_MODEL_COST_MAP", "True").env("NO_PROXY", "*");
        let proxy = Self { program: Program::spawn(command)?, port };
        wait_for_answer(&proxy.program, port, "/health/liveliness")?;
        Ok(proxy)
    }

    /// What an agent is to read there.
    pub fn target(port: u16) -> Target {
        Target { url: format!("http://127.0.0.1:{port}"), preset: "litellm", reserved_cores: None }
    }

    /// Asks an upstream with a key and adds what was returned to the sums.
    pub fn ask(&self, key: &str, model: &str, question: &str, tokens: u32, sums: &mut Usage) -> Result<()> {
        let body = json!({
            "model": model, "messages": [{ "role": "user", "content": question }], "max_tokens": tokens,
            "extra_body": { "ignore_eos": true },
        });
        let path = "/v1/chat/completions";
        let (status, page) = authorised(self.port, path, key, &body.to_string())?;
        if status != 200 {
            bail!("{path} answered {status}: {}", String::from_utf8_lossy(&page));
        }
        let answer: Value = serde_json::from_slice(&page).context("the answer is no JSON")?;
        usage(&answer, sums)
    }

    /// Waits until its page has counted so many successful answers, which it does behind the answers.
    pub fn wait_for_counts(&self, answers: u64) -> Result<()> {
        wait_until(&self.program, "done counting", || {
            self.sums("litellm_deployment_success_responses_total")
                .is_ok_and(|sums| sums.values().sum::<u64>() == answers)
        })
    }

    /// A counter of its page by team.
    pub fn sums(&self, metric: &str) -> Result<BTreeMap<String, u64>> {
        let (_, page) = exchange(self.port, "GET", "/metrics/", "")?;
        let page = String::from_utf8(page).context("the page is no text")?;
        let mut sums = BTreeMap::new();
        for line in page.lines().filter(|line| line.starts_with(&format!("{metric}{{"))) {
            let team = line.split("team=\"").nth(1).and_then(|rest| rest.split('"').next()).context("a team")?;
            let value: f64 = line.rsplit(' ').next().and_then(|value| value.parse().ok()).context("a value")?;
            *sums.entry(team.to_owned()).or_insert(0) += value as u64;
        }
        Ok(sums)
    }
}
