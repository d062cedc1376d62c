use super::*;
use joulebook_proto::credentials::SecurityUnclear;

fn parse(text: &str) -> Result<Config, ConfigError> {
    let config = Config::parse(text, Path::new("agent.toml"))?;
    config.check()?;
    Ok(config)
}

const BASE: &str = "insecure_loopback = true\nnode = \"n\"\n";

fn message(text: &str) -> String {
    parse(&format!("{BASE}{text}")).expect_err("refused").to_string()
}

#[test]
fn the_printed_example_holds_exactly_the_defaults() {
    let example = Config::parse(EXAMPLE, Path::new("example")).expect("valid");
    assert_eq!(format!("{example:?}"), format!("{:?}", Config::default()));
}

#[test]
fn every_commented_key_of_the_example_is_one() {
    let text: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if key.starts_with('[') || key.split_once(" = ").is_some_and(|(k, _)| !k.contains(' ')) => key,
            _ => line,
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let config = Config::parse(&text, Path::new("example")).expect("every key is known");
    assert_eq!(config.target.len(), 1);
    assert!(config.target[0].consumer.is_some() && config.support.len() == 1);
    assert_eq!(config.placement.pool.as_deref(), Some("chat"));
    assert!(config.estimate.tdp_watts.is_some() && config.rapl.idle_watts.is_some());
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_key() {
    let text = message("[sampling]\ntik = \"1s\"\n");
    assert!(text.starts_with("agent.toml:4:"), "{text}");
    assert!(text.contains("did you mean `tick`?"), "{text}");
}

#[test]
fn wrong_types_and_twice_given_keys_are_refused_with_their_line() {
    assert!(message("[sampling]\nbatch_rows = \"five\"\n").starts_with("agent.toml:4:"));
    assert!(message("[sampling]\ntick = \"1s\"\ntick = \"2s\"\n").starts_with("agent.toml:5:"));
}

#[test]
fn durations_need_a_unit_and_a_place_in_their_range() {
    for tick in ["\"-1s\"", "\"1\"", "\"0s\"", "1", "\"2m\""] {
        let text = message(&format!("[sampling]\ntick = {tick}\n"));
        assert!(text.contains("duration") || text.contains("sampling.tick") || text.contains("string"), "{text}");
    }
}

#[test]
fn a_spool_below_two_segments_is_refused() {
    assert!(message("[spool]\nmax_bytes = 1000\n").contains("spool.max_bytes"));
}

#[test]
fn plaintext_needs_the_flag_and_a_loopback_address() {
    let refused = [
        "aggregator = \"http://127.0.0.1:7443\"",
        "insecure_loopback = true\naggregator = \"http://10.0.0.1:7443\"",
        "insecure_loopback = true\naggregator = \"http://localhost.example:7443\"",
    ];
    for text in refused {
        let refused = parse(&format!("node = \"n\"\n{text}"));
        assert!(
            matches!(refused, Err(ConfigError::Security(SecurityUnclear::Neither) | ConfigError::Scheme)),
            "{text}"
        );
    }
    assert!(parse("node = \"n\"\ninsecure_loopback = true\naggregator = \"http://[::1]:7443\"").is_ok());
}

#[test]
fn tls_needs_its_three_files_an_https_address_and_excludes_plaintext() {
    let two = "node = \"n\"\n[tls]\ncertificate = \"n.crt\"\nkey = \"n.key\"\n";
    assert!(matches!(parse(two), Err(ConfigError::Security(SecurityUnclear::Part { missing: "tls.ca" }))));
    let all = format!("{two}ca = \"ca.crt\"\n");
    assert_eq!(parse(&all).expect("valid").aggregator_url(), "https://127.0.0.1:7443");
    assert!(parse(&format!("aggregator = \"https://aggregator.example:443\"\n{all}")).is_ok());
    assert!(matches!(parse(&format!("aggregator = \"http://127.0.0.1:7443\"\n{all}")), Err(ConfigError::Scheme)));
    assert!(matches!(
        parse(&format!("insecure_loopback = true\n{all}")),
        Err(ConfigError::Security(SecurityUnclear::Both))
    ));
}

#[test]
fn flags_override_the_file() {
    let overrides = Overrides {
        node: Some("other".to_owned()),
        insecure_loopback: true,
        sysfs_root: Some("/fake/sys".into()),
        ..Overrides::default()
    };
    let config = Config::load(None, overrides).expect("valid");
    assert_eq!(config.node.as_deref(), Some("other"));
    assert_eq!(config.roots.sysfs, Path::new("/fake/sys"));
}
