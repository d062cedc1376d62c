//! What an answer was made from: factors, sensors, hardware, conditions, declarations.

use super::*;
use crate::factor::IntensityProvenance;
use crate::query::gather::Site;
use joulebook_sci::quantity::Kind;

impl Context<'_> {
    /// Factors of the sites of the nodes concerned.
    fn sites(&self, parts: &Parts<'_>) -> impl Iterator<Item = &Site> {
        let names: BTreeSet<String> = parts.members.iter().map(|member| site_name(&member.record)).collect();
        names.into_iter().filter_map(|name| self.computed.gathered.sites.get(&name))
    }

    /// Where the intensities come from that rate the version's energy, each with its energy in joules; of a version without
    /// energy those that would.
    pub(super) fn origins(&self, parts: &Parts<'_>) -> Vec<(&IntensityProvenance, f64)> {
        let origin = |place: usize| self.computed.gathered.origins.get(place);
        let rated = parts.totals.carbon.rated.iter();
        let used: Vec<_> = rated.filter_map(|(place, energy)| Some((origin(*place)?, energy.get()))).collect();
        if !used.is_empty() || parts.totals.carbon.unrated.energy_j.get() > 0.0 {
            return used;
        }
        let seen: BTreeSet<usize> = self.sites(parts).flat_map(|site| &site.seen).copied().collect();
        seen.into_iter().filter_map(|place| Some((origin(place)?, 0.0))).collect()
    }

    /// The newest recorded intensity or PUE of the window, if one comes out of a series.
    pub(super) fn revision(&self, parts: &Parts<'_>) -> Option<UnixNanos> {
        self.sites(parts).filter_map(|site| site.revision).max()
    }

    pub(super) fn intensity(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::Intensity {
        let mut origins = self.origins(parts);
        origins.sort_by(|a, b| b.1.total_cmp(&a.1));
        let each = |part: fn(&IntensityProvenance) -> String| {
            let values: BTreeSet<String> = origins.iter().map(|(origin, _)| part(origin)).collect();
            if values.is_empty() { "none".to_owned() } else { values.into_iter().collect::<Vec<_>>().join(" + ") }
        };
        let carbon = GramsCo2e(parts.totals.carbon.operational.get());
        let unrated = &parts.totals.carbon.unrated;
        let rated: f64 = origins.iter().map(|(_, energy)| energy).sum();
        let whole = rated + unrated.energy_j.get();
        let part = |energy: f64| (whole > 0.0).then(|| energy / whole);
        let year = origins.iter().filter_map(|(origin, _)| origin.year).max().map(u32::from);
        let is_actual = |origin: &IntensityProvenance| {
            ["5min", "hour"].contains(&origin.granularity) && ["measured", "estimated"].contains(&origin.status)
        };
        let actual: f64 = origins.iter().filter(|(origin, _)| is_actual(origin)).map(|(_, energy)| energy).sum();
        let no_energy = "no energy was charged";
        let uses = origins.iter().map(|(origin, energy)| wire::FactorUse {
            source: origin.source.clone(),
            zone: origin.zone.clone(),
            status: origin.status.to_owned(),
            granularity: origin.granularity.to_owned(),
            basis: origin.basis.name().to_owned(),
            energy_fraction: part(*energy).unwrap_or(0.0),
            steps: origin.steps.clone(),
        });
        wire::Intensity {
            kind: self.kinds(parts).into_iter().map(Kind::name).collect::<Vec<_>>().join(" + "),
            basis: each(|origin| origin.basis.name().to_owned()),
            status: each(|origin| origin.status.to_owned()),
            source: each(|origin| origin.source.clone()),
            zone: each(|origin| origin.zone.clone()),
            granularity: each(|origin| origin.granularity.to_owned()),
            effective_g_per_kwh: missing.or_note(
                effective_intensity(carbon, Joules(rated)),
                "intensity.effective_g_per_kwh",
                if whole > 0.0 { "the intensity is missing throughout" } else { no_energy },
            ),
            actual_fraction: Some(part(actual).unwrap_or(0.0)),
            year: missing.or_note(year, "intensity.year", "the intensity is not of a year"),
            uses: uses.collect(),
            missing_fraction: missing.or_note(part(unrated.energy_j.get()), "intensity.missing_fraction", no_energy),
            missing_low_g: unrated.low_g.get(),
            missing_high_g: unrated.high_g.get(),
            revision: self.revision(parts).map(rfc3339).unwrap_or_default(),
        }
    }

    /// The kinds of the answer's intensities.
    pub(super) fn kinds(&self, parts: &Parts<'_>) -> BTreeSet<Kind> {
        let places = self.sites(parts).flat_map(|site| &site.seen);
        places.filter_map(|place| self.computed.gathered.origins.get(*place)).map(|origin| origin.kind).collect()
    }

    /// Whether some of the intensities are average and some marginal, which are never summed.
    pub(super) fn mixes(&self, parts: &Parts<'_>) -> bool {
        let kinds = self.kinds(parts);
        kinds.iter().any(|kind| kind.is_marginal()) && !kinds.iter().all(|kind| kind.is_marginal())
    }

    pub(super) fn pue(&self, parts: &Parts<'_>, missing: &mut Missing) -> wire::PueUse {
        let sites: BTreeSet<String> = parts.members.iter().map(|member| site_name(&member.record)).collect();
        let used = || sites.iter().filter_map(|site| self.computed.pues.get(site)).flatten();
        let each = |part: fn(&crate::query::gather::PueOrigin) -> &str| {
            used().map(part).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" + ")
        };
        let effective = effective_pue(Joules(parts.totals.facility_j.get()), parts.totals.it_j());
        wire::PueUse {
            source: each(|(source, _)| source),
            granularity: each(|(_, granularity)| granularity),
            effective: missing.or_note(effective, "pue.effective", "no energy was charged"),
        }
    }

    pub(super) fn provenance(&self, parts: &Parts<'_>) -> wire::Provenance {
        let datasets = self.factors.datasets().into_iter();
        let versions: BTreeSet<String> =
            parts.members.iter().map(|member| member.record.inventory.agent_version.clone()).collect();
        let skew = parts.members.iter().map(|member| member.record.clock_skew_nanos.unsigned_abs()).max();
        wire::Provenance {
            datasets: datasets
                .map(|set| wire::Dataset {
                    name: set.name.to_owned(),
                    version: set.version.to_owned(),
                    licence: set.licence.to_owned(),
                })
                .collect(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            agent_versions: versions.into_iter().collect(),
            clock_skew_max_s: skew.map(|nanos| std::time::Duration::from_nanos(nanos).as_secs_f64()),
        }
    }

    /// Sensors of the nodes, each with the part of their energy that it gave.
    #[allow(clippy::cast_precision_loss, reason = "ratios")]
    pub(super) fn instruments(&self, parts: &Parts<'_>, missing: &mut Missing) -> Vec<wire::Instrument> {
        let total: u64 = parts.nodes.iter().map(|node| node.cell.component_microjoules()).sum();
        let mut sums: BTreeMap<&SourceKey, u64> = BTreeMap::new();
        for (key, source) in parts.nodes.iter().flat_map(|node| &node.cell.sources) {
            *sums.entry(key).or_default() += source.microjoules;
        }
        let states = || parts.members.iter().flat_map(|member| member.record.sources());
        let mut instruments = Vec::new();
        for (index, (key, energy)) in sums.into_iter().enumerate() {
            let basis = states().find(|state| state.source.id == key.id).map(|state| state.source.basis.clone());
            missing
                .note(&format!("instruments.{index}.period_s"), "the sampling period is not part of the inventory yet");
            instruments.push(wire::Instrument {
                collector: format!("{} ({})", key.collector, key.id),
                method: method_name(&BTreeSet::from([key.method])),
                period_s: None,
                energy_fraction: if total > 0 && key.is_part() { energy as f64 / total as f64 } else { 0.0 },
                basis: basis.unwrap_or_default(),
                uncertainty: f64::from(key.uncertainty_permille) / 1e3,
                contained: key.contained,
                layer: key.layer().map_or("part", Layer::name).to_owned(),
                wall: parts.nodes.iter().any(|node| node.cell.input.meters.contains_key(key)),
            });
        }
        instruments
    }

    /// Fields that only a declaration can fill.
    pub(super) fn declared(&self, parts: &Parts<'_>, answer: &mut SciAnswer, missing: &mut Missing) {
        let sites: BTreeSet<String> = parts.members.iter().map(|member| site_name(&member.record)).collect();
        let deployments: BTreeSet<String> = sites
            .iter()
            .filter_map(|site| self.factors.deployment((!site.is_empty()).then_some(site.as_str())))
            .map(|deployment| deployment.as_str().to_owned())
            .collect();
        let deployment = (!deployments.is_empty()).then(|| deployments.into_iter().collect::<Vec<_>>().join(" + "));
        let token =
            matches!(parts.unit, FunctionalUnit::InputToken | FunctionalUnit::OutputToken | FunctionalUnit::TotalToken);
        answer.task = missing.or_note(token.then(|| "text-generation".to_owned()), "task", "no task is declared");
        answer.modality = missing.or_note(token.then(|| "text".to_owned()), "modality", "no modality is declared");
        answer.deployment = missing.or_note(deployment, "deployment", "no deployment is declared for the site");
        answer.accountable_contact = missing.or_note(
            self.factors.accountable_contact().map(str::to_owned),
            "accountable_contact",
            "no accountable contact is configured",
        );
        answer.ghg_scope =
            missing.or_note(self.factors.ghg_scope().map(str::to_owned), "ghg_scope", "no GHG role is configured");
    }
}

