//! `retention.disk_budget`: beyond it the oldest of the finest goes, and what is left answers as before. With the real program,
//! also killed in between; and whatever is told late.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "functions that tests call may fail the test, and print what they found"
)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use joulebook_agent::clock::{Clock, SystemClock};
use joulebook_aggregator::store::cut::Level;
use joulebook_aggregator::store::retention::{Periods, drop_before};
use joulebook_aggregator::store::rocks::RocksStore;
use joulebook_aggregator::store::{Book, Resolution};
use joulebook_proto::admin::GetStatusRequest;
use joulebook_proto::admin::admin_service_client::AdminServiceClient;
use joulebook_proto::query::query_service_client::QueryServiceClient;
use joulebook_proto::query::{EnergyBy, GetEnergyRequest, GetEnergyResponse, GetSciRequest, SciAnswer, TimeWindow};
use joulebook_sci::cell::Purpose;
use joulebook_sci::{Cell, EntryKey};
use joulebook_tests::aggregator::Aggregator;
use joulebook_tests::chaos::server::Server;
use joulebook_tests::history::{BOOTED, history, step};
use joulebook_tests::scripted::{Fleet, Script, grid};
use joulebook_tests::wait::until;
use joulebook_units::{UnixNanos, Window};
use proptest::prelude::*;

/// One more than the settled cells that stay whatever the budget is, so that some of the first day's may go at any time of a day.
const DAYS: i64 = 31;
const OPENINGS: usize = 5;
const HOUR: i64 = 3_600;
/// What the aggregator says when something went, and when nothing more may.
const WENT: &str = "what is older went, for retention.disk_budget";
const MISSED: &str = "exceeds retention.disk_budget";

fn bytes(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).unwrap().filter_map(|entry| entry.ok()?.metadata().ok());
    files.filter(std::fs::Metadata::is_file).map(|file| file.len()).sum()
}

/// What is asked before and after.
struct Answers {
    energy: GetEnergyResponse,
    scores: Vec<SciAnswer>,
    counters: BTreeMap<String, u64>,
}

fn ask(endpoint: &str, window: Window) -> Answers {
    let window = Some(TimeWindow { start_unix_nanos: window.start().0, end_unix_nanos: window.end().0 });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut client = QueryServiceClient::connect(endpoint.to_owned()).await.unwrap();
        let by = EnergyBy::Component as i32;
        let energy = client.get_energy(GetEnergyRequest { window, by, ..GetEnergyRequest::default() }).await.unwrap();
        let scores = client.get_sci(GetSciRequest { window, ..GetSciRequest::default() }).await.unwrap();
        let mut admin = AdminServiceClient::connect(endpoint.to_owned()).await.unwrap();
        let status = admin.get_status(GetStatusRequest {}).await.unwrap().into_inner();
        let counters = status.counters.into_iter().collect();
        Answers { energy: energy.into_inner(), scores: scores.into_inner().answers, counters }
    })
}

impl Answers {
    /// Grams and units of each version.
    fn figures(&self) -> Vec<(String, Option<f64>, Option<f64>)> {
        let figures = self.scores.iter().map(|answer| {
            let subject = answer.subject.clone().unwrap_or_default();
            let sci = answer.sci.clone().unwrap_or_default();
            let r = answer.r.clone().unwrap_or_default();
            (
                format!("{}@{}", subject.model.unwrap_or_default(), subject.model_version.unwrap_or_default()),
                sci.value,
                r.value,
            )
        });
        figures.collect()
    }

    fn declares(&self, what: &str) -> bool {
        let excluded = |answer: &SciAnswer| {
            let boundary = answer.boundary.clone().unwrap_or_default();
            boundary.exclusions.iter().any(|one| one.starts_with(what) && one.contains("retention.disk_budget"))
        };
        self.scores.iter().all(excluded)
    }
}

/// Moves energy of each minute between what it was used for, and back in the minute after it, both of one settled cell: minutes
/// of a script are so much alike that a month of them packed is smaller than the least budget. No answer changes by it.
fn make_uneven(book: &Book, window: Window) {
    let mut noise = 1u64;
    for node in book.nodes() {
        for hour in window.slots(HOUR) {
            let mut cells = book.cells(node.number, Resolution::Minute, hour).unwrap();
            for pair in cells.chunks_mut(5).flat_map(|settled| settled.chunks_exact_mut(2)) {
                let [(_, one), (_, next)] = pair else { continue };
                let keys: Vec<EntryKey> = one.entries.keys().cloned().collect();
                for from in keys.iter().filter(|key| key.purpose == Purpose::Dynamic) {
                    let to = EntryKey { purpose: Purpose::Base, ..from.clone() };
                    let most = [&*one, &*next].map(|cell| cell.entries.get(from).min(cell.entries.get(&to)).copied());
                    let Some(most) = most[0].min(most[1]).filter(|most| *most > 1) else { continue };
                    noise = noise.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    let moved = (noise >> 20) % most;
                    for (cell, gives, takes) in [(&mut *one, from, &to), (&mut *next, &to, from)] {
                        cell.entries.entry(gives.clone()).and_modify(|energy| *energy -= moved);
                        cell.entries.entry(takes.clone()).and_modify(|energy| *energy += moved);
                    }
                }
            }
            let cells: Vec<_> = cells.into_iter().map(|(start, cell)| (Resolution::Minute, start, cell)).collect();
            book.settle(node.number, &cells, &[]).unwrap();
        }
    }
}

