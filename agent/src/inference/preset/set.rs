//! The presets that a target may name: those of this build, and the operator's own.

use super::{Preset, PresetError, Role};
use crate::inference::exposition::Page;

/// The presets of this build. A new one is a file and a line here.
const FILES: [&str; 20] = [
    include_str!("../presets/vllm.toml"),
    include_str!("../presets/sglang.toml"),
    include_str!("../presets/tgi.toml"),
    include_str!("../presets/tei.toml"),
    include_str!("../presets/triton.toml"),
    include_str!("../presets/trtllm.toml"),
    include_str!("../presets/nim.toml"),
    include_str!("../presets/dynamo-frontend.toml"),
    include_str!("../presets/torchserve.toml"),
    include_str!("../presets/tfserving.toml"),
    include_str!("../presets/mlserver.toml"),
    include_str!("../presets/kserve.toml"),
    include_str!("../presets/rayserve.toml"),
    include_str!("../presets/bentoml.toml"),
    include_str!("../presets/lmdeploy.toml"),
    include_str!("../presets/llamacpp.toml"),
    include_str!("../presets/litellm.toml"),
    include_str!("../presets/envoy-aigw.toml"),
    include_str!("../presets/otel-genai.toml"),
    include_str!("../presets/custom.toml"),
];

/// Presets by name, each once, with the text that they were read from.
#[derive(Debug, Clone, Default)]
pub struct Presets(Vec<(Preset, Option<&'static str>)>);

impl Presets {
    /// The presets of this build.
    ///
    /// # Errors
    /// An embedded file is wrong, which its test rules out.
    pub fn built_in() -> Result<Self, PresetError> {
        let mut presets = Self::default();
        for text in FILES {
            presets.insert(toml::from_str(text)?, Some(text))?;
        }
        Ok(presets)
    }

    /// Takes the operator's own preset in.
    ///
    /// # Errors
    /// There is one of that name.
    pub fn add(&mut self, preset: Preset) -> Result<(), PresetError> {
        self.insert(preset, None)
    }

    fn insert(&mut self, preset: Preset, text: Option<&'static str>) -> Result<(), PresetError> {
        if self.iter().any(|known| known.id == preset.id) {
            return Err(PresetError::Twice(preset.id));
        }
        self.0.push((preset, text));
        Ok(())
    }

    /// All of them, in the order of the list.
    pub fn iter(&self) -> impl Iterator<Item = &Preset> {
        self.0.iter().map(|(preset, _)| preset)
    }

    /// The preset of this name.
    ///
    /// # Errors
    /// No such preset.
    pub fn named(&self, id: &str) -> Result<&Preset, PresetError> {
        let found = self.iter().find(|preset| preset.id == id);
        found.ok_or_else(|| {
            let names = self.iter().map(|preset| preset.id.as_str()).collect::<Vec<_>>().join(", ");
            PresetError::Unknown(id.to_owned(), names)
        })
    }

    /// The file of a preset of this build.
    pub fn text(&self, id: &str) -> Option<&'static str> {
        self.0.iter().find(|(preset, _)| preset.id == id).and_then(|(_, text)| *text)
    }

    /// The preset whose page this is. Where several recognise it, each request is counted once: by the engine rather than
    /// by what is around it, and never by a gateway beside an engine.
    pub fn detect(&self, page: &Page<'_>) -> Option<&Preset> {
        self.iter().filter(|preset| preset.detects(page)).min_by_key(|preset| preset.role)
    }

    /// Whether the page counts by consumer with the preset of this name.
    pub fn is_gateway(&self, id: &str) -> bool {
        self.named(id).is_ok_and(|preset| preset.role == Role::Gateway)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference::mapping::Field;
    use crate::inference::reader::NO_VERSION;

    #[test]
    fn every_preset_is_named_once_and_says_where_its_names_come_from() {
        let presets = Presets::built_in().expect("valid");
        assert_eq!(presets.iter().count(), FILES.len());
        for preset in presets.iter().filter(|preset| preset.id != "custom") {
            let text = presets.text(&preset.id).expect("of this build");
            assert!(text.lines().any(|line| line.starts_with("# Source: ")), "{} names no source", preset.id);
            assert!(preset.mapping.is_some(), "{} counts nothing", preset.id);
        }
        let mut more = presets.clone();
        assert!(matches!(more.add(presets.named("vllm").expect("built").clone()), Err(PresetError::Twice(_))));
    }

    #[test]
    fn the_language_that_custom_describes_is_the_one_that_is_read() {
        let presets = Presets::built_in().expect("valid");
        let lines = presets.text("custom").expect("of this build").lines().filter_map(|line| line.strip_prefix("#:"));
        let text: String = lines.flat_map(|line| [line.trim_start(), "\n"]).collect();
        let preset: Preset = toml::from_str(&text).expect("valid");
        let (identity, mapping) = (preset.identity, preset.mapping.expect("a mapping"));
        let hooks = [&identity.model, &identity.version, &identity.tokenizer, &identity.weights_path];
        assert_eq!(hooks.map(|hooks| hooks.0.len()), [1, 1, 2, 1]);
        let set_up = [&identity.engine_version, &identity.quantisation, &identity.max_batch];
        assert_eq!(set_up.map(|hooks| hooks.0.len()), [1, 1, 1]);
        assert!(identity.weights.is_some() && preset.version_process.is_some());
        assert_eq!(
            (mapping.only.len(), mapping.no_version.len(), mapping.adapters.len(), mapping.values.len()),
            (1, 1, 1, 5)
        );
        // Every word that it says is no version is none.
        let line = text.lines().find(|line| line.starts_with("no_version")).expect("described");
        assert!(NO_VERSION.iter().all(|word| line.contains(word)), "{line}");
        let fields = text.lines().skip_while(|line| !line.starts_with("[mapping.values]")).take(4).collect::<String>();
        assert!(Field::ALL.iter().all(|field| fields.contains(field.name())), "{fields}");
    }

    #[test]
    fn no_page_of_one_engine_is_recognised_as_anothers() {
        let presets = Presets::built_in().expect("valid");
        for preset in presets.iter() {
            for family in &preset.signature {
                let page = format!("# TYPE {family} counter\n{family} 1\n");
                let page = Page::parse(page.as_bytes()).expect("legal");
                let found: Vec<_> = presets.iter().filter(|preset| preset.detects(&page)).map(|p| &p.id).collect();
                assert_eq!(found, [&preset.id]);
            }
        }
    }

    #[test]
    fn a_page_of_an_engine_in_a_wrapper_is_the_engines() {
        let presets = Presets::built_in().expect("valid");
        let page =
            "vllm:generation_tokens_total 1\nrequest_predict_seconds 1\nlitellm_deployment_success_responses_total 1\n";
        let detected = |page: &str| {
            let page = Page::parse(page.as_bytes()).expect("legal");
            presets.detect(&page).map(|preset| preset.id.clone())
        };
        assert_eq!(detected(page).as_deref(), Some("vllm"));
        assert_eq!(detected("request_predict_seconds 1\n").as_deref(), Some("kserve"));
        assert_eq!(detected("up 1\n"), None);
    }
}
