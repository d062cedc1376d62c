//! Findings for people.

use super::{Finding, Findings};
use std::fmt::Write as _;

/// The findings as text: what is read, what is not, what is not there.
pub fn write(findings: &Findings) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "node {}, agent {}, measured for {:.1} s",
        findings.node, findings.agent_version, findings.measured_s
    );
    let (read, unread): (Vec<&Finding>, Vec<&Finding>) = findings.sources.iter().partition(|source| source.w.is_some());
    let _ = writeln!(out, "\nread:");
    for source in &read {
        let _ = writeln!(out, "  {}", line(source));
        detail(&mut out, source);
    }
    if read.is_empty() {
        let _ = writeln!(out, "  nothing");
    }
    if let Some(watts) = findings.components_w {
        let _ = writeln!(
            out,
            "  sum of the components {watts:.2} W (what is inside another source, and meters of the whole node, left out)"
        );
    }
    if !unread.is_empty() {
        let _ = writeln!(out, "\nnot read:");
    }
    for source in &unread {
        let _ = writeln!(out, "  {} ({})", source.id, source.component);
        detail(&mut out, source);
    }
    if let Some(held) = &findings.held {
        let _ = writeln!(out, "\nheld by allocation, as the kubelet tells it:");
        for one in held {
            let _ = writeln!(out, "  {}: {}/{}, container {}", one.device, one.namespace, one.pod, one.container);
        }
        if held.is_empty() {
            let _ = writeln!(out, "  nothing");
        }
    }
    if !findings.unresolved.is_empty() {
        let _ =
            writeln!(out, "\nheld by names that stand for no device that is known (idle, it counts as the pool's):");
    }
    for one in &findings.unresolved {
        let _ = writeln!(out, "  {}: {}/{}, container {}", one.device, one.namespace, one.pod, one.container);
    }
    if !findings.absent.is_empty() {
        let _ = writeln!(out, "\nnot there:");
    }
    for absent in &findings.absent {
        let _ = writeln!(out, "  {}: {}", absent.kind, absent.why);
    }
    if !findings.targets.is_empty() {
        let _ = writeln!(out, "\ninference servers:");
    }
    for target in &findings.targets {
        let process = target.process.map_or_else(|| "no process".to_owned(), |pid| format!("process {pid}"));
        let _ = writeln!(out, "  {}  {}, {}, {process}", target.target, target.preset, target.role);
        for why in [&target.why, &target.left_out].into_iter().flatten() {
            let _ = writeln!(out, "    {why}");
        }
    }
    out
}

fn line(source: &Finding) -> String {
    let watts = source.w.map_or_else(String::new, |watts| format!("{watts:.2} W"));
    let mut line =
        format!("{}  {watts} ±{} %  {}, {}", source.id, source.uncertainty_percent, source.component, source.method);
    if let Some(smi) = source.nvidia_smi_w {
        let _ = write!(line, "  (nvidia-smi {smi:.2} W)");
    }
    if let Some(outer) = &source.contained_in {
        let _ = write!(line, "  within {outer}");
    }
    line
}

fn detail(out: &mut String, source: &Finding) {
    if !source.basis.is_empty() {
        let _ = writeln!(out, "    from {}", source.basis);
    }
    if let Some(why) = &source.why {
        let _ = writeln!(out, "    {why}");
    }
}
