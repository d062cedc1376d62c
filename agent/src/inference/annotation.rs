//! Where a pod says that its metric page is: the annotations `prometheus.io/scrape`, `port`, `path` and `scheme`.
//!
//! Whoever made the pod wrote them, so they choose a port and a path and nothing else: the address is the pod's own, as
//! the cluster gives it. Whatever could lead elsewhere (a URL, a host, a path that is none) refuses the target as a whole.

use super::preset::is_path;
use super::target::TargetConfig;
use std::collections::BTreeMap;
use std::net::IpAddr;

const PREFIX: &str = "prometheus.io/";

/// Annotations that name no page of the pod.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("annotation {PREFIX}{key} = {value:?} is not usable: {why}")]
pub struct AnnotationError {
    /// The annotation, without its prefix.
    pub key: &'static str,
    /// Its value, cut.
    pub value: String,
    /// What is wrong and what to write.
    pub why: &'static str,
}

/// Where the page is, at the pod's own address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPage {
    /// Port.
    pub port: u16,
    /// Path and query; absent where the pod names none.
    pub path: Option<String>,
}

/// The page of a pod; `None` if it does not want to be scraped.
///
/// # Errors
/// An annotation holds more or less than a port and an absolute path.
pub fn page(annotations: &BTreeMap<String, String>) -> Result<Option<PodPage>, AnnotationError> {
    let told = |key: &str| annotations.get(&format!("{PREFIX}{key}")).map(String::as_str);
    let refuse = |key, why| {
        let value = told(key).unwrap_or_default().chars().take(64).collect();
        Err(AnnotationError { key, value, why })
    };
    if told("scrape") != Some("true") {
        return Ok(None);
    }
    if told("scheme").is_some_and(|scheme| scheme != "http") {
        return refuse("scheme", "only http is supported for targets");
    }
    let digits = told("port").filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(port) = digits.and_then(|port| port.parse::<u16>().ok()).filter(|port| *port > 0) else {
        return refuse("port", "it must be 1 to 65535");
    };
    let path = told("path").unwrap_or_default();
    if !path.is_empty() && (!is_path(path) || path.contains("://") || path.contains(['#', '\\'])) {
        return refuse("path", "it must be an absolute path, like /metrics");
    }
    Ok(Some(PodPage { port, path: (!path.is_empty()).then(|| path.to_owned()) }))
}

/// The same as a target that is read with a preset.
///
/// # Errors
/// As [`page`].
pub fn target(
    pod: IpAddr,
    annotations: &BTreeMap<String, String>,
    preset: &str,
) -> Result<Option<TargetConfig>, AnnotationError> {
    let Some(PodPage { port, path }) = page(annotations)? else { return Ok(None) };
    let host = if pod.is_ipv6() { format!("[{pod}]") } else { pod.to_string() };
    let path = path.unwrap_or_default();
    Ok(Some(TargetConfig::new(format!("http://{host}:{port}{path}"), preset)))
}

#[cfg(test)]
mod tests {
    use super::super::preset::Presets;
    use super::super::target::Target;
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (format!("{PREFIX}{key}"), (*value).to_owned())).collect()
    }

    #[test]
    fn a_pod_chooses_a_port_and_a_path_at_its_own_address() {
        let presets = Presets::built_in().expect("valid");
        for pod in ["10.1.2.3", "fd00::7"] {
            let pod: IpAddr = pod.parse().expect("an address");
            for (path, asked) in [(None, "/metrics"), (Some("/x/y?z=1"), "/x/y?z=1")] {
                let mut pairs = vec![("scrape", "true"), ("port", "8000")];
                pairs.extend(path.map(|path| ("path", path)));
                let config = target(pod, &annotations(&pairs), "vllm").expect("usable").expect("wanted");
                let checked = Target::new(0, config, &presets).expect("valid");
                assert_eq!((checked.host, checked.port, checked.path), (pod.to_string(), 8000, asked.to_owned()));
            }
        }
    }

    #[test]
    fn a_pod_that_does_not_want_to_be_scraped_is_no_target() {
        let pod = IpAddr::from([10, 0, 0, 1]);
        for pairs in [&[][..], &[("scrape", "false"), ("port", "1")], &[("port", "8000"), ("path", "/metrics")]] {
            assert_eq!(target(pod, &annotations(pairs), "vllm").map(|found| found.is_some()), Ok(false));
        }
    }
}
