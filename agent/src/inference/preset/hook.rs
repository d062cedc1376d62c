//! Questions to an engine's own endpoints about what it serves: a request and the place of the answer in its JSON.

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::{Formatter, Write};

/// Stands for the model's name, as the page tells it, in a path or a condition.
const MODEL: &str = "{model}";

/// Questions to the engine about what it serves; of several, the first that has an answer counts.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityHooks {
    /// The model's name.
    pub model: Hooks,
    /// The version, where the page tells none. With `{model}` in it, it is asked for each such model of the page.
    pub version: Hooks,
    /// The tokenizer's name.
    pub tokenizer: Hooks,
    /// The engine's version.
    pub engine_version: Hooks,
    /// Quantisation of the weights.
    pub quantisation: Hooks,
    /// Most requests that it works on at once.
    pub max_batch: Hooks,
    /// Path of the weights as the engine sees it.
    pub weights_path: Hooks,
    /// Format of the weights file that the process maps.
    pub weights: Option<WeightsFormat>,
}

/// Weights files whose header can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightsFormat {
    /// GGUF of llama.cpp.
    Gguf,
}

/// One question, or several in the order in which they are asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks(pub Vec<Hook>);

impl<'de> Deserialize<'de> for Hooks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Hooks;
            fn expecting(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a question or a list of questions")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Hooks, A::Error> {
                Hook::deserialize(MapAccessDeserializer::new(map)).map(|hook| Hooks(vec![hook]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Hooks, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Hooks)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// How a question is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET.
    Get,
    /// POST of an empty JSON object.
    Post,
}

/// One question. Its answer is a string or a whole number in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawHook")]
pub struct Hook {
    /// How it is put.
    pub method: Method,
    /// Port on the target's host, where it is not the page's.
    pub port: Option<u16>,
    path: String,
    list: Option<List>,
    pointer: String,
}

/// A list in the answer, of which exactly one entry must meet the conditions: with two nobody knows which one it is.
#[derive(Debug, Clone, PartialEq, Eq)]
struct List {
    pointer: String,
    conditions: BTreeMap<String, String>,
}

impl Hook {
    /// Whether it is asked for a model by name.
    pub fn is_of_model(&self) -> bool {
        let conditions = self.list.iter().flat_map(|list| list.conditions.values());
        conditions.chain([&self.path]).any(|text| text.contains(MODEL))
    }

    /// The path to ask. The model's name comes from the page: whatever is not plain in it is escaped, so that it stays one
    /// segment of the path.
    pub fn path(&self, model: Option<&str>) -> String {
        let mut escaped = String::new();
        for byte in model.unwrap_or_default().bytes() {
            if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
                escaped.push(char::from(byte));
            } else {
                // Writing to a string does not fail.
                let _ = write!(escaped, "%{byte:02X}");
            }
        }
        self.path.replace(MODEL, &escaped)
    }

    /// The answer in what the engine sent; `None` if it does not hold one.
    pub fn answer(&self, json: &Value, model: Option<&str>) -> Option<String> {
        let from = match &self.list {
            None => json,
            Some(list) => {
                let meets = |entry: &&Value| {
                    list.conditions.iter().all(|(pointer, wanted)| {
                        let wanted = wanted.replace(MODEL, model.unwrap_or_default());
                        entry.pointer(pointer).and_then(text).is_some_and(|text| text == wanted)
                    })
                };
                let mut found = json.pointer(&list.pointer)?.as_array()?.iter().filter(meets);
                match (found.next(), found.next()) {
                    (Some(entry), None) => entry,
                    _ => return None,
                }
            }
        };
        from.pointer(&self.pointer).and_then(text)
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Whether a text is a path on a server and nothing else.
pub(in crate::inference) fn is_path(text: &str) -> bool {
    text.starts_with('/')
        && !text.starts_with("//")
        && text.len() <= 1024
        && text.bytes().all(|byte| byte.is_ascii_graphic())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHook {
    get: Option<String>,
    post: Option<String>,
    port: Option<u16>,
    list: Option<String>,
    #[serde(default)]
    r#where: BTreeMap<String, String>,
    pointer: String,
}

impl TryFrom<RawHook> for Hook {
    type Error = String;
    fn try_from(raw: RawHook) -> Result<Self, Self::Error> {
        let (method, path) = match (raw.get, raw.post) {
            (Some(path), None) => (Method::Get, path),
            (None, Some(path)) => (Method::Post, path),
            _ => return Err("a question is exactly one of `get` and `post`".to_owned()),
        };
        if !is_path(&path) {
            return Err(format!("`{path}` is no path: it must start with one / and hold no blanks"));
        }
        if raw.port == Some(0) {
            return Err("`port` must be 1 to 65535, not 0".to_owned());
        }
        let is_wrong = |pointer: &&String| !pointer.is_empty() && !pointer.starts_with('/');
        if let Some(wrong) = raw.r#where.keys().chain([&raw.pointer]).chain(&raw.list).find(is_wrong) {
            return Err(format!("`{wrong}` is no JSON pointer: it starts with / (the whole answer is \"\")"));
        }
        let list = match (raw.list, raw.r#where) {
            (Some(pointer), conditions) => Some(List { pointer, conditions }),
            (None, conditions) if conditions.is_empty() => None,
            _ => return Err("`where` chooses in a list: say where the list is with `list`".to_owned()),
        };
        Ok(Self { method, port: raw.port, path, list, pointer: raw.pointer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hook(text: &str) -> Hook {
        toml::from_str(text).expect("valid")
    }

    #[test]
    fn an_answer_is_a_text_or_a_number_at_its_place() {
        let version = hook("get = \"/info\"\npointer = \"/model/sha\"");
        for (answer, found) in [
            (json!({"model": {"sha": "abc"}}), Some("abc")),
            (json!({"model": {"sha": 7}}), Some("7")),
            (json!({"model": {"sha": null}}), None),
            (json!({"model": {"sha": ["abc"]}}), None),
            (json!([]), None),
        ] {
            assert_eq!(version.answer(&answer, None).as_deref(), found, "{answer}");
        }
    }

    #[test]
    fn of_a_list_the_only_entry_that_meets_the_conditions_tells() {
        let version = hook(
            "post = \"/v2/repository/index\"\nlist = \"\"\npointer = \"/version\"\n\
             where = { \"/name\" = \"{model}\", \"/state\" = \"READY\" }",
        );
        let entry = |name: &str, version: &str, state: &str| json!({"name": name, "version": version, "state": state});
        let one = json!([entry("a", "1", "READY"), entry("a", "2", "UNLOADED"), entry("b", "3", "READY")]);
        assert_eq!(version.answer(&one, Some("a")).as_deref(), Some("1"));
        let two = json!([entry("a", "1", "READY"), entry("a", "2", "READY")]);
        assert_eq!(version.answer(&two, Some("a")), None);
        assert_eq!(version.answer(&json!({}), Some("a")), None);
        assert!(version.is_of_model() && version.method == Method::Post);
    }

    #[test]
    fn a_models_name_stays_one_segment_of_the_path() {
        let version = hook("get = \"/v1/models/{model}\"\npointer = \"/v\"");
        assert_eq!(version.path(Some("org/m-1.5 ?x#\r\n")), "/v1/models/org%2Fm-1.5%20%3Fx%23%0D%0A");
    }
}
