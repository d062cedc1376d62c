use super::*;
use crate::store::memory::MemoryStore;
use joulebook_units::{Accelerator, UnixNanos};
use std::sync::Arc;

fn window() -> Window {
    Window::new(UnixNanos::from_seconds(1_795_510_800), UnixNanos::from_seconds(1_795_514_400)).expect("ordered")
}

fn factors(toml: &str) -> Result<Factors, FactorError> {
    Factors::new(&toml::from_str(toml).expect("valid configuration"))
}

fn book() -> Book {
    Book::open(Arc::new(MemoryStore::new())).expect("open")
}

fn known(cell: &IntensityCell) -> f64 {
    let Rate::Known(value) = cell.value else { panic!("missing: {:?}", cell.provenance.steps) };
    value.get()
}

fn only(cells: Vec<IntensityCell>) -> IntensityCell {
    assert_eq!(cells.len(), 1);
    assert_eq!(cells[0].window, window(), "the window is covered without hole");
    cells.into_iter().next().expect("one cell")
}

#[test]
fn intensity_goes_from_fixed_to_region_to_country_to_world_and_tells_each_step() {
    let factors = factors(
        "[site.fixed]\nintensity_g_per_kwh = 12.5\nintensity_source = \"own hydro plant\"\nregion = \"gcp/europe-west9\"\n\
         [site.region]\nregion = \"GCP/Europe-West9\"\n[site.placed]\nregion = \"aws/eu-west-3\"\n\
         [site.country]\nzone = \"fr\"\n",
    )
    .expect("known names");
    let of = |site| only(factors.intensity(site, window(), Asked::default(), &book()).expect("read"));
    let fixed = of(Some("fixed"));
    assert!((known(&fixed) - 12.5).abs() < 1e-12);
    assert_eq!((fixed.provenance.granularity, fixed.provenance.source.as_str()), ("fixed", "own hydro plant"));
    assert_eq!(of(Some("region")).provenance.zone, "gcp/europe-west9");
    let (placed, country) = (of(Some("placed")), of(Some("country")));
    assert_eq!((placed.provenance.zone.as_str(), placed.value), ("FRA", country.value));
    assert!(placed.provenance.steps.iter().any(|step| step.contains("no value for cloud region aws/eu-west-3")));
    assert_eq!(country.provenance.year, Some(2023));
    assert!((known(&country) - 56.039).abs() < 1e-9);
    let world = of(None);
    assert!(world.provenance.world && (known(&world) - 475.0).abs() < 1e-9);
    assert_eq!(world.provenance.steps.len(), 5, "{:?}", world.provenance.steps);
}

#[test]
fn a_site_that_is_not_configured_stands_where_the_default_stands_and_says_so() {
    let factors = factors("[site.default]\nzone = \"DEU\"\npue = 1.2\n").expect("known names");
    let cell = only(factors.intensity(Some("cellar"), window(), Asked::default(), &book()).expect("read"));
    assert_eq!(cell.provenance.zone, "DEU");
    assert_eq!(cell.provenance.steps[0], "site cellar is not configured: default");
    let pue = factors.pue(Some("cellar"), window(), None, &book()).expect("read");
    assert!((pue[0].value.get() - 1.2).abs() < 1e-12);
    assert_eq!(pue[0].granularity, "annual");
}

#[test]
fn an_unknown_name_is_refused_with_its_key_and_the_nearest_names() {
    let error = factors("[site.paris]\nregion = \"aws/eu-wset-3\"\n").expect_err("unknown region").to_string();
    assert!(error.contains("site.paris.region") && error.contains("aws/eu-west-3"), "{error}");
    let error = factors("[site.paris]\nzone = \"FRX\"\n").expect_err("unknown zone").to_string();
    assert!(error.contains("site.paris.zone") && error.contains("FRA"), "{error}");
    assert!(factors("[site.a]\nzone = \"DEU\"\nregion = \"aws/eu-west-3\"\n").is_err(), "two places at once");
}

#[test]
fn numbers_out_of_range_and_lonely_sources_are_refused() {
    for toml in [
        "[site.a]\npue = 0.99",
        "[site.a]\npue = nan",
        "[site.a]\nintensity_g_per_kwh = -1.0",
        "[site.a]\nintensity_g_per_kwh = 2000.5",
        "[site.a]\nintensity_source = \"x\"",
        "[embodied]\nhost_kg = -1.0",
        "[embodied]\nlifespan_hours = 0.0",
    ] {
        assert!(factors(toml).is_err(), "{toml}");
    }
    assert!(toml::from_str::<FactorConfig>("[site.a]\nregoin = \"x\"").is_err());
}

