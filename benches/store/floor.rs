//! How small the numbers get by themselves: each series of an hour packed by pco at its highest level, registers as their
//! counts, the times once a node. What a store needs besides is not in it.

use anyhow::Result;
use joulebook_benches::workload::Node;
use pco::ChunkConfig;
use pco::standalone::simple_compress;

/// Bytes of a node's series and times.
pub fn bytes(node: &Node) -> Result<usize> {
    let config = ChunkConfig::default().with_compression_level(12);
    let mut bytes = simple_compress(&node.rows, &config)?.len();
    for (kind, _, values) in &node.series {
        let mut least = simple_compress(values, &config)?.len();
        if let Some(bits) = kind.register() {
            let counts = values.iter().map(|value| ((u128::from(*value) << bits).div_ceil(1_000_000)) as u64);
            least = least.min(simple_compress(&counts.collect::<Vec<u64>>(), &config)?.len());
        }
        bytes += least;
    }
    Ok(bytes)
}
