use super::*;
use crate::store::memory::MemoryStore;
use joulebook_sci::ServiceUse;
use joulebook_units::CountKind;
use std::sync::Arc;

fn document(pool: &str, more: &str) -> String {
    format!(
        "{{\"schema\":\"joulebook-training/1\",\"pool\":\"{pool}\",\"model\":\"tiny\",\"version\":\"{pool}\",\
         \"document\":\"https://example.org/card\",\"scope\":\"full_development\",\"units\":1000,\"unit\":\"total_token\",\
         \"training_g\":600{more}}}"
    )
}

fn disclose(book: &Book, text: &str) -> Result<UnixNanos, TrainingError> {
    let disclosure = Disclosure::parse(text)?;
    let pool = disclosure.pool.clone();
    record(book, &pool, &Event::Disclose(Box::new(disclosure)), UnixNanos(5))
}

fn book() -> Book {
    Book::open(Arc::new(MemoryStore::new())).expect("open")
}

#[test]
fn what_is_no_disclosure_is_refused_with_its_reason() {
    let refused = |text: &str| Disclosure::parse(text).expect_err(text).to_string();
    let with = |from: &str, to: &str| refused(&document("a", "").replace(from, to));
    assert!(with("\"units\":1000", "\"units\":0").contains("N must be above 0"));
    assert!(with("https://example.org/card", "").contains("no document"));
    assert!(with("joulebook-training/1", "joulebook-training/9").contains("joulebook-training/9"));
    assert!(with("\"version\":\"a\"", "\"version\":\"\"").contains("not traced"));
    assert!(with("\"training_g\":600", "\"training_g\":-1").contains("at least 0"));
    assert!(with(",\"training_g\":600", "").contains("neither"));
    assert!(refused(&document("a", ",\"parts_g\":{\"final\":500,\"search\":50}")).contains("sum to 550 g"));
    assert!(refused(&document("a", ",\"entity_weights\":{\"x\":2}")).contains("unknown field"), "no weight per entity");
    assert!(refused(&document("a", ",\"serving_since\":\"lately\"")).contains("lately"));
    let merge = ",\"parents\":[{\"pool\":\"b\",\"descent\":\"merge\",\"weight\":0.4},{\"pool\":\"c\",\"descent\":\"merge\",\"weight\":0.4}]";
    assert!(refused(&document("a", merge)).contains("sum to 1"));
    assert!(refused("{").contains("document"));
    assert!(Disclosure::parse(&document("a", ",\"assumed\":true").replace("https://example.org/card", "")).is_ok());
}

#[test]
fn a_cycle_another_unit_and_a_pool_that_is_not_there_are_refused_and_nothing_is_recorded() {
    let book = book();
    let tuned = |of: &str| format!(",\"parents\":[{{\"pool\":\"{of}\",\"descent\":\"finetune\"}}]");
    disclose(&book, &document("base", "")).expect("taken");
    disclose(&book, &document("tuned", &tuned("base"))).expect("taken");
    let cycle = disclose(&book, &document("base", &tuned("tuned"))).expect_err("a cycle");
    assert!(matches!(cycle, TrainingError::Lineage(LineageError::Cycle(_))), "{cycle}");
    let unit = disclose(&book, &document("base", "").replace("total_token", "request")).expect_err("another unit");
    assert!(unit.to_string().contains("fixed for the life"), "{unit}");
    let revise = |pool: &str, units| record(&book, pool, &Event::Revise { units, reason: "seen".into() }, UnixNanos(6));
    assert!(matches!(revise("nobody", 5.0), Err(TrainingError::NoPool(_))));
    assert!(revise("base", 0.0).is_err());
    assert_eq!(pools(&book, None).expect("read")["base"].events.len(), 1);
}

#[test]
fn events_stay_in_their_order_and_are_known_as_of_any_instant() {
    let book = book();
    let first = disclose(&book, &document("a", "")).expect("taken");
    let revised = record(&book, "a", &Event::Revise { units: 5e3, reason: "use".into() }, UnixNanos(5)).expect("taken");
    assert!(revised > first, "later, though the clock stood");
    let retire = |successor: Option<&str>| {
        let event = Event::Retire { successor: successor.map(str::to_owned), reason: "replaced".into() };
        record(&book, "a", &event, UnixNanos(9))
    };
    assert!(retire(Some("b")).is_err(), "its remainder is the provider's");
    retire(None).expect("taken");
    assert!(retire(None).is_err(), "once");
    let at = |as_of: Option<UnixNanos>| pools(&book, as_of).expect("read").remove("a").map(|pool| pool.events.len());
    assert_eq!(
        (at(None), at(Some(revised)), at(Some(first)), at(Some(UnixNanos(4)))),
        (Some(3), Some(2), Some(1), None)
    );
    assert!(pools(&book, None).expect("read")["a"].retired());
}

#[test]
fn weighted_units_have_one_pair_of_weights_for_all_who_ask() {
    let weighted = |more: &str| document("a", more).replace("\"total_token\"", "\"weighted\"");
    let refused = |text: String| Disclosure::parse(&text).expect_err("refused").to_string();
    assert!(refused(weighted("")).contains("need token_weights"));
    assert!(refused(weighted(",\"token_weights\":{\"input\":0,\"output\":0}")).contains("not both 0"));
    assert!(refused(document("a", ",\"token_weights\":{\"input\":1,\"output\":3}")).contains("weighted units only"));
    let taken = weighted(",\"token_weights\":{\"input\":0.25,\"output\":1}");
    let counts = [(CountKind::InputTokens, 400), (CountKind::OutputTokens, 50)].into();
    let used = ServiceUse { counts, ..ServiceUse::default() };
    let units = Disclosure::parse(&taken).expect("valid").count(&used).expect("told");
    assert!((units - 150.0).abs() < 1e-9);
    let book = book();
    disclose(&book, &taken).expect("taken");
    let other = taken.replace("0.25", "0.5");
    assert!(disclose(&book, &other).expect_err("other weights").to_string().contains("one allocation for all"));
}

#[test]
fn a_pool_is_exported_with_its_revised_n() {
    let book = book();
    disclose(&book, &document("a", "")).expect("taken");
    let exported = |book: &Book| pools(book, None).expect("read")["a"].exported().expect("disclosed");
    assert_eq!(exported(&book).revised, None);
    record(&book, "a", &Event::Revise { units: 5e3, reason: "use".into() }, UnixNanos(7)).expect("taken");
    let (found, revised) = (exported(&book), exported(&book).revised.expect("revised"));
    assert!((revised.units - 5e3).abs() < 1e-9 && revised.reason == "use");
    let text = serde_json::to_string(&found).expect("JSON");
    assert_eq!(Disclosure::parse(&text).expect("as it is imported"), found);
}

#[test]
fn an_increment_joins_the_pool_of_one_parent_alone() {
    let joins = |parents: &str| {
        document("a", &format!(",\"lineage_policy\":\"single_pool_increment\",\"parents\":[{parents}]"))
    };
    let parent =
        |pool: &str, descent: &str, more: &str| format!("{{\"pool\":\"{pool}\",\"descent\":\"{descent}\"{more}}}");
    assert!(Disclosure::parse(&joins("")).is_err());
    let two = format!("{},{}", parent("b", "finetune", ""), parent("c", "distill", ""));
    assert!(Disclosure::parse(&joins(&two)).is_err());
    assert!(Disclosure::parse(&joins(&parent("b", "merge", ""))).is_err());
    assert!(Disclosure::parse(&joins(&parent("b", "finetune", ""))).is_ok());
}
