//! Tests of downloads over shared links.

use proptest::prelude::*;

use super::*;

const FAST: RegistryId = RegistryId(0);
const SLOW: RegistryId = RegistryId(1);

fn download(node: u32, layer: u8) -> Download {
    Download { node: NodeId(node), layer: Digest::of(&[&[layer]]) }
}

fn network(nodes: &[u64], fast: u64, slow: u64) -> Network {
    let mut network = Network::new();
    network.set_registry(FAST, fast);
    network.set_registry(SLOW, slow);
    for (node, bytes) in (0..).zip(nodes) {
        network.set_node(NodeId(node), *bytes);
    }
    network
}

fn seconds(time: SimTime) -> u64 {
    time.as_micros() / 1_000_000
}

#[test]
fn a_single_download_gets_the_slower_of_its_two_links() {
    let mut network = network(&[100], 1_000, 10);
    network.start(download(0, 1), FAST, 1_000, SimTime::ZERO);
    assert_eq!(network.next_completion(), Some(SimTime::from_secs(10)));
    network.start(download(0, 2), SLOW, 1_000, SimTime::ZERO);
    let complete = network.advance(SimTime::from_secs(1_000));
    let times: Vec<u64> = complete.iter().map(|(at, _)| seconds(*at)).collect();
    assert_eq!(times, [11, 100]);
    assert!(network.is_empty());
}

#[test]
fn two_downloads_to_a_node_take_as_long_as_one_of_both_sizes() {
    let mut network = network(&[100], 1_000, 1_000);
    network.start(download(0, 1), FAST, 1_000, SimTime::ZERO);
    network.start(download(0, 2), FAST, 3_000, SimTime::ZERO);
    let complete = network.advance(SimTime::from_secs(60));
    assert_eq!(complete.iter().map(|(at, _)| seconds(*at)).collect::<Vec<_>>(), [20, 40]);
}

#[test]
fn the_rest_gets_faster_when_a_download_is_cancelled() {
    let mut network = network(&[100, 100], 100, 100);
    network.start(download(0, 1), FAST, 1_000, SimTime::ZERO);
    network.start(download(1, 1), FAST, 1_000, SimTime::ZERO);
    assert_eq!(network.cancel(download(1, 1), SimTime::from_secs(10)), Some(500));
    assert_eq!(network.cancel(download(1, 1), SimTime::from_secs(10)), None);
    assert_eq!(network.next_completion(), Some(SimTime::from_secs(15)));
}

#[test]
fn a_download_without_capacity_waits_until_there_is_some() {
    let mut network = network(&[0], 100, 100);
    network.start(download(0, 1), FAST, 100, SimTime::ZERO);
    assert_eq!(network.next_completion(), None);
    assert!(network.advance(SimTime::from_secs(100)).is_empty());
    network.set_node(NodeId(0), 100);
    assert_eq!(network.next_completion(), Some(SimTime::from_secs(101)));
}

#[test]
fn an_empty_download_is_complete_at_once() {
    let mut network = network(&[100], 100, 100);
    network.start(download(0, 1), FAST, 0, SimTime::from_secs(1));
    let complete = network.advance(SimTime::from_secs(1));
    assert_eq!(complete, [(SimTime::from_secs(1), download(0, 1))]);
}

#[test]
fn a_layer_that_the_node_downloads_is_not_started_again() {
    let mut network = network(&[100], 100, 100);
    network.start(download(0, 1), FAST, 100, SimTime::ZERO);
    network.start(download(0, 1), SLOW, 900, SimTime::ZERO);
    assert_eq!(network.len(), 1);
    assert_eq!(network.next_completion(), Some(SimTime::from_secs(1)));
}

#[test]
fn a_thousand_nodes_share_a_registry() {
    let mut network = network(&[1_000_000; 1_000], 100_000_000, 1);
    for node in 0..1_000 {
        network.start(download(node, 1), FAST, 1_000_000, SimTime::ZERO);
    }
    let complete = network.advance(SimTime::from_secs(60));
    assert_eq!(complete.len(), 1_000);
    assert!(complete.iter().all(|(at, _)| *at == SimTime::from_secs(10)));
}

/// Start of a download: milliseconds, node, layer, whether from the slow registry, bytes.
type Start = (u64, u32, u8, bool, u64);

fn starts() -> impl Strategy<Value = Vec<Start>> {
    let one = (0..5_u64, 0..4_u32, 0..6_u8, any::<bool>(), 0..100_000_u64);
    proptest::collection::vec(one, 1..30)
}

/// Runs downloads to their end. Of several starts of the same layer on a node the first counts.
fn run(mut starts: Vec<Start>) -> Vec<(SimTime, Download)> {
    starts.sort_by_key(|(at, ..)| *at);
    let mut network = network(&[10_000, 20_000, 5_000, 1_000], 15_000, 3_000);
    let mut complete = Vec::new();
    for (at, node, layer, slow, bytes) in starts {
        let now = SimTime::from_millis(at);
        complete.extend(network.advance(now));
        let registry = if slow { SLOW } else { FAST };
        network.start(download(node, layer), registry, bytes, now);
    }
    complete.extend(network.advance(SimTime::from_secs(100_000)));
    assert!(network.is_empty());
    complete
}

proptest! {
    #[test]
    fn each_download_is_complete_and_not_before_its_link_allows(starts in starts()) {
        let complete = run(starts.clone());
        let distinct: BTreeSet<Download> = complete.iter().map(|(_, download)| *download).collect();
        let expected: BTreeSet<Download> =
            starts.iter().map(|(_, node, layer, ..)| download(*node, *layer)).collect();
        prop_assert_eq!(&distinct, &expected);
        prop_assert!(complete.windows(2).all(|pair| pair[0].0 <= pair[1].0));
        let total: u64 = starts.iter().map(|start| start.4).sum();
        let last = complete.last().map_or(0, |(at, _)| at.as_micros());
        // All links together carry 36,000 bytes per second.
        prop_assert!(distinct.len() < starts.len() || last >= total * 1_000_000 / 36_000);
    }

    #[test]
    fn completions_do_not_depend_on_the_order_of_simultaneous_starts(
        starts in starts(), keys in proptest::collection::vec(any::<u32>(), 30)
    ) {
        // One start for each download, so that the order decides nothing else.
        let mut seen = BTreeSet::new();
        let starts: Vec<Start> = starts.into_iter().filter(|s| seen.insert((s.1, s.2))).collect();
        let mut shuffled: Vec<(u32, Start)> = keys.into_iter().zip(starts.clone()).collect();
        shuffled.sort_by_key(|(key, _)| *key);
        prop_assert_eq!(run(starts), run(shuffled.into_iter().map(|(_, start)| start).collect()));
    }
}