#[test]
fn beyond_the_budget_the_finest_goes_and_all_its_time_is_answered_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let script = Script::ending(SystemClock.wall(), DAYS, 24);
    let store = Arc::new(RocksStore::open(&data).unwrap());
    drop(Fleet::write(Arc::clone(&store) as _, script));
    // So that what goes is data, and neither an old file nor what is packed closer by then.
    let book = Book::open(Arc::clone(&store) as _).unwrap();
    make_uneven(&book, script.window());
    book.seal(script.window().end().plus_seconds(2 * HOUR), &|| false).unwrap();
    drop(book);
    store.compact().unwrap();
    drop(store);
    // RocksDB keeps the logs of some openings: from then on another one makes the folder no larger.
    (0..OPENINGS).for_each(|_| drop(RocksStore::open(&data).unwrap()));
    let server = |settings: &str| {
        let mut server = Server::new(folder.path(), &data).with_settings(&format!("{}{settings}", grid::CONFIGURATION));
        let (program, _) = server.start().unwrap();
        (server, program)
    };
    let (plain, mut program) = server("");
    let month = script.window();
    let stays = Window::new(month.start().plus_seconds(48 * HOUR), month.end()).unwrap();
    let (whole, of_stays) = (ask(&plain.endpoint(), month), ask(&plain.endpoint(), stays));
    program.stop().unwrap();
    let full = bytes(&data);
    assert_eq!((whole.energy.resolution_seconds, whole.declares("minutes before")), (60, false));
    assert_eq!(whole.scores.len(), 5);

    let budget = full / 5 * 4;
    let settings = format!("[retention]\ndisk_budget = {budget}\n");
    let (_, mut program) = server(&settings);
    program.wait_for(WENT).unwrap();
    // It has not come to rewriting its files, or not far.
    program.kill().unwrap();
    let killed = bytes(&data);
    let (within, mut program) = server(&settings);
    until("the files are rewritten", || bytes(&data) <= budget);
    let after = ask(&within.endpoint(), month);
    println!(
        "disk_budget: {full} bytes, {killed} when it was killed, {} of {budget} after it; {} uJ",
        bytes(&data),
        after.energy.total_microjoules
    );
    assert!(after.declares("minutes before"), "{:?}", after.scores[0].boundary);
    assert!(!after.declares("settled before"), "{:?}", after.scores[0].boundary);
    assert_eq!(after.energy.resolution_seconds, 300);
    assert_eq!(after.energy.rows, whole.energy.rows);
    assert_eq!(after.energy.total_microjoules, whole.energy.total_microjoules);
    assert_eq!(after.figures(), whole.figures());
    program.stop().unwrap();

    // Less than what stays whatever the budget is (what else is in the folder counts, too): it says so and keeps that, and what
    // went is absent and not zero.
    std::fs::write(data.join("of-somebody-else"), vec![0; 2 << 20]).unwrap();
    let (short, mut program) = server("[retention]\ndisk_budget = 1048576\n");
    program.wait_for(MISSED).unwrap();
    let (least, kept) = (ask(&short.endpoint(), month), ask(&short.endpoint(), stays));
    assert!(least.counters.get("disk_budget_missed_total").is_some_and(|count| *count > 0), "{:?}", least.counters);
    assert!(least.declares("settled before") && !kept.declares("settled before"));
    let known = |answers: &Answers| answers.energy.energy_measured_fraction.unwrap();
    assert!(known(&least) < known(&whole) && least.energy.total_microjoules < whole.energy.total_microjoules);
    assert_eq!((kept.figures(), kept.energy.rows), (of_stays.figures(), of_stays.energy.rows));
    program.stop().unwrap();
}

/// Cells that end before an instant.
fn ended(cells: BTreeMap<(Resolution, UnixNanos), Cell>, by: UnixNanos) -> BTreeMap<(Resolution, UnixNanos), Cell> {
    cells.into_iter().filter(|((length, start), _)| start.plus_seconds(length.seconds()) <= by).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_cell_changes_when_its_rows_go_nor_by_what_is_told_of_its_time_later(
        steps in prop::collection::vec(step(), 4..60),
        told in 0.2f64..1.0,
        hours in -3i64..2,
        level in 0usize..3,
    ) {
        let history = history(0, &steps);
        let histories = [history];
        let mut aggregator = Aggregator::new(&histories);
        let records = histories[0].batches.len();
        let first = (records as f64 * told) as usize;
        (0..first).for_each(|record| aggregator.send(0, &histories[0], record));
        aggregator.settle();
        let before = aggregator.cells(0);
        let cut = UnixNanos(BOOTED).plus_seconds(hours * HOUR).floor_to(HOUR).plus_seconds(HOUR);
        let level = Level::ALL[level];
        drop_before(&aggregator.book, &Periods::default(), level, cut, aggregator.now).expect("memory does not fail");
        let kept = |(length, start): &(Resolution, UnixNanos)| match (level, length) {
            (Level::Minutes, Resolution::Minute) | (Level::Settled, Resolution::Settled) => *start >= cut,
            _ => true,
        };
        let mut left = before;
        left.retain(|key, _| kept(key));
        prop_assert_eq!(&left, &aggregator.cells(0));
        if level == Level::Rows {
            let gone = Window::new(UnixNanos(BOOTED).plus_seconds(-HOUR), cut);
            let rows = gone.map(|gone| aggregator.book.rows(0, gone).expect("memory does not fail"));
            prop_assert!(rows.is_none_or(|rows| rows.is_empty()));
        }

        for record in first..records {
            aggregator.offer(0, &histories[0], record).expect("memory does not fail");
        }
        aggregator.settle();
        if level == Level::Rows {
            let oldest = aggregator.book.cut().oldest_row(aggregator.now).floor_to(60);
            prop_assert_eq!(ended(left, oldest), ended(aggregator.cells(0), oldest));
        }
    }
}