pub(super) fn hardware(parts: &Parts<'_>, missing: &mut Missing) -> Vec<wire::HardwareUse> {
    type Kind<'a> = (Component, Option<&'a String>, Option<&'a String>, Option<u64>);
    let mut found: BTreeMap<Kind<'_>, f64> = BTreeMap::new();
    for hardware in parts.members.iter().map(|member| &member.record.inventory.hardware) {
        *found.entry((Component::Cpu, hardware.cpu_model.as_ref(), None, None)).or_default() +=
            f64::from(hardware.sockets.unwrap_or(1));
        for one in &hardware.accelerators {
            let key = (Component::Accelerator, Some(&one.model), one.driver.as_ref(), one.memory_bytes);
            *found.entry(key).or_default() += 1.0;
        }
    }
    let mut list = Vec::new();
    for (index, ((component, model, driver, memory_bytes), count)) in found.into_iter().enumerate() {
        let path = |field: &str| format!("hardware.{index}.{field}");
        let (no_driver, no_memory) = match component {
            Component::Cpu => ("a CPU has no driver", "a CPU has no memory of its own"),
            _ => ("the driver's version was not read", "its memory was not read"),
        };
        list.push(wire::HardwareUse {
            component: component.name().to_owned(),
            model: missing.or_note(model.cloned(), &path("model"), "the hardware does not name itself"),
            count: Some(count),
            driver: missing.or_note(driver.cloned(), &path("driver"), no_driver),
            memory_bytes: missing.or_note(memory_bytes, &path("memory_bytes"), no_memory),
        });
    }
    list
}
