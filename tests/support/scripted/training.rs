//! What the training of the versions cost, and what becomes of their pools: disclosed, tuned, retired.

use super::script::{DAY_HOURS, MODELS, Model, REPLACED_DAY, Script, TUNED_DAY};
use joulebook_aggregator::store::Book;
use joulebook_aggregator::training::{Disclosure, Event, record};

/// A pool: the version, its T in grams, its N in output tokens, and the rest of its document.
#[derive(Debug, Clone, Copy)]
pub struct Disclosed {
    /// Its name.
    pub pool: &'static str,
    /// The version.
    pub model: Model,
    /// T.
    pub grams: f64,
    /// N.
    pub units: f64,
    more: &'static str,
    day: i64,
}

/// What is disclosed: `chat` passes what remains on to its successor, `code` is tuned, nothing is told of `embed`.
pub const DISCLOSED: [Disclosed; 4] = [
    Disclosed {
        pool: "chat-1",
        model: MODELS[0],
        grams: 8e8,
        units: 4e9,
        more: ",\"remainder\":\"carry_to_successor\"",
        day: 0,
    },
    Disclosed { pool: "chat-2", model: MODELS[1], grams: 5e8, units: 3e9, more: "", day: REPLACED_DAY },
    Disclosed { pool: "code-1", model: MODELS[2], grams: 6e8, units: 5e9, more: "", day: 0 },
    Disclosed {
        pool: "code-2",
        model: MODELS[3],
        grams: 2e6,
        units: 1e7,
        more: ",\"parents\":[{\"pool\":\"code-1\",\"descent\":\"finetune\"}]",
        day: TUNED_DAY,
    },
];

/// Records each pool on its day, and that `chat-1` is served no more. What lies after the end of a script is left out.
pub(super) fn fill(book: &Book, script: &Script) {
    for disclosed in DISCLOSED.iter().filter(|disclosed| disclosed.day < script.days) {
        let Disclosed { pool, model, grams, units, more, day } = disclosed;
        let text = format!(
            "{{\"schema\":\"joulebook-training/1\",\"pool\":\"{pool}\",\"model\":\"{}\",\"version\":\"{}\",\
             \"document\":\"https://example.org/card\",\"scope\":\"full_development\",\"units\":{units},\
             \"unit\":\"output_token\",\"training_g\":{grams}{more}}}",
            model.name, model.version
        );
        let event = Event::Disclose(Box::new(Disclosure::parse(&text).expect("a document")));
        record(book, pool, &event, script.hour(day * DAY_HOURS)).expect("recorded");
    }
    if REPLACED_DAY < script.days {
        let event = Event::Retire { successor: Some("chat-2".to_owned()), reason: "replaced".to_owned() };
        record(book, "chat-1", &event, script.day(REPLACED_DAY)).expect("recorded");
    }
}
