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

fn labels(of: &[(&str, &str)]) -> BTreeMap<String, String> {
    of.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn disks_that_rotate_are_billed_apart_where_it_is_told_which_do() {
    let host = |rotating| Hardware { disks: Some(6), rotating_disks: rotating, ..plain_host() };
    let kg = |text: &str, rotating| {
        let facts = factors(text).expect("valid").embodied(&host(rotating));
        facts.parts["disks"].0 / 1e3
    };
    for (text, rotating, expected) in [
        ("", Some(4), 400.0),
        ("", None, 600.0),
        ("", Some(9), 300.0),
        ("[embodied]\ndisk_kg = 10.0", Some(4), 60.0),
        ("[embodied]\nhard_disk_kg = 20.0", Some(4), 280.0),
    ] {
        assert!((kg(text, rotating) - expected).abs() < 1e-9, "{text} {rotating:?}: {} kg", kg(text, rotating));
    }
}

fn plain_host() -> Hardware {
    Hardware {
        sockets: Some(1),
        memory_bytes: Some(16 << 30),
        disks: Some(1),
        guest: Some(false),
        ..Hardware::default()
    }
}

#[test]
fn the_operators_figures_go_before_the_defaults_by_model_node_and_instance() {
    let text = "[embodied]\nnetwork_kg = 70.0\ngpu_kg_by_model = { \"L40\" = 90.0, \"L40S\" = 120.0 }\n\
                [embodied.node.\"gpu-1\"]\ntotal_kg = 7000.0\nsource = \"maker\"\n\
                [embodied.instance.\"g6.xlarge\"]\ntotal_kg = 40.0\n";
    let factors = factors(text).expect("valid");
    let card = Accelerator { device: None, model: "NVIDIA L40S".into(), driver: None, memory_bytes: None };
    let hardware = Hardware { accelerators: vec![card], ..plain_host() };
    let kg = |node: &str, of: &[(&str, &str)]| {
        let facts = factors.embodied_of(node, &labels(of), &hardware);
        (facts.parts.into_iter().map(|(part, grams)| (part, grams.0 / 1e3)).collect::<Vec<_>>(), facts.te_source)
    };
    let (parts, source) = kg("plain", &[]);
    let part = |name: &str| parts.iter().find(|(part, _)| part == name).map(|(_, kg)| *kg);
    assert_eq!((part("gpu"), part("network"), part("base")), (Some(120.0), Some(70.0), Some(1000.0)));
    assert!(source.contains("configuration") && source.contains("manufacture"), "stages are named: {source}");
    assert_eq!(kg("gpu-1", &[]), (vec![("whole".to_owned(), 7000.0)], "maker".to_owned()));
    let typed = [("node.kubernetes.io/instance-type", "g6.xlarge")];
    assert_eq!(kg("plain", &typed).0, [("whole".to_owned(), 40.0)]);
    let bare = self::factors("").expect("defaults").embodied(&hardware);
    assert!(!bare.parts.contains_key("network"), "what is not known is not 0");
    assert!(bare.notes.iter().any(|note| note.contains("network gear left out")), "{:?}", bare.notes);
}

#[test]
fn a_cloud_instance_is_billed_by_its_table_unless_the_operator_states_its_parts() {
    let guest = Hardware { threads: Some(4), guest: Some(true), ..Hardware::default() };
    let of = |toml: &str, instance: &str| {
        let typed = labels(&[("node.kubernetes.io/instance-type", instance)]);
        factors(toml).expect("valid").embodied_of("n", &typed, &guest)
    };
    let facts = of("", "m5.xlarge");
    assert_eq!(facts.parts.keys().collect::<Vec<_>>(), ["instance"]);
    assert!((facts.total().0 - 67_099.0).abs() < 1.0 && (facts.uncertainty - 0.5).abs() < 1e-12);
    assert!(facts.te_source.contains("EC2") && facts.te_source.contains("manufacture"), "{}", facts.te_source);
    assert!(facts.notes.iter().any(|note| note.contains("network gear left out")), "{:?}", facts.notes);
    assert_eq!(of("[embodied]\nnetwork_kg = 5.0", "m5.xlarge").parts.len(), 2);
    for (toml, instance) in [("[embodied]\nguest_kg_per_vcpu = 10.0", "m5.xlarge"), ("", "m99.xlarge")] {
        assert_eq!(of(toml, instance).parts.keys().collect::<Vec<_>>(), ["guest_share"], "{toml} {instance}");
    }
    let stated = of("[embodied.instance.\"m5.xlarge\"]\ntotal_kg = 40.0", "m5.xlarge");
    assert_eq!(stated.parts.keys().collect::<Vec<_>>(), ["whole"]);
    assert!((stated.total().0 - 40_000.0).abs() < 1e-9);
}

#[test]
fn a_host_past_its_life_accrues_nothing_and_one_whose_life_was_extended_the_rest() {
    let since = "[embodied]\nlifespan_hours = 8760.0\nin_service_since = \"2026-01-01T00:00:00Z\"\n";
    let hour = |text: &str| {
        let start = mapping::instant(text, None).expect("a time");
        Window::new(start, start.plus_seconds(3600)).expect("ordered")
    };
    let accrue = |toml: &str, at: &str| {
        let facts = factors(toml).expect("valid").embodied(&plain_host());
        let (total, made) = (facts.total().0, facts.accrue(hour(at), hour(at).nanos()));
        (made.grams.0 / total, made.fully_amortised, facts.age_policy())
    };
    let near = |found: f64, expected: f64| assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
    let (share, through, policy) = accrue(since, "2026-06-01T00:00:00Z");
    near(share, 1.0 / 8760.0);
    assert_eq!((through, policy), (false, "stop_at_el"));
    let (share, through, _) = accrue(since, "2027-06-01T00:00:00Z");
    near(share, 0.0);
    assert!(through);
    // After half of its life it is expected to live half a life longer: the half that is left over a whole life.
    let longer = format!("{since}extended_at = \"2026-07-02T12:00:00Z\"\nextended_lifespan_hours = 13140.0\n");
    let (share, through, policy) = accrue(&longer, "2027-01-02T00:00:00Z");
    near(share, 0.5 / 8760.0);
    assert_eq!((through, policy), (false, "extend"));
    near(accrue(&longer, "2026-06-01T00:00:00Z").0, 1.0 / 8760.0);
    let unknown = factors("[embodied]\nlifespan_hours = 8760.0").expect("valid").embodied(&plain_host());
    near(unknown.accrue(hour("2040-01-01T00:00:00Z"), 3_600_000_000_000).grams.0 / unknown.total().0, 1.0 / 8760.0);
    for wrong in
        ["extended_at = \"2026-07-02T12:00:00Z\"", "extended_lifespan_hours = 9000.0", "in_service_since = \"once\""]
    {
        assert!(factors(&format!("[embodied]\n{wrong}")).is_err(), "{wrong}");
    }
    let shorter = format!("{since}extended_at = \"2026-07-02T12:00:00Z\"\nextended_lifespan_hours = 100.0\n");
    assert!(factors(&shorter).is_err());
}

#[test]
fn a_node_stands_where_its_labels_say_and_a_wrong_zone_is_refused() {
    let text = "[site.paris]\nintensity_g_per_kwh = 20\n[[site_rule]]\nsite = \"paris\"\n\
                labels = { \"topology.kubernetes.io/region\" = \"eu-west-3\", hall = \"2\" }\n";
    let factors = factors(text).expect("valid");
    let region = ("topology.kubernetes.io/region", "eu-west-3");
    let site = |of: &[(&str, &str)]| factors.site_by_labels(&labels(of));
    assert_eq!(site(&[region, ("hall", "2")]).as_deref(), Some("paris"));
    assert_eq!(site(&[region]).as_deref(), Some("aws/eu-west-3"), "the region of a cloud is a site");
    assert_eq!(site(&[("topology.kubernetes.io/region", "moon-1")]), None);
    assert_eq!(site(&[]), None);
    let at = |site: &str| only(factors.intensity(Some(site), window(), Asked::default(), &book()).expect("read"));
    assert!((known(&at("paris")) - 20.0).abs() < 1e-9);
    assert_eq!(at("aws/eu-west-3").provenance.zone, "FRA", "{:?}", at("aws/eu-west-3"));
    let wrong = self::factors(&text.replace("site = \"paris\"", "site = \"pariss\"")).expect_err("no such site");
    assert!(
        matches!(&wrong, FactorError::UnknownName { nearest, .. } if nearest.contains(&"paris".to_owned())),
        "{wrong}"
    );
    let everywhere = self::factors("[site.a]\n[[site_rule]]\nsite = \"a\"").expect_err("no label");
    assert!(everywhere.to_string().contains("no label"), "{everywhere}");
}
