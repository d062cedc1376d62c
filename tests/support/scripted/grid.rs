//! What the grids of the two sites emit, and what their halls lose: series with holes, a forecast and a correction.

use super::script::{DAY_HOURS, Script};
use joulebook_aggregator::factor::{FactorConfig, Factors};
use joulebook_aggregator::store::Book;
use joulebook_sci::series::Status;
use joulebook_units::UnixNanos;

/// The aggregator's configuration of the two sites.
pub const CONFIGURATION: &str = r#"[site.fra]
pue = 1.3
intensity_g_per_kwh = 60
intensity_source = "scripted: mean of the year"
[site.iad]
pue = 1.2
intensity_g_per_kwh = 390
intensity_source = "scripted: mean of the year"
[[factor]]
name = "fra-grid"
sites = ["fra"]
kind = "average_consumption"
[[factor]]
name = "iad-grid"
sites = ["iad"]
kind = "average_consumption"
[[factor]]
name = "fra-hall"
sites = ["fra"]
quantity = "pue"
[embodied]
host_kg = 800
cpu_kg = 100
dram_kg_per_gb = 1.5
disk_kg = 50
gpu_kg = 160
"#;
/// What [`CONFIGURATION`] says of the sites in g/kWh, PUE.
const FRA: (f64, f64) = (60.0, 1.3);
const IAD_PUE: f64 = 1.2;

/// The series of the intensity at `fra`, at `iad`, and of the PUE at `fra`.
pub const SERIES: [&str; 3] = ["fra-grid", "iad-grid", "fra-hall"];
/// Hours in which the first has no value: too long for the last one to hold on.
const FRA_HOLE: std::ops::Range<i64> = 7 * DAY_HOURS + 6..7 * DAY_HOURS + 11;
/// An hour in which the second has none: the one before holds on.
const IAD_HOLE: i64 = 3 * DAY_HOURS + 7;
/// The day on which the PUE is not told.
const PUE_HOLE_DAY: i64 = 4;
/// Hours of `iad` that are corrected a day later.
const CORRECTED: std::ops::Range<i64> = 12 * DAY_HOURS + 7..12 * DAY_HOURS + 9;
/// The day of which a forecast of `fra` is known before its values are.
pub const FORECAST_DAY: i64 = 20;

/// Every factor of the configuration.
pub fn factors() -> Factors {
    let config: FactorConfig = toml::from_str(CONFIGURATION).expect("syntax");
    Factors::new(&config).expect("valid")
}

/// What a series says of an hour before anything is corrected; nothing in a hole.
fn first_told(series: usize, hour: i64) -> Option<f64> {
    // Tenths and thousandths are the same whoever divides.
    let wave = |base: i64, swing: i64| (base + (hour * 37 + hour * hour % 101) % swing) as f64;
    match series {
        0 if FRA_HOLE.contains(&hour) => None,
        0 => Some(wave(200, 700) / 10.0),
        1 if hour == IAD_HOLE => None,
        1 => Some(wave(2500, 2000) / 10.0),
        _ if hour / DAY_HOURS == PUE_HOLE_DAY => None,
        _ => Some(wave(1050, 200) / 1000.0),
    }
}

/// The intensity at a site in an hour, as it is known in the end.
pub fn intensity(site: &str, hour: i64) -> f64 {
    match site {
        "fra" => first_told(0, hour).unwrap_or(FRA.0),
        _ if CORRECTED.contains(&hour) => first_told(1, hour).expect("told") * 1.5,
        _ => first_told(1, hour).or_else(|| first_told(1, hour - 1)).expect("told"),
    }
}

/// The PUE at a site in an hour.
pub fn pue(site: &str, hour: i64) -> f64 {
    match site {
        "fra" => first_told(2, hour).unwrap_or(FRA.1),
        _ => IAD_PUE,
    }
}

/// Records values of hours of a series at an instant.
pub fn record(
    book: &Book,
    script: &Script,
    series: usize,
    values: impl Iterator<Item = (i64, f64)>,
    (status, at): (Status, UnixNanos),
) {
    let factors = factors();
    let feed = factors.feeds().iter().find(|feed| feed.name == SERIES[series]).expect("configured");
    let cells: Vec<_> = values.map(|(hour, value)| (script.hour_window(hour), value, status)).collect();
    book.record_factors(&feed.name, &feed.subject, &cells, at).expect("recorded");
}

/// Records each day's values at its end, a forecast the day before, and a correction the day after.
pub(super) fn fill(book: &Book, script: &Script) {
    for day in 0..script.days {
        let hours = |day: i64| day * DAY_HOURS..(day + 1) * DAY_HOURS;
        for series in 0..SERIES.len() {
            let told = hours(day).filter_map(|hour| Some((hour, first_told(series, hour)?)));
            record(book, script, series, told, (Status::Measured, script.day(day + 1)));
        }
        if day + 1 == FORECAST_DAY {
            let forecast = hours(day + 1).map(|hour| (hour, 55.5));
            record(book, script, 0, forecast, (Status::Forecast, script.day(day + 1)));
        }
        if day == CORRECTED.start / DAY_HOURS + 1 {
            let corrected = CORRECTED.map(|hour| (hour, intensity("iad", hour)));
            record(book, script, 1, corrected, (Status::Measured, script.day(day + 1)));
        }
    }
}
