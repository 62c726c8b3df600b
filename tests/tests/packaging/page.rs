//! docs/kubernetes.md: each block of values for the chart.

use super::chart::assert_loads;
use super::rendered::{NAMESPACE, judge};

const PAGE: &str = include_str!("../../../docs/kubernetes.md");

/// Returns the blocks of values in the part about the chart, with an identity in the place of the page's digits.
fn blocks() -> Vec<String> {
    let (_, part) = PAGE.split_once("\n## The chart\n").unwrap();
    let part = part.split("\n## ").next().unwrap();
    let blocks = part.split("```yaml\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.map(|block| block.replace("…64 hex digits…", &"a".repeat(64))).collect()
}

/// Each block that names a key store is whole. The others are additions to any of these, as the page says.
#[test]
fn each_block_of_values_makes_a_release_whose_config_loads() {
    assert!(
        PAGE.contains("an addition to those of any key store below"),
        "the page says what is an addition"
    );
    let (whole, additions): (Vec<_>, Vec<_>) =
        blocks().into_iter().partition(|block| block.contains("keystore:"));
    assert_eq!((whole.len(), additions.len()), (5, 1), "{whole:?} {additions:?}");
    for addition in &additions {
        let (key, inner) = addition.split_once('\n').unwrap();
        assert_eq!(key, "config:", "it is put below the key of the others");
        for values in &whole {
            let both = values.replacen("config:\n", &format!("config:\n{inner}"), 1);
            for values in [values, &both] {
                let release = judge(&[("page", values)]).remove("page").unwrap();
                assert_eq!(release.workload()["metadata"]["namespace"], NAMESPACE, "{values}");
                assert_loads("page", &release);
            }
        }
    }
}