#[test]
fn without_a_site_the_default_pue_is_named_as_one() {
    let factors = factors("").expect("defaults");
    let pue = factors.pue(None, window(), None, &book()).expect("read");
    assert!((pue[0].value.get() - 1.56).abs() < 1e-12 && pue[0].granularity == "default");
}

#[test]
fn the_revision_changes_with_the_configuration_and_only_with_it() {
    let of = |toml| factors(toml).expect("valid").revision();
    assert_eq!(of("[site.a]\npue = 1.1"), of("[site.a]\npue = 1.1"));
    assert_ne!(of("[site.a]\npue = 1.1"), of("[site.a]\npue = 1.2"));
}

#[test]
fn a_host_is_billed_by_its_parts_and_unknown_parts_are_named_not_zero() {
    let factors = factors("").expect("defaults");
    let accelerator =
        Accelerator { device: None, model: "NVIDIA A100-PCIE-40GB".into(), driver: None, memory_bytes: None };
    let hardware = Hardware {
        sockets: Some(2),
        memory_bytes: Some(400 << 30),
        disks: None,
        accelerators: vec![accelerator],
        guest: Some(false),
        ..Hardware::default()
    };
    let facts = factors.embodied(&hardware);
    let kg = |part: &str| facts.parts.get(part).map(|grams| (grams.0 / 1e3 * 10.0).round() / 10.0);
    assert_eq!((kg("base"), kg("cpu"), kg("dram"), kg("gpu")), (Some(1000.0), Some(100.0), Some(533.0), Some(150.0)));
    assert_eq!(kg("disks"), None);
    assert!(facts.notes.iter().any(|note| note.contains("disks left out")));
    assert!((facts.total().0 - 1_783_000.0).abs() < 1e-3);
    let expected = (1633.0 * 0.5 + 150.0 * 0.85) / 1783.0;
    assert!((facts.uncertainty - expected).abs() < 1e-9);
    assert!((facts.lifespan_hours - 35_040.0).abs() < 1e-9);
}

#[test]
fn a_host_of_eight_accelerators_is_billed_as_one_and_an_h100_by_its_makers_figure() {
    let accelerator = |model: &str| Accelerator { device: None, model: model.into(), driver: None, memory_bytes: None };
    let host = |count, model| Hardware {
        sockets: Some(2),
        memory_bytes: Some(2 << 40),
        accelerators: vec![accelerator(model); count],
        guest: Some(false),
        ..Hardware::default()
    };
    let facts = factors("").expect("defaults").embodied(&host(8, "NVIDIA H100 80GB HBM3"));
    assert_eq!(facts.parts.keys().collect::<Vec<_>>(), ["base", "gpu"]);
    assert!((facts.total().0 - 5_700_000.0 - 8.0 * 164_000.0).abs() < 1e-3);
    assert!((facts.uncertainty - (5700.0 * 0.5 + 1312.0 * 0.3) / 7012.0).abs() < 1e-9);
    assert!(facts.te_source.contains("EcoLogits") && facts.te_source.contains("NVIDIA"), "{}", facts.te_source);
    let four = factors("").expect("defaults").embodied(&host(4, "NVIDIA L40S"));
    assert_eq!(four.parts.get("gpu").map(|grams| grams.0), Some(600_000.0));
    assert!(four.parts.contains_key("dram"));
    let stated = factors("[embodied]\nhost_kg = 900.0").expect("valid").embodied(&host(8, "NVIDIA L40S"));
    assert_eq!(stated.parts.get("base").map(|grams| grams.0), Some(900_000.0), "what is stated is used");
}

#[test]
fn a_guest_has_the_share_of_its_vcpus() {
    let factors = factors("").expect("defaults");
    let facts = factors.embodied(&Hardware { threads: Some(4), guest: Some(true), ..Hardware::default() });
    assert_eq!(facts.parts.keys().collect::<Vec<_>>(), ["guest_share"]);
    assert!((facts.total().0 - 4.0 * 1_610_790.0 / 96.0).abs() < 1e-6);
    let own = Factors::new(&toml::from_str("[embodied]\nguest_kg_per_vcpu = 10.0").expect("valid")).expect("valid");
    let facts = own.embodied(&Hardware { threads: Some(4), guest: Some(true), ..Hardware::default() });
    assert!((facts.total().0 - 40_000.0).abs() < 1e-6 && (facts.uncertainty - 0.3).abs() < 1e-12);
    assert_eq!(facts.te_source, "configuration");
}
